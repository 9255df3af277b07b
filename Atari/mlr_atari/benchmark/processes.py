"""Several runs at once on one device: what each of them, and all together, achieve."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError, RunError
from .measure import NAMES, Row

_SCRIPT = Path(__file__).parents[2] / "benchmark.py"


def rows(counts: str, overrides: Sequence[str], updates: int) -> list[Row]:
    """A row for each number of processes: the sum of their updates per second, their memory.

    They start together, and are timed after each has warmed up by itself.

    Args: `counts`: whole numbers with commas between.

    Raises:
        ConfigError: `counts` is not that. RunError: one of the processes failed.
    """
    if not all(count.isdigit() and int(count) > 0 for count in counts.split(",")):
        raise ConfigError(f"--processes={counts}: write numbers with commas, such as 2,4,8")
    return [_together(int(count), overrides, updates) for count in counts.split(",")]


def _together(count: int, overrides: Sequence[str], updates: int) -> Row:
    command = [sys.executable, str(_SCRIPT), *overrides, "--updates", str(updates), "--json"]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    answers = [process.communicate() for process in started]
    for process, (_, errors) in zip(started, answers, strict=True):
        if process.returncode:
            raise RunError(f"one of {count} processes failed: {errors.strip().splitlines()[-1]}")
    measured: list[Row] = [json.loads(output)[0] for output, _ in answers]
    return {name: measured[0][name] for name in NAMES} | {
        "processes": count,
        "updates_per_second": sum(row["updates_per_second"] for row in measured),
        "slowest_updates_per_second": min(row["updates_per_second"] for row in measured),
        "peak_memory": sum(row["peak_memory"] for row in measured),
    }
