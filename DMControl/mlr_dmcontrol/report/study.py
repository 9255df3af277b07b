"""One comparison: runs of one setting grouped by method and task, and what is published for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .. import protocol
from . import fairness, statistics
from .runs import Run, Setting
from .statistics import Floats


@dataclass(frozen=True)
class Study:
    """Runs that are compared with each other.

    Attributes:
        groups: runs with a valid final score, by method and task.
        setting: what they share; None for several settings or without runs.
        published: the published benchmark they may be compared with; None: no such comparison.
        reasons: why they should not be compared; not empty only where that was overruled.
    """

    groups: Mapping[str, Mapping[str, tuple[Run, ...]]]
    setting: Setting | None
    published: str | None
    reasons: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What is compared, in a line; says so where it should not be."""
        if self.reasons:
            return f"{protocol.NAME}: MIXED runs, not a fair comparison"
        return f"{protocol.NAME}, {self.setting or f'published numbers ({self.published})'}"

    @property
    def slug(self) -> str:
        """Name of the folder that its figures go to."""
        if self.reasons:
            return "mixed"
        return "-".join(map(str, self.setting)) if self.setting else f"published-{self.published}"

    @property
    def methods(self) -> tuple[str, ...]:
        """Our methods, in the benchmark's order."""
        return tuple(self.groups)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task that some method was run on."""
        found = {task for tasks in self.groups.values() for task in tasks}
        return tuple(sorted(found, key=lambda task: _place(task, protocol.TASKS)))

    @property
    def common(self) -> tuple[str, ...]:
        """Tasks of all methods that can be normalised: what aggregates are over."""
        return tuple(
            task
            for task in self.tasks
            if all(task in tasks for tasks in self.groups.values())
            and math.isfinite(protocol.normalize(task, 0.0))
        )

    def scores(self, method: str, task: str) -> Floats:
        """Raw final score of each run, shape (runs,)."""
        finals = [run.final.mean for run in self.groups[method][task] if run.final is not None]
        return np.asarray(finals, np.float64)

    def normalized(self, method: str) -> dict[str, Floats]:
        """Normalised final scores of a method's runs on the common tasks."""
        return {task: normalize(task, self.scores(method, task)) for task in self.common}

    def notes(self) -> list[str]:
        """What a reader must know before trusting the aggregates; empty when nothing."""
        notes = [f"should not be compared: {reason}" for reason in self.reasons]
        if not self.groups:
            return [*notes, "no finished runs of ours in this setting yet"]
        if not self.common:
            notes.append("no task that all methods share: no aggregates")
        else:
            notes += self._left_out()
            expected = protocol.TASKS if self.published else self.common
            for method in self.groups:
                found = statistics.caveats(self.normalized(method), expected)
                notes += [f"{method}: {each}" for each in found]
        seeds = {m: max(len(runs) for runs in tasks.values()) for m, tasks in self.groups.items()}
        if len(set(seeds.values())) > 1:
            counts = ", ".join(f"{method} {count}" for method, count in seeds.items())
            notes.append(f"methods differ in their number of seeds: {counts}")
        if self.published is None:
            notes.append("published numbers are not shown: they are for another setting")
        return notes

    def _left_out(self) -> list[str]:
        """Why tasks are not in the aggregates."""
        lines = []
        for task in (task for task in self.tasks if task not in self.common):
            lacking = [method for method, tasks in self.groups.items() if task not in tasks]
            reason = f"not run with {', '.join(lacking)}" if lacking else "no score to normalise by"
            lines.append(f"{task} is not in the aggregates: {reason}")
        return lines


def build(runs: Sequence[Run], mixed: bool = False) -> Study:
    """Group runs that have passed `fairness.check`, or with `mixed` all those that have a score.

    With `mixed`, runs of different settings become methods of their own and are never averaged.
    """
    fit = [run for run in runs if not fairness.unfit(run)]
    settings = {run.setting for run in fit}
    differing = [name for name in Setting._fields if len({getattr(s, name) for s in settings}) > 1]
    setting = next(iter(settings)) if len(settings) == 1 else None
    groups: dict[str, dict[str, tuple[Run, ...]]] = {}
    for run in sorted(fit, key=lambda run: (_place(run.task, protocol.TASKS), run.seed)):
        label = f"{run.method} ({run.setting.short(differing)})" if differing else run.method
        tasks = groups.setdefault(label, {})
        tasks[run.task] = (*tasks.get(run.task, ()), run)
    ordered = sorted(groups, key=lambda label: _place(label, protocol.METHODS))
    reasons = tuple(fairness.check(runs)) if mixed else ()
    comparable = setting is not None and not reasons
    name = protocol.published_benchmark(*setting) if setting and comparable else None
    return Study({label: groups[label] for label in ordered}, setting, name, reasons)


def shipped(runs: Sequence[Run], published: Sequence[str]) -> list[Study]:
    """A study for each setting, so that they never meet, and for published benchmarks without."""
    settings = sorted({run.setting for run in runs})
    studies = [build([run for run in runs if run.setting == setting]) for setting in settings]
    covered = {study.published for study in studies}
    empty = [Study({}, None, name) for name in published if name not in covered]
    return studies + empty


def normalize(task: str, raw: Floats) -> Floats:
    """Raw scores of a task on the normalised scale, any shape."""
    low, high = protocol.normalize(task, 0.0), protocol.normalize(task, 1.0)
    return np.asarray(low + (high - low) * raw)


def _place(name: str, order: Sequence[str]) -> tuple[int, str]:
    first = name.split(" ")[0]
    return (order.index(first) if first in order else len(order), name)
