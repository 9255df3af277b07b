"""What a run says of its objective's health (the same file in both trees)."""

from __future__ import annotations

import io
from pathlib import Path

import torch

import train

NAMES = ("loss/x", "x/projection_std", "x/effective_rank", "x/cosine_similarity")


def test_a_collapse_is_announced_when_it_begins(tmp_path: Path) -> None:
    console = train.Console(100, "steps", stream=io.StringIO())
    progress, metrics = train.Progress(), train.LastMetrics(["loss/x"], torch.device("cpu"))
    tables = train.records.tables(NAMES)
    with (
        train.RunFolder(tmp_path / "run", {"seed": 1}) as folder,
        train.RunLogger(folder.path, tables) as logger,
        console,
    ):
        logger.open()
        books = train.Bookkeeper(folder, logger, console, progress, metrics, "")

        def said(spread: float, rank: float) -> list[str]:
            """Warnings at a row with these values."""
            before = len(console._stream.getvalue())
            progress.step(0.0, 1)
            books.log({NAMES[1]: spread, NAMES[2]: rank, NAMES[3]: 0.0})
            lines = console._stream.getvalue()[before:].splitlines()
            return [line.partition(" fell")[0] for line in lines if "collapse" in line]

        assert said(0.9, 12.0) == []
        assert said(0.004, 12.0) == [f"warning: {NAMES[1]}"]
        assert said(0.004, 1.2) == [f"warning: {NAMES[2]}"]
        assert said(0.004, 1.2) == []
        assert said(0.9, 12.0) == []
        assert len(said(0.0, 1.0)) == 2
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "x/projection_std fell to 0.004: the latents collapse" in log
