"""The command line of benchmark.py, and what it measures for each request."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig

from ..errors import ConfigError
from ..parts import build_parts
from ..run import records
from . import checkpoints, measure, page, printed, processes, scaling
from .measure import Row
from .reference import require_plain_agent
from .table import RESULTS, append
from .workload import Workload

Load = Callable[[Sequence[str]], DictConfig]

_USAGE = "%(prog)s [options] [key=value ...]   (keys as for train.py; see train.py --help)"
_ABOUT = """Measure how fast updates and steps of training are on this machine.

By itself: time of an update (median and quartiles), of its parts, its arithmetic and memory, and
the share of what the machine's matrix products and copies allow. Nothing is trained or kept; the
replay holds random frames. Ask for one of --scaling, --processes, --checkpoints, --readme to
measure something else instead."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options, and the words for the configuration.

    Raises:
        ConfigError: an unknown option, a number that is too small, or options that exclude
            each other.
    """
    parser = _Parser(
        usage=_USAGE,
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--updates", type=int, default=10, metavar="N", help="timed updates, about (10)")
    add("--steps", type=int, default=0, metavar="N", help="also time N whole steps of training")
    add("--reference", action="store_true", help="compare with the same update computed plainly")
    add("--scaling", action="store_true", help="cost against each size: batch, images, ...")
    add("--processes", default="", metavar="N,...", help="N runs at once on the device, e.g. 2,4,8")
    add("--checkpoints", type=int, default=0, metavar="N",
        help="cost of a checkpoint, the least of N saves")  # fmt: skip
    add("--json", action="store_true", help="print JSON, with plain SI units, instead of lines")
    add("--save", action="store_true", help="append the numbers to results/benchmark/*.csv")
    add("--readme", action="store_true", help="make README.md's tables and figure anew from those")
    options, overrides = parser.parse_known_args(argv)
    _check(options, overrides)
    return options, overrides


def _check(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    unknown = [word for word in overrides if word.startswith("-")]
    if unknown:
        raise ConfigError(f"{unknown[0]}: no such option; see benchmark.py --help")
    for name in ("updates", "steps", "checkpoints"):
        least, value = int(name == "updates"), getattr(options, name)
        if value < least:
            raise ConfigError(f"--{name}={value}: must be {least} or more")
    kinds = ("scaling", "processes", "checkpoints", "readme")
    chosen = [f"--{name}" for name in kinds if getattr(options, name)]
    if len(chosen) > 1:
        raise ConfigError(f"{' '.join(chosen)}: ask for one at a time")
    for name in ("steps", "reference"):
        if chosen and getattr(options, name):
            raise ConfigError(f"{chosen[0]} --{name}: ask for one at a time")


def run(argv: Sequence[str], load: Load, folder: Path) -> None:
    """Measure what `argv` asks for, print it, and keep it if asked to.

    Args: `load`: reads a configuration. `folder`: of the tree, with its README.md.
    """
    options, overrides = parse(argv)
    if options.readme:
        page.refresh(folder)
        return
    if options.processes:
        kind, rows = "processes", processes.rows(options.processes, overrides, options.updates)
    elif options.checkpoints:
        kind, rows = "checkpoints", [checkpoints.row(load(overrides), options.checkpoints)]
    elif options.scaling:
        kind, rows = "scaling", scaling.rows(overrides, load, options.updates)
    else:
        kind = "updates"
        rows = [one(load(overrides), options.updates, options.steps, reference=options.reference)]
    command = shlex.join(["python", "benchmark.py", *argv])
    rows = [{"command": command, **row} for row in rows]
    if options.save:
        append(folder / RESULTS / f"{kind}.csv", rows)
    show(rows, as_json=options.json)


def one(cfg: DictConfig, updates: int, steps: int = 0, *, reference: bool = False) -> Row:
    """All numbers of one configuration."""
    device = records.prepare(cfg)
    with build_parts(cfg, device) as parts:
        if reference:
            require_plain_agent(parts.agent)
        workload = Workload(cfg, parts)
        blocks = -(-updates // workload.block)
        row = measure.described(workload) | measure.measure_updates(workload, blocks)
        row |= measure.replay_row(workload)
        if measure.mode_of(cfg) == "eager":
            row |= measure.measure_parts(workload, blocks)
        if reference:
            row |= measure.measure_reference(workload, blocks)
        if steps:  # last, because a step is one update and may end within a block
            row |= measure.measure_steps(workload, steps)
    return row


def show(rows: Sequence[Row], *, as_json: bool) -> None:
    """Print rows: as one JSON list, or as lines for people."""
    if as_json:
        json.dump(rows, sys.stdout, indent=1)
        print()
        return
    print("\n".join(printed.lines(rows)))
