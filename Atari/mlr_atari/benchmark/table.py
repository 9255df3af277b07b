"""Measurements as CSV files: rows are added, and a new column widens the file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..run.folder import write_atomically

RESULTS = Path("results") / "benchmark"  # in the tree
_WORDS = ("command", "commit", "hardware", "device", "torch", "preset", "agent", "precision")
_TEXT = {*_WORDS, "mode", "sweep"}  # columns that stay text even where they look like numbers


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `rows` behind those that are there, which keep what they have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = [*read(path), *rows]
    names = list(dict.fromkeys(name for row in whole for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_shown(row.get(name)) for name in names] for row in whole)
    write_atomically(path, text.getvalue())


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a file, oldest first; numbers are floats, and what is missing is left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: text if name in _TEXT else float(text) for name, text in row.items() if text}
            for row in csv.DictReader(file)
        ]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
