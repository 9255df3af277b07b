"""Is everything that a checkpoint holds needed, and noticed if it were missing?

    PYTHONPATH=. python tests/completeness.py [BEGINNING...]     prints a Markdown table; minutes

Each item of the saved state in turn is left as a new process begins with it, while all others are
restored; what the run then leaves behind must differ from the uninterrupted run, or the restoring
must be refused. Runs are resumed from two moments: in the middle of an episode, one step before a
row of train.csv, and after the final evaluation.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import small_run
import torch
from whole_runs import differences, folder, left, new_folder, newest, train, uninterrupted

CONSTANT = "the item is the same in a new run"
_MODULES = ("networks", "network", "target", "objective")  # keys of `agent` that hold weights


@dataclass(frozen=True)
class Row:
    """An item and what betrays its absence; empty if nothing does."""

    item: str
    noticed: str


def items(saved: Mapping[str, Any]) -> Iterator[str]:
    """Paths of the parts, and of the items in each, as `driver.py` understands them."""
    for part, state in saved.items():
        yield part
        for key, value in state.items():
            name = f"{part}|{key}"
            if part == "agent" and key in _MODULES and value is not None:
                heads = dict.fromkeys(_head(each) for each in value)
                yield from (f"{name}|{head}" for head in heads)
            elif part == "agent" and isinstance(value, Mapping):
                yield from (f"{name}|{below}" for below in _below(value))
            elif isinstance(value, Mapping) and part != "metrics":
                yield from (f"{name}|{below}" for below in value)
            else:
                yield name
    yield "frames"


def _head(name: str) -> str:
    """The module that a tensor belongs to."""
    first, dot, _ = name.partition(".")
    return first + dot


def _below(optimizer: Mapping[str, Any]) -> Iterator[str]:
    """Step counts and both moments of an optimiser, each for all parameters together."""
    for key, value in optimizer.items():
        if key == "moments":
            yield from (f"moments|*|{kind}" for kind in value[0])
        elif key == "state":
            yield from (f"state|*|{kind}" for kind in next(iter(value.values())))
        else:
            yield key


def stopped(signal: str, **moment: int) -> Path:
    """`runs` of a run that ended by `signal` there."""
    runs = new_folder()
    ended = train(runs, signal=signal, **moment)
    assert ended.code != 0, ended.output
    return runs


def rows(beginnings: Sequence[str] = ("",)) -> Iterator[Row]:
    """Leave out every item that begins with one of these, one after the other."""
    middle = stopped("SIGTERM", at_step=small_run.BEFORE_A_ROW - 1)
    end = stopped("SIGKILL", at_finish=1)
    for runs in (middle, end):
        assert not _betrayed(runs), "the run without a gap must be the same"
    for name in items(newest(middle).items):
        if name.startswith(tuple(beginnings)):
            yield Row(name, _noticed(name, middle, end))


def _noticed(item: str, middle: Path, end: Path) -> str:
    results = []
    for runs in (middle, end):
        found = _betrayed(runs, forget=[item])
        if found not in ("", CONSTANT):
            return found
        results.append(found)
    if "" in results:
        return ""
    # What is the same in every run is there to be compared.
    refusal = _betrayed(middle, lack=[item])
    return f"a constant; without it: {refusal}" if refusal not in ("", CONSTANT) else ""


def _betrayed(stopped_runs: Path, **gap: list[str]) -> str:
    """What differs when the stopped run is finished with a gap in its saved state."""
    runs = new_folder()
    shutil.copytree(folder(stopped_runs), folder(runs))
    try:
        ended = train(runs, **gap)
        if ended.code != 0:
            return ended.output.strip().splitlines()[-1].replace(str(folder(runs)), "")[:100]
        found = differences(left(runs), left(uninterrupted()))
        unlike = next(iter(dict.fromkeys(_short(each) for each in found)), "")
        return unlike or (CONSTANT if CONSTANT in ended.output else "")
    finally:
        shutil.rmtree(runs)


def _short(name: str) -> str:
    return "/".join(name.split("/")[1:4])


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("| left out | what then differs |\n| --- | --- |")
    for row in rows(sys.argv[1:] or [""]):
        cells = row.item, row.noticed or "nothing"
        print("| `{}` | {} |".format(*(each.replace("|", "/") for each in cells)), flush=True)
