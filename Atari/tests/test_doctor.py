"""The doctor finds what would make a run fail, each time on a machine that really lacks it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[1]


def doctor(*words: str, **settings: str) -> tuple[int, str]:
    """Exit code and output of the doctor of a small run, in such an environment."""
    done = subprocess.run(
        [sys.executable, "doctor.py", "preset=smoke", *words],
        env=os.environ | settings,
        cwd=TREE,
        capture_output=True,
        text=True,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def line(text: str, state: str, name: str) -> str:
    """The line of a check, with the remedy below it; it must be in this state."""
    lines = text.splitlines()
    found = [number for number, each in enumerate(lines) if each.split()[:2] == [state, name]]
    assert len(found) == 1, text
    return " ".join(lines[found[0] : found[0] + 2])


def test_a_healthy_machine_without_a_gpu() -> None:
    code, text = doctor(CUDA_VISIBLE_DEVICES="")
    assert code == 0, text
    assert "no GPU" in line(text, "note", "device")
    assert "steps/s" in line(text, "ok", "emulator")
    assert "preset=smoke" in line(text, "ok", "time")
    assert text.splitlines()[-1] == "a run would work"


def test_a_missing_rom(tmp_path: Path) -> None:
    code, text = doctor(ALE_ROMS_DIR=str(tmp_path))
    assert code == 1
    found = line(text, "wrong", "ROMs")
    assert "pong" in found
    assert "unset ALE_ROMS_DIR" in found


def test_a_full_disk(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("may not mount a small disk")
    try:
        code, text = doctor(f"runs_dir={tmp_path}/runs")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert code == 1
    assert "runs_dir=" in line(text, "wrong", "disk")


def test_no_gpu_where_one_is_asked_for() -> None:
    code, text = doctor("device=cuda", CUDA_VISIBLE_DEVICES="")
    assert code == 1
    assert "device=cuda: no GPU found" in line(text, "wrong", "settings")
