"""A long run needs no more memory and files than a short one, and Python warns of nothing (R23)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import small_run
from whole_runs import train

STEPS, SETTLED = 1000, 400  # agent steps


@pytest.mark.soak
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_and_open_files_stay(tmp_path: Path) -> None:
    words = (*small_run.LONG, "checkpoint.every_steps=50", "logging.every=50")
    ended = train(tmp_path, *words, resources=True)
    assert ended.code == 0, ended.output
    lines = [line.split()[1:] for line in ended.output.splitlines() if line.startswith("resources")]
    seen = {int(step): (int(pages), int(files)) for step, pages, files in lines}
    assert len(seen) == STEPS
    (before, opened), (after, still) = seen[SETTLED], seen[STEPS - 1]
    assert after < 1.02 * before
    assert still == opened
    assert "Warning" not in ended.output  # Python's, PyTorch's
