"""A hundred updates on random frames give the losses that were once recorded.

    PYTHONPATH=. python tests/test_trace.py      records them anew; the commit says why

The same file in both trees.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from test_learner import make_learner, updated

RECORDED = Path(__file__).with_name("trace.csv")
UPDATES, EVERY = 100, 5
TOLERANCE = 1e-4  # relative: processors round differently


def trace() -> list[dict[str, float]]:
    """All metrics of every fifth update of MLR."""
    learner, rows = make_learner("mlr"), []
    for step in range(UPDATES):
        metrics = updated(learner, step)
        if (step + 1) % EVERY == 0:
            values = {name: float(value) for name, value in sorted(metrics.items())}
            rows.append({"update": step + 1, **values})
    return rows


def test_losses_are_those_that_were_recorded() -> None:
    with RECORDED.open(newline="", encoding="utf-8") as file:
        recorded = [
            {name: float(text) for name, text in row.items()} for row in csv.DictReader(file)
        ]
    now = trace()
    assert len(now) == len(recorded) == UPDATES // EVERY
    for row, before in zip(now, recorded, strict=True):
        assert row == pytest.approx(before, rel=TOLERANCE, abs=1e-6), f"update {row['update']}"


def record() -> None:
    """Write the file that the test compares with."""
    rows = trace()
    with RECORDED.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    record()
