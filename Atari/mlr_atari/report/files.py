"""Files of a run folder, which a stranger may have written: bounded and checked as they are read.

Nothing in them is run, expanded, or used as a path. What is damaged raises ConfigError in one line,
`<file>, line <n>: <what is wrong>`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError

# Larger than anything that a run writes: more is neither loaded, nor counted or averaged.
CONFIG_BYTES, BYTES, DEPTH, COUNT, SCORE = 100_000, 64_000_000, 20, 2**53, 1e100

_KINDS = {str: "a line of text", int: "a whole number, at least 0", list: "a list"}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML was built with it


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
            raise ConfigError(f"{self.path}: {key}={line(value)}; must be {_KINDS[kind]}")
        return value


def fields(path: Path) -> Fields:
    """All of a file that ends in `.json` or `.yaml`."""
    is_yaml = path.suffix == ".yaml"
    content = _content(path, CONFIG_BYTES if is_yaml else BYTES)
    try:
        found = _parse_yaml(content) if is_yaml else json.loads(content)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        number = mark.line + 1 if mark else getattr(error, "lineno", None)
        problem = getattr(error, "problem", None) or getattr(error, "msg", None) or error
        raise _damage(path, number, problem) from error
    if not isinstance(found, dict):
        raise _damage(path, None, "is not a mapping of names to values")
    return Fields(path, found)


def table(
    path: Path, columns: Mapping[str, Callable[[str], Any]], growing: bool = False
) -> list[dict[str, Any]]:
    """The named columns of a CSV file, each with what makes a value of a cell; [] without a file.

    Args:
        growing: a run is at work, whose last line may still be without its end; it is left out.
    """
    if not path.exists():
        return []
    content = _content(path, BYTES)
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
        raise _damage(path, max(reader.line_num, 1), error) from error
    return rows


def score(cell: str) -> float:
    """A number that can be averaged, NaN or an infinity. Raises ValueError."""
    if not is_number(value := float(cell)):
        raise ValueError(f"{line(cell)} is no score")
    return value


def count(cell: str) -> int:
    """A number of steps or episodes. Raises ValueError."""
    if not 0 <= (value := int(cell)) < COUNT:
        raise ValueError(f"{line(cell)} is no count")
    return value


def is_number(value: Any) -> bool:
    """Whether it is a score: NaN or an infinity too, but nothing beyond all bounds."""
    number = isinstance(value, float | int) and not isinstance(value, bool)
    return number and not SCORE <= abs(value) < math.inf


def line(value: Any) -> str:
    """A value as one printable line; a mapping as `key=value` pairs."""
    if isinstance(value, Mapping):
        return "; ".join(f"{line(key)}={line(value[key])}" for key in value)
    if isinstance(value, list):
        return " ".join(line(item) for item in value)
    words = " ".join(str(value).split())
    return "".join(sign if sign.isprintable() else "?" for sign in words)[:1000]


def _content(path: Path, most: int) -> str:
    if not path.is_file():  # a pipe would be waited for
        raise _damage(path, None, "must be a file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise _damage(path, None, f"larger than {most:,} bytes; a run's are far smaller")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise _damage(path, number, f"must be UTF-8 ({error.reason})") from error


def _parse_yaml(content: str) -> Any:
    # A few lines of aliases can stand for billions of values, and brackets are slow to close.
    depth = 0
    for event in yaml.parse(content, _LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH or isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="not of ours", problem_mark=event.start_mark)
    return yaml.load(content, _LOADER)  # noqa: S506, it is a safe one


def _damage(path: Path, number: int | None, problem: object) -> ConfigError:
    return ConfigError(f"{path}{f', line {number}' if number else ''}: {line(problem)}")
