"""What runs will cost, as text for `plan=true` and the doctor."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GIGA = 1e9


@dataclass(frozen=True)
class Estimate:
    """Cost of one run: hours, bytes of memory (of the GPU, if one trains) and of disk."""

    hours: float
    memory: float
    disk: float
    basis: str  # what the hours were worked out from


def plan_text(
    rows: Sequence[tuple[str, str, Estimate]], runs_dir: Path, refused: Sequence[str]
) -> str:
    """One line for each run, then the sums of what is left to do.

    Args:
        rows: name, state and cost of each run.
        runs_dir: where they are kept; need not exist.
        refused: what cannot be run, and why.
    """
    width = max(len(name) for name, _, _ in rows)
    lines = [
        f"{state:<9} {name:<{width}}  {hours_text(cost.hours):>8}  "
        f"{cost.memory / GIGA:5.1f} GB memory  {cost.disk / GIGA:5.1f} GB disk"
        for name, state, cost in rows
    ]
    todo = [cost for _, state, cost in rows if state in ("waiting", "resumes")]
    counts = Counter(state for _, state, _ in rows)
    lines += [f"refused: {each}" for each in refused]
    lines.append(f"{len(rows)} runs: {', '.join(f'{n} {state}' for state, n in counts.items())}")
    if todo:
        free = free_disk(runs_dir)
        disk = sum(cost.disk for cost in todo)
        lines.append(
            f"to do: {hours_text(sum(cost.hours for cost in todo))} one after another, at most "
            f"{max(cost.memory for cost in todo) / GIGA:.1f} GB memory a run, "
            f"{disk / GIGA:.1f} GB disk of {free / GIGA:.1f} GB free"
            + ("" if disk < free else ": NOT ENOUGH")
        )
        lines.append(f"hours from {todo[0].basis}; a run that resumes is counted whole")
    return "\n".join(lines)


def hours_text(hours: float) -> str:
    """`35 min`, `4.2 h` or `3.1 days`."""
    if hours < 1:
        return f"{max(1, round(hours * 60))} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def free_disk(folder: Path) -> float:
    """Bytes free where `folder` is, or will be."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return float(shutil.disk_usage(folder).free)
