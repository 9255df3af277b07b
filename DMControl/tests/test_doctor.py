"""The doctor finds what would make a run fail, each time on a machine that really lacks it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[1]
HIDDEN = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID")
NO_EGL = {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere.json"}  # libEGL then finds no driver


def doctor(*words: str, **settings: str) -> tuple[int, str]:
    """Exit code and output of the doctor of a small run, in such an environment."""
    clean = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    done = subprocess.run(
        [sys.executable, "doctor.py", "preset=smoke", *words],
        env=clean | settings,
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


def test_without_a_gpu_a_software_renderer_is_told() -> None:
    code, text = doctor(CUDA_VISIBLE_DEVICES="", MUJOCO_GL="osmesa")
    if "MUJOCO_GL=osmesa: does not work here" in text:
        pytest.skip("no libosmesa6")
    assert code == 0, text
    assert "no GPU" in line(text, "note", "device")
    assert "software" in line(text, "note", "renderer")
    assert "frames/s" in line(text, "ok", "simulator")
    assert "preset=smoke" in line(text, "ok", "time")
    assert text.splitlines()[-1] == "a run would work"


def test_no_opengl_library(tmp_path: Path) -> None:
    for number in (6, 8):  # found before the real library, and not one
        (tmp_path / f"libOSMesa.so.{number}").touch()
    code, text = doctor(LD_LIBRARY_PATH=str(tmp_path), **NO_EGL)
    assert code == 1
    assert "apt-get install libegl1" in line(text, "wrong", "renderer")
    assert text.splitlines()[-1] == "a run would fail: 1 wrong"


def test_a_wrong_version_of_mujoco(tmp_path: Path) -> None:
    metadata = tmp_path / "mujoco-4.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: mujoco\nVersion: 4.0.0\n")
    code, text = doctor(PYTHONPATH=str(tmp_path))
    assert code == 1
    found = line(text, "wrong", "mujoco")
    assert "4.0.0, but only 3.17.0 works" in found
    assert "pip install --force-reinstall --no-deps mujoco==3.17.0" in found


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
