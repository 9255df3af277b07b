"""A run that was stopped between two checkpoints, for tests to go on with (both trees)."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

from small_run import LEARNING_STARTS
from whole_runs import assert_same, new_folder, steps, train, uninterrupted

EVERY = 5  # agent steps between checkpoints here
SAVING = f"checkpoint.every_steps={EVERY}"
STOPPED = LEARNING_STARTS + 18  # where it is


@cache
def stopped_once() -> Path:
    """`runs` of a run that was stopped between two checkpoints."""
    runs = new_folder()
    ended = train(runs, SAVING, signal="SIGTERM", at_step=STOPPED - 1)
    assert ended.code == 75, ended.output
    assert steps(runs) == [STOPPED - STOPPED % EVERY, STOPPED]
    return runs


def stopped_copy(runs: Path) -> Path:
    """A copy of it in `runs`, a folder that is there."""
    shutil.copytree(stopped_once(), runs, dirs_exist_ok=True)
    return runs


def finish(runs: Path, *more: str) -> None:
    """Go on to the end, which is that of a run that nothing disturbed."""
    ended = train(runs, *more)
    assert ended.code == 0, ended.output
    assert_same(runs, uninterrupted())
