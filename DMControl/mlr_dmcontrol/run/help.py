"""The text of `--help`, read from the YAML files, so that it cannot go out of date."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .command import Layout

_OPTIONS = (
    ("-m", "one job for each combination of comma-separated values (seed=1,2,3)"),
    ("--print-config", "show the resolved configuration and stop"),
    ("--help", "this text"),
)
_ENTRY = re.compile(r"^(?P<key>\w+): *(?P<value>[^#]*?) *(?:# *(?P<note>.*))?$")
_MLR_KEYS = ("mask_ratio", "patch_size", "cube_depth", "sequence_length", "mlr_weight")


def help_text(layout: Layout, subjects: Sequence[str]) -> str:
    """The keys with fixed names, their defaults and meaning, and what each group offers.

    Args:
        subjects: the tasks or games to name.
    """
    subject = layout.subject
    train = (layout.directory / "train.yaml").read_text(encoding="utf-8")
    lines = [
        f"python train.py {subject}=<name> [agent=<name>] [preset=<name>] [<key>=<value> …]",
        "",
        *_section("Options", list(_OPTIONS)),
        *_section("Run", [(f"{key}={value}", note) for key, value, note in _entries(train)]),
        *_section("Method", _method_keys(layout)),
    ]
    for group in layout.groups:
        if group != subject:
            options = [
                (name, _first_comment(layout.directory / group / f"{name}.yaml"))
                for name in layout.options(group)
            ]
            lines += _section(f"{group}=", options)
    lines += [f"{subject}=", *_wrapped(", ".join(subjects)), ""]
    lines.append("All keys and values of a run: add --print-config. Their meaning: configs/.")
    return "\n".join(lines)


def _section(title: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return [title, *(f"  {name:<{width}}  {note}".rstrip() for name, note in rows), ""]


def _entries(text: str) -> list[tuple[str, str, str]]:
    """`(key, default, comment)` of the top-level scalars of a YAML file."""
    matches = (_ENTRY.match(line) for line in text.splitlines())
    return [(m["key"], m["value"], m["note"] or "") for m in matches if m and m["value"]]


def _method_keys(layout: Layout) -> list[tuple[str, str]]:
    """The keys of the method that have fixed names, as `mlr` or what it builds on has them."""
    entries: dict[str, str] = {}
    for path in sorted((layout.directory / "agent").glob("*.yaml")):
        for key, _, note in _entries(path.read_text(encoding="utf-8")):
            if path.stem == "mlr" or not entries.get(key):
                entries[key] = note
    return [(f"agent.{key}=", entries.get(key, "")) for key in _MLR_KEYS]


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = (line[1:].strip() for line in lines if line.startswith("#"))
    return next((line for line in comments if not line.startswith("@package")), "")


def _wrapped(text: str, width: int = 96) -> list[str]:
    words, lines = text.split(" "), [" "]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > width:
            lines.append(" ")
        lines[-1] += f" {word}"
    return lines
