"""The doctor finds what would make a run fail, each time on a machine that really lacks it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[1]
HIDDEN = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID")
NO_EGL = {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere.json"}  # libEGL then finds no driver


def doctor(*words: str, **settings: str) -> tuple[int, list[str]]:
    """Exit code and output of the doctor of a small run, in such an environment."""
    clean = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    command = [sys.executable, "doctor.py", "preset=smoke", *words]
    done = subprocess.run(command, env=clean | settings, cwd=TREE, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def line(lines: list[str], state: str, name: str) -> str:
    """The line of a check, with the remedy below it; it must be in this state."""
    (number,) = (i for i, line in enumerate(lines) if line.split()[:2] == [state, name])
    return " ".join(lines[number : number + 2])


def test_without_a_gpu_it_works_and_says_how_fast() -> None:
    code, lines = doctor(CUDA_VISIBLE_DEVICES="")
    assert code == 0, lines
    assert "->" in line(lines, "note", "device")
    assert "software" in line(lines, "note", "renderer")
    assert "agent steps a second" in line(lines, "ok", "simulator")
    assert "preset=smoke" in line(lines, "ok", "time")


def test_no_opengl_library(tmp_path: Path) -> None:
    for number in (6, 8):  # found before the real library, and not one
        (tmp_path / f"libOSMesa.so.{number}").touch()
    code, lines = doctor(LD_LIBRARY_PATH=str(tmp_path), **NO_EGL)
    assert code == 1
    assert "apt-get install libegl1" in line(lines, "wrong", "renderer")


def test_a_wrong_version_of_mujoco(tmp_path: Path) -> None:
    metadata = tmp_path / "mujoco-4.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: mujoco\nVersion: 4.0.0\n")
    code, lines = doctor(PYTHONPATH=str(tmp_path))
    assert code == 1
    assert "3.17.0" in line(lines, "wrong", "mujoco")


@pytest.mark.parametrize(
    "word, name",
    [
        ("resume=must", "folder"),
        ("runs_dir=/dev/null", "folder"),
        ("scale.batch_size=10000000", "memory"),
    ],
)
def test_what_training_would_refuse(word: str, name: str) -> None:
    code, lines = doctor(word, CUDA_VISIBLE_DEVICES="")
    assert code == 1 and line(lines, "wrong", name)
