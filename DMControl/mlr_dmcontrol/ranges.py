"""Settings dataclasses that carry their own rules.

A part's settings are a frozen dataclass without defaults (defaults live in YAML). Its fields say
which values make sense, and `check` turns a violation into one line for the user::

    @dataclass(frozen=True, kw_only=True)  # kw_only: plain fields may follow in any order
    class Settings:
        mask_ratio: float = bounded(0, 1)
        precision: str = choice("fp32", "tf32", "bf16")
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ConfigError

_RULE = "rule"
_TYPE_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


@dataclasses.dataclass(frozen=True)
class _Bounds:
    low: float | None
    high: float | None
    above: float | None
    below: float | None

    def problem(self, value: Any) -> str | None:
        inside = (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        return None if inside else f"must {self}"

    def __str__(self) -> str:
        left = f"[{self.low}" if self.low is not None else f"({self.above}"
        right = f"{self.high}]" if self.high is not None else f"{self.below})"
        if self.high is None and self.below is None:
            at_least = f"at least {self.low}" if self.low is not None else f"above {self.above}"
            return f"be {at_least}"
        if self.low is None and self.above is None:
            at_most = f"at most {self.high}" if self.high is not None else f"below {self.below}"
            return f"be {at_most}"
        return f"lie in {left}, {right}"


@dataclasses.dataclass(frozen=True)
class _Choice:
    values: tuple[Any, ...]

    def problem(self, value: Any) -> str | None:
        if value in self.values:
            return None
        words = [str(each) for each in self.values]
        close = difflib.get_close_matches(str(value), words, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"must be one of {', '.join(words)}{hint}"


def bounded(
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A number, or a list of numbers, in `[low, high]`; `above` and `below` exclude the end."""
    if (low is not None and above is not None) or (high is not None and below is not None):
        raise TypeError("an end of the range is either inclusive or exclusive")
    return dataclasses.field(metadata={_RULE: _Bounds(low, high, above, below)})


def choice(*values: Any) -> Any:
    """One of `values`."""
    return dataclasses.field(metadata={_RULE: _Choice(values)})


def check(settings_type: type, values: Mapping[str, Any], prefix: str) -> None:
    """Check the fields of `settings_type` in `values`, which may hold keys of others too.

    Args:
        settings_type: a dataclass; every field must be present, of its type, and in its range.
        prefix: what the user writes before the key, such as `agent`; empty for none.

    Raises:
        ConfigError: naming the first key that is missing or wrong, its value and the remedy.
    """
    hints = typing.get_type_hints(settings_type)
    for field in dataclasses.fields(settings_type):
        key = f"{prefix}.{field.name}" if prefix else field.name
        if field.name not in values:
            raise ConfigError(f"{key}: missing; it needs a value in the YAML")
        value = values[field.name]
        problem = _problem(value, hints[field.name], field.metadata.get(_RULE))
        if problem is not None:
            raise ConfigError(f"{key}={_shown(value)}: {problem}")


def _problem(value: Any, expected: Any, rule: _Bounds | _Choice | None) -> str | None:
    """What is wrong with `value`, or None."""
    arguments = typing.get_args(expected)
    if typing.get_origin(expected) in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (expected,) = (each for each in arguments if each is not type(None))
        return _problem(value, expected, rule)
    if typing.get_origin(expected) in (tuple, list):
        return _sequence_problem(value, arguments, rule)
    if not _has_type(value, expected):
        return f"must be {_TYPE_WORDS.get(expected, getattr(expected, '__name__', expected))}"
    if isinstance(value, float) and not math.isfinite(value):
        return "must be finite"
    return rule.problem(value) if rule is not None else None


def _sequence_problem(
    value: Any, arguments: tuple[Any, ...], rule: _Bounds | _Choice | None
) -> str | None:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return "must be a list"
    open_ended = len(arguments) == 1 or arguments[1:] == (...,)
    expected = [arguments[0]] * len(value) if open_ended else list(arguments)
    if len(value) != len(expected):
        return f"must have {len(expected)} entries"
    problems = (_problem(each, kind, rule) for each, kind in zip(value, expected, strict=True))
    return next((f"each entry {problem}" for problem in problems if problem), None)


def _has_type(value: Any, expected: Any) -> bool:
    if expected is Any:
        return True
    if expected is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, expected)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
