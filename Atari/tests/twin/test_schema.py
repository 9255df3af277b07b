"""Every key of the configuration: wrong values, missing and unknown ones (both trees)."""

from __future__ import annotations

import copy
import dataclasses
import re
import typing
from typing import Any

import config_cases as cases
import pytest


def _sections() -> list[tuple[str, type]]:
    mlr = cases.OBJECTIVES["mlr"]
    own = [("", cases.schema.RunSettings), ("agent", cases.AgentSettings), ("agent", mlr)]
    return [*own, *cases.config.SECTIONS.items()]


def _wrong(field: dataclasses.Field, kind: Any) -> list[Any]:
    """Values of a wrong type, and just out of range."""
    many = typing.get_origin(kind) is tuple
    each = typing.get_args(kind)[0] if many else kind
    values: list[Any] = [3] if each is str else ["word"]
    rule = field.metadata.get("rule")
    if hasattr(rule, "values"):
        values.append("no such choice")
    elif rule is not None:
        ends = (rule.low, -1), (rule.high, 1), (rule.above, 0), (rule.below, 0)
        values += [end + step for end, step in ends if end is not None]
    return [*([value] for value in values), 3, "word"] if many else values


def _wrong_values() -> list[tuple[str, str, Any]]:
    found = []
    for section, kind in _sections():
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            found += [(section, field.name, value) for value in _wrong(field, hints[field.name])]
    return found


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    """A correct configuration, as it is when it is checked."""
    cfg = cases.command.compose_overrides([], cases.config.LAYOUT)
    return dict(cases.command.as_plain(cfg))


def _checked(values: dict[str, Any]) -> None:
    cases.config.check_values(values)


def _at(values: dict[str, Any], section: str) -> dict[str, Any]:
    return values[section] if section else values


@pytest.mark.parametrize("section, key, value", _wrong_values())
def test_each_key_refuses_wrong_values(
    good: dict[str, Any], section: str, key: str, value: Any
) -> None:
    _checked(good)
    bad = copy.deepcopy(good)
    _at(bad, section)[key] = value
    name = f"{section}.{key}" if section else key
    with pytest.raises(cases.ConfigError, match=rf"^{re.escape(name)}=.*: (each entry )?must "):
        _checked(bad)


def test_each_section_refuses_unknown_and_missing_keys(good: dict[str, Any]) -> None:
    for section, kind in _sections():
        bad = copy.deepcopy(good)
        _at(bad, section)["unheard_of"] = 3
        with pytest.raises(cases.ConfigError, match=r"unheard_of=3: unknown key; "):
            _checked(bad)
        for field in dataclasses.fields(kind):
            bad = copy.deepcopy(good)
            del _at(bad, section)[field.name]
            with pytest.raises(cases.ConfigError, match=rf"{field.name}: missing"):
                _checked(bad)
