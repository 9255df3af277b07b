"""Markdown that programs write: tables, and the blocks of README.md that are theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .errors import ConfigError


def table(header: Sequence[str], lines: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """A table without a line break at its end.

    Args: `numbers`: all columns but the first are aligned to the right.
    """
    rule = ["---", *["---:" if numbers else "---"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines))


def markers(name: str) -> tuple[str, str]:
    """The comments before and after block `name`."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def replaced(text: str, name: str, block: str) -> str:
    """README.md's `text` with `block` between the markers of block `name`.

    Raises:
        ConfigError: they are not there, once each and in order.
    """
    first, last = markers(name)
    head, begin, rest = text.partition(first)
    _, end, tail = rest.partition(last)
    if not begin or not end or first in tail or last in tail:
        raise ConfigError(f"README.md: needs one {first} and, below it, one {last}")
    return f"{head}{first}\n{block}\n{last}{tail}"
