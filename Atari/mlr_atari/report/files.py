"""Files of a run folder, which a stranger may have written: bounded and checked as they are read.

Nothing in them is run, expanded, or used as a path. What is damaged raises ConfigError in one line,
`<file>, line <n>: <what is wrong>`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..run.files import damage, one_line, read_mapping, read_text

# Larger than anything that a run writes: more is neither counted nor averaged.
COUNT, SCORE = 2**53, 1e100

_KINDS = {str: "a line of text", int: "a whole number, at least 0", list: "a list"}


@dataclass(frozen=True)
class Fields:
    """Names and values of a JSON or YAML file."""

    path: Path
    content: Mapping[str, Any]

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a dotted key: a short `str`, an `int` that counts something, or a `list`."""
        value: Any = self.content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        value = default if value is None else value
        good = isinstance(value, kind) and not isinstance(value, bool)
        if good and kind is int:
            good = 0 <= value < COUNT
        if good and kind is str:
            good = value.isprintable() and len(value) <= 100
        if not good:
            raise ConfigError(f"{self.path}: {key}={one_line(value)}; must be {_KINDS[kind]}")
        return value


def fields(path: Path) -> Fields:
    """All of a file that ends in `.json` or `.yaml`."""
    return Fields(path, read_mapping(path))


def table(
    path: Path, columns: Mapping[str, Callable[[str], Any]], growing: bool = False
) -> list[dict[str, Any]]:
    """The named columns of a CSV file, each with what makes a value of a cell; [] without a file.

    Args:
        growing: a run is at work, whose last line may still be without its end; it is left out.
    """
    if not path.exists():
        return []
    content = read_text(path)
    if growing:
        content = content[: content.rfind("\n") + 1]
    rows: list[dict[str, Any]] = []
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        header = next(reader, [])
        if missing := [name for name in columns if name not in header]:
            raise ValueError(f"no column {', '.join(missing)}")
        for cells in reader:
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} cells; must be {len(header)}")
            named = dict(zip(header, cells, strict=True))
            rows.append({name: convert(named[name]) for name, convert in columns.items()})
        if not content.endswith("\n"):
            raise ValueError("is cut: it has no end")
    except (ValueError, csv.Error) as error:
        raise damage(path, max(reader.line_num, 1), error) from error
    return rows


def score(cell: str) -> float:
    """A number that can be averaged, NaN or an infinity. Raises ValueError."""
    if not is_number(value := float(cell)):
        raise ValueError(f"{one_line(cell)} is no score")
    return value


def count(cell: str) -> int:
    """A number of steps or episodes. Raises ValueError."""
    if not 0 <= (value := int(cell)) < COUNT:
        raise ValueError(f"{one_line(cell)} is no count")
    return value


def is_number(value: Any) -> bool:
    """Whether it is a score: NaN or an infinity too, but nothing beyond all bounds."""
    number = isinstance(value, float | int) and not isinstance(value, bool)
    return number and not SCORE <= abs(value) < math.inf
