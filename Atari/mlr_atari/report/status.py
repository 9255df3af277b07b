"""How far a sweep is: which runs are done, running, stopped, failed or missing."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import protocol
from ..errors import ConfigError
from . import fairness
from .runs import Run, find, read

STATES = ("done", "running", "preempted", "failed", "lost", "unfit", "unreadable", "missing")
"""`lost`: recorded as running, but its process is gone. `unfit`: finished without a valid score."""


@dataclass(frozen=True)
class Entry:
    """State of one run, with what is worth knowing about it."""

    name: str
    state: str
    step: int
    budget: int
    detail: str


def survey(paths: Sequence[Path], expect: str = "") -> list[Entry]:
    """Every run below `paths`, then those of the sweep `expect` that are not there.

    Args:
        expect: `task=a,b agent=mlr,sac seed=1,2` (Atari: `game=`); `all` names the benchmark's.
    """
    entries = []
    names = set()
    for folder in find(path for path in paths if path.is_dir()):
        try:
            run = read(folder)
        except ConfigError as error:
            # A run that cannot be read is a line of the survey, not its end.
            entries.append(Entry(str(folder), "unreadable", 0, 0, str(error)))
            continue
        names.add(run.name)
        entries.append(_entry(run, folder))
    missing = [name for name in expected(expect) if name not in names]
    return entries + [Entry(name, "missing", 0, 0, "no run folder") for name in missing]


def expected(sweep: str) -> list[str]:
    """Names of the runs of a sweep, `<task>/<agent>[-tag]/seed_<n>`.

    Raises:
        ConfigError: other keys than task (or game), agent and seed, or one of them missing.
    """
    if not sweep:
        return []
    keys = (protocol.TASK_KEY, "agent", "seed")
    given = dict(word.partition("=")[::2] for word in sweep.split())
    if set(given) != set(keys):
        form = " ".join(f"{key}=…,…" for key in keys)
        raise ConfigError(f"expect={sweep}: not understood; write {form}")
    tasks = given[protocol.TASK_KEY].split(",")
    names = (
        protocol.TASKS if tasks == ["all"] else [protocol.canonical_task(task) for task in tasks]
    )
    product = itertools.product(names, given["agent"].split(","), given["seed"].split(","))
    return [f"{task}/{agent}/seed_{seed}" for task, agent, seed in product]


def report(entries: Sequence[Entry]) -> str:
    """The survey as text: a line for every run, then the counts."""
    width = max((len(entry.name) for entry in entries), default=0)
    lines = []
    for entry in sorted(entries, key=lambda entry: (STATES.index(entry.state), entry.name)):
        progress = f"{entry.step:>9,} / {entry.budget:,}" if entry.budget else ""
        line = f"{entry.state:<10} {entry.name:<{width}}  {progress:<20}  {entry.detail}"
        lines.append(line.rstrip())
    counts = Counter(entry.state for entry in entries)
    total = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return "\n".join([*lines, f"{len(entries)} runs: {total or 'none found'}"])


def complete(entries: Sequence[Entry]) -> bool:
    """Whether there are runs and all of them are done."""
    return bool(entries) and all(entry.state == "done" for entry in entries)


def _entry(run: Run, folder: Path) -> Entry:
    step = run.curve[-1].step if run.curve else 0
    state, detail = _state(run, folder)
    return Entry(run.name, state, step, run.setting.budget, detail)


def _state(run: Run, folder: Path) -> tuple[str, str]:
    if run.status == "finished":
        reasons = fairness.unfit(run)
        return ("unfit", "; ".join(reasons)) if reasons else ("done", _score(run))
    if run.status != "running":
        return run.status, run.error
    host, process = run.process
    if host == socket.gethostname() and process and not _alive(process):
        return "lost", f"process {process} is gone; the same command resumes"
    minutes = (time.time() - _last_written(folder)) / 60
    return "running", f"on {host or 'unknown host'}, last wrote {minutes:.0f} min ago"


def _score(run: Run) -> str:
    if run.final is None:
        return ""
    return f"{protocol.VALUE_NAME} {run.final.mean:.1f} over {len(run.values)} episodes"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _last_written(folder: Path) -> float:
    names = ("run.json", "train.csv", "eval.csv", "log.txt")
    return max((folder / name).stat().st_mtime for name in names if (folder / name).exists())
