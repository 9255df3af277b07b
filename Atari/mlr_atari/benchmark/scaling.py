"""Cost of an update against one size at a time, and of a draw against the replay's length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omegaconf import DictConfig

from ..parts import build_parts
from ..run import records
from . import measure
from .measure import Row
from .sizes import REPLAY_LENGTHS, sizes
from .timing import time_calls
from .workload import Workload

_DRAWS = 30


def rows(
    overrides: Sequence[str], load: Callable[[Sequence[str]], DictConfig], updates: int
) -> list[Row]:
    """A row for each size: `sweep` is what varies, `value` how large it is.

    Args: `overrides`: all other sizes. `load`: reads a configuration.
    """
    measured = [
        {"sweep": name, "value": value} | _update(load([*overrides, *changes]), updates)
        for name, points in sizes(load(overrides)).items()
        for value, changes in points
    ]
    for length in REPLAY_LENGTHS:
        cfg = load([*overrides, f"budget={length * _steps_per_transition(load(overrides))}"])
        measured.append({"sweep": "replay length", "value": length} | _draw(cfg, length))
    return measured


def _update(cfg: DictConfig, updates: int) -> Row:
    with build_parts(cfg, records.prepare(cfg)) as parts:
        workload = Workload(cfg, parts)
        blocks = -(-updates // workload.block)
        return measure.described(workload) | measure.measure_updates(workload, blocks)


def _draw(cfg: DictConfig, length: int) -> Row:
    """Drawing a batch from a replay of `length` transitions, and reading its observations."""
    with build_parts(cfg, records.prepare(cfg)) as parts:
        workload = Workload(cfg, parts)
        workload.fill(length)
        workload.sample()
        seconds = time_calls(workload.sample, _DRAWS, workload.device)
        return measure.described(workload) | {
            "seconds_per_update": seconds.median,
            "seconds_low": seconds.low,
            "seconds_high": seconds.high,
        }


def _steps_per_transition(cfg: DictConfig) -> int:
    """By how much a budget is larger than the number of transitions."""
    return int(cfg.environment.get("action_repeat", 1))
