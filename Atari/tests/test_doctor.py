"""The doctor finds what would make a run fail, each time on a machine that really lacks it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[1]


def doctor(*words: str, **settings: str) -> tuple[int, list[str]]:
    """Exit code and output of the doctor of a small run, in such an environment."""
    command, env = [sys.executable, "doctor.py", "preset=smoke", *words], os.environ | settings
    done = subprocess.run(command, env=env, cwd=TREE, capture_output=True, text=True)
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
    assert line(lines, "ok", "ROMs")
    assert "agent steps a second" in line(lines, "ok", "simulator")
    assert "preset=smoke" in line(lines, "ok", "time")


def test_a_missing_rom(tmp_path: Path) -> None:
    code, lines = doctor(ALE_ROMS_DIR=str(tmp_path))
    assert code == 1
    text = line(lines, "wrong", "ROMs")
    assert "pong" in text
    assert "ALE_ROMS_DIR" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("game=combat", "choose another game"),
        ("game=odd_environments:Odd-v0 environment.kwargs.fault=constant", "the same picture"),
    ],
)
def test_a_game_that_cannot_be_played(words: str, said: str) -> None:
    code, lines = doctor(*words.split(), PYTHONPATH=str(TREE / "tests" / "twin"))
    assert code == 1
    assert said in line(lines, "wrong", "simulator")
    assert "pip install" not in line(lines, "wrong", "simulator")


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
