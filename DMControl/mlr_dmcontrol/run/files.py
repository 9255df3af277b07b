"""Text that a stranger may have written, such as a run folder's: bounded and checked when read.

Nothing in it is run, expanded, or used as a path. What is damaged raises ConfigError in one line,
`<file>, line <n>: <what is wrong>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError

# More than anything of ours holds.
YAML_BYTES, BYTES, DEPTH, SCALAR, COUNT = 100_000, 64_000_000, 20, 3_000, 2**53

_KINDS = {str: "a line of text", int: "a whole number, at least 0", list: "a list"}

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML was built with it


@dataclass(frozen=True)
class Fields:
    """Names and values of a file."""

    path: Path
    content: Mapping[str, Any]

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a dotted key: a short `str`, an `int` that counts something, or a `list`."""
        value: Any = self.content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        value = default if value is None else value
        good = isinstance(value, kind) and not isinstance(value, bool)
        if isinstance(value, int):
            good = good and 0 <= value < COUNT
        if isinstance(value, str):
            good = good and value.isprintable() and len(value) <= 100
        if not good:
            raise damage(self.path, None, f"{key}={one_line(value)}; must be {_KINDS[kind]}")
        return value


def fields(path: Path) -> Fields:
    """What `read_mapping` gives of a file, with its path for what is wrong in it."""
    return Fields(path, read_mapping(path))


def read_text(path: Path, most: int = BYTES) -> str:
    """All of a UTF-8 file of at most so many bytes, a byte order mark apart.

    Raises:
        ConfigError: it is larger, no file, or not text. OSError: it cannot be read.
    """
    if not path.is_file():  # a pipe would be waited for
        raise damage(path, None, "must be a file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise damage(path, None, f"larger than {most:,} bytes; ours are far smaller")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise damage(path, number, f"must be UTF-8 ({error.reason})") from error
    if "\0" in text:
        raise damage(path, text.count("\n", 0, text.index("\0")) + 1, "holds a null byte")
    return text


def read_mapping(path: Path) -> dict[str, Any]:
    """Names and values of a file that ends in `.json`, `.yaml` or `.yml`.

    Raises:
        ConfigError: it is damaged. OSError: it cannot be read.
    """
    is_yaml = path.suffix in (".yaml", ".yml")
    text = read_text(path, YAML_BYTES if is_yaml else BYTES)
    try:
        content = _parse_yaml(text) if is_yaml else json.loads(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        number = mark.line + 1 if mark else getattr(error, "lineno", None)
        problem = getattr(error, "problem", None) or getattr(error, "msg", None) or error
        raise damage(path, number, problem) from error
    if not isinstance(content, dict):
        raise damage(path, None, "is not a mapping of names to values")
    return content


def damage(path: Path, number: int | None, problem: object) -> ConfigError:
    """What is wrong with a file, at a line where it is known."""
    return ConfigError(f"{path}{f', line {number}' if number else ''}: {one_line(problem)}")


def one_line(value: Any) -> str:
    """A value as one printable line; a mapping as `key=value` pairs."""
    if isinstance(value, Mapping):
        return "; ".join(f"{one_line(key)}={one_line(value[key])}" for key in value)
    if isinstance(value, list):
        return " ".join(map(one_line, value))
    words = " ".join(str(value).split())
    return "".join(sign if sign.isprintable() else "?" for sign in words)[:1000]


def _parse_yaml(text: str) -> Any:
    # A few lines of aliases can stand for billions of values; brackets are slow to close, and a
    # number of many hexadecimal digits cannot be printed.
    depth = 0
    for event in yaml.parse(text, _LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        long = isinstance(event, yaml.ScalarEvent) and len(event.value) > SCALAR
        if depth > DEPTH or long or isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="not of ours", problem_mark=event.start_mark)
    return yaml.load(text, _LOADER)  # noqa: S506, it is a safe one
