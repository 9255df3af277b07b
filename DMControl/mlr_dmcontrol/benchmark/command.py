"""The command line of benchmark.py, and what it measures for each request."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from ..errors import ConfigError
from ..parts import build_parts
from ..run import records
from . import measure, page, processes, scaling
from .measure import Row
from .table import RESULTS, append
from .workload import Workload

Load = Callable[[Sequence[str]], DictConfig]

_USAGE = "%(prog)s [options] [key=value ...]   (keys as for train.py; see train.py --help)"


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options, and the words for the configuration.

    Raises:
        ConfigError: a number that is too small.
    """
    parser = argparse.ArgumentParser(usage=_USAGE, description=__doc__)
    parser.add_argument("--updates", type=int, default=10, help="timed updates, about")
    parser.add_argument("--steps", type=int, default=0, help="timed steps of training; 0: none")
    parser.add_argument("--reference", action="store_true", help="compare with the plain update")
    parser.add_argument("--scaling", action="store_true", help="cost against sizes, one by one")
    parser.add_argument("--processes", default="", help="runs at once on the device, e.g. 2,4,8")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--save", action="store_true", help="append to results/benchmark/*.csv")
    parser.add_argument("--readme", action="store_true", help="table and figure of README.md anew")
    options, overrides = parser.parse_known_args(argv)
    if options.updates < 1 or options.steps < 0:
        raise ConfigError("--updates, --steps: must be positive")
    return options, overrides


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
        workload = Workload(cfg, parts)
        blocks = -(-updates // workload.block)
        row = measure.described(workload) | measure.measure_updates(workload, blocks)
        row |= measure.replay_row(workload)
        if steps:
            row |= measure.measure_steps(workload, steps)
        if measure.mode_of(cfg) == "eager":
            row |= measure.measure_parts(workload, blocks)
        if reference:
            row |= measure.measure_reference(workload, blocks)
    return row


def show(rows: Sequence[Row], *, as_json: bool) -> None:
    """Print rows: as one JSON list, or as lines of name and value."""
    if as_json:
        json.dump(rows, sys.stdout, indent=1)
        print()
        return
    for row in rows:
        width = max(len(name) for name in row)
        for name, value in row.items():
            shown = f"{value:.4g}" if isinstance(value, float) else value
            print(f"{name:<{width}}  {shown}")
        print()
