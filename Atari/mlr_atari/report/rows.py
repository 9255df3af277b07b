"""Every number of a report, as rows: written to CSV, drawn and tabulated exactly as they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .. import protocol
from . import published, statistics
from .statistics import METRICS, Floats, Interval
from .study import Study, normalize

BOOTSTRAP_SEED = 0
"""Every interval draws from a generator of its own with this seed, so no figure moves another."""
OURS, PUBLISHED = "ours", "published"
CURVE_METRICS = ("iqm", "mean")
"""Aggregates drawn against steps."""


@dataclass(frozen=True)
class AggregateRow:
    """An aggregate over tasks on the normalised scale, with its 95 % interval."""

    method: str
    source: str
    metric: str
    value: float
    low: float
    high: float
    tasks: int
    runs_per_task: str
    note: str


def aggregate_rows(study: Study, shown: Sequence[str]) -> list[AggregateRow]:
    """Ours, then the published methods in `shown` over the same tasks."""
    rows = []
    for method in study.methods if study.common else ():
        scores = study.normalized(method)
        runs = _counts(scores.values())
        for metric, function in METRICS.items():
            found = statistics.interval(function, scores, _rng())
            note = "one run per task: no interval" if math.isnan(found.low) else ""
            values = (found.value, found.low, found.high)
            rows.append(AggregateRow(method, OURS, metric, *values, len(scores), runs, note))
    if study.published is None:
        return rows
    over = study.common if study.groups else protocol.TASKS
    for method in shown:
        known = published.aggregates(study.published, method, over)
        for metric, it in known.items():
            values = (it.value, it.low, it.high)
            rows.append(
                AggregateRow(method, PUBLISHED, metric, *values, it.tasks, it.runs, it.note)
            )
    return rows


@dataclass(frozen=True)
class TaskRow:
    """Raw final score of a method on one task; `std` is over runs (n - 1)."""

    task: str
    method: str
    source: str
    mean: float
    std: float
    low: float
    high: float
    runs: str
    note: str


def task_rows(study: Study, shown: Sequence[str]) -> list[TaskRow]:
    """Every method on every task: mean over runs with its 95 % interval; published beside it."""
    rows = []
    for method in study.methods:
        for task in study.groups[method]:
            runs = study.scores(method, task)
            found = statistics.interval(statistics.mean, {task: runs}, _rng())
            alone = len(runs) == 1
            std = math.nan if alone else float(np.std(runs, ddof=1))
            values = (found.value, std, found.low, found.high)
            note = "one run: no interval" if alone else ""
            rows.append(TaskRow(task, method, OURS, *values, str(len(runs)), note))
    if study.published is None:
        return rows
    known = protocol.published_scores(study.published)
    for method in shown:
        for task in study.tasks or protocol.TASKS:
            if task in known.get(method, {}):
                mean, std = known[method][task]
                note = published.MEAN_ONLY if math.isnan(std) else "deviation, no interval"
                values = (mean, std, math.nan, math.nan)
                rows.append(TaskRow(task, method, PUBLISHED, *values, "", note))
    return rows


@dataclass(frozen=True)
class ScoreRow:
    """Final score of a single run of ours."""

    task: str
    method: str
    seed: int
    score: float
    normalized: float
    episodes: int


def score_rows(study: Study) -> list[ScoreRow]:
    """Every run behind the table of tasks."""
    return [
        ScoreRow(task, method, run.seed, run.final.mean, run.normalized, len(run.values))
        for method, tasks in study.groups.items()
        for task, runs in tasks.items()
        for run in runs
        if run.final is not None
    ]


@dataclass(frozen=True)
class CurveRow:
    """A point of a learning curve; `what` is a task (raw score) or an aggregate (normalised)."""

    what: str
    method: str
    step: int
    value: float
    low: float
    high: float
    runs: str


def task_curves(study: Study) -> list[CurveRow]:
    """Learning curve of every method on every task: mean over runs, unsmoothed."""
    rows = []
    for method, tasks in study.groups.items():
        for task, runs in tasks.items():
            steps, tables = _curves(study, method, [task])
            found = statistics.curve(statistics.mean, tables, _rng()) if steps else []
            rows += _points(task, method, str(len(runs)), steps, found)
    return rows


def aggregate_curves(study: Study) -> list[CurveRow]:
    """Sample efficiency: aggregates of the normalised scores over the common tasks."""
    rows = []
    for method in study.methods if study.common else ():
        steps, tables = _curves(study, method, study.common)
        scaled = {task: normalize(task, table) for task, table in tables.items()}
        for metric in CURVE_METRICS:
            found = statistics.curve(METRICS[metric], scaled, _rng()) if steps else []
            rows += _points(metric, method, _counts(scaled.values()), steps, found)
    return rows


def uneven_curves(study: Study) -> list[str]:
    """Where runs were evaluated at different steps, so that only the shared steps are drawn."""
    notes = []
    for method, tasks in study.groups.items():
        for task, runs in tasks.items():
            each = [{point.step for point in run.curve} for run in runs]
            steps, _ = _curves(study, method, [task])
            if len(steps) != len(set.union(*each)):
                total = len(set.union(*each))
                notes.append(f"{task}, {method}: {len(steps)} of {total} evaluations in the curve")
    return notes


@dataclass(frozen=True)
class ProfileRow:
    """Share of a method's runs with a normalised score above a threshold."""

    method: str
    threshold: float
    share: float
    low: float
    high: float


def profile_rows(study: Study, points: int = 101) -> list[ProfileRow]:
    """Performance profiles over `protocol.PROFILE_RANGE`."""
    rows = []
    thresholds = np.linspace(*protocol.PROFILE_RANGE, points)
    for method in study.methods if study.common else ():
        found = statistics.performance_profile(study.normalized(method), thresholds, _rng())
        for values in zip(thresholds, *found, strict=True):
            rows.append(ProfileRow(method, *(float(value) for value in values)))
    return rows


@dataclass(frozen=True)
class ImprovementRow:
    """Probability that a run of `method` beats a run of `other` on the same task."""

    method: str
    other: str
    probability: float
    low: float
    high: float
    tasks: int


def improvement_rows(study: Study) -> list[ImprovementRow]:
    """Every pair of methods once, the earlier in the benchmark's order as `method`."""
    rows = []
    for index, method in enumerate(study.methods if study.common else ()):
        for other in study.methods[index + 1 :]:
            found = statistics.probability_of_improvement(
                study.normalized(method), study.normalized(other), _rng()
            )
            values = (found.value, found.low, found.high)
            rows.append(ImprovementRow(method, other, *values, len(study.common)))
    return rows


_rng = partial(np.random.default_rng, BOOTSTRAP_SEED)


def _curves(study: Study, method: str, tasks: Sequence[str]) -> tuple[list[int], dict[str, Floats]]:
    """Steps at which every run has a finite mean, and these means as (runs, steps) per task."""
    found = {
        task: [
            {point.step: point.mean for point in run.curve if math.isfinite(point.mean)}
            for run in study.groups[method][task]
        ]
        for task in tasks
    }
    steps = sorted(set.intersection(*(set(run) for runs in found.values() for run in runs)))
    tables = {
        task: np.asarray([[run[step] for step in steps] for run in runs], np.float64)
        for task, runs in found.items()
    }
    return steps, tables


def _points(
    what: str, method: str, runs: str, steps: Sequence[int], found: Sequence[Interval]
) -> list[CurveRow]:
    return [
        CurveRow(what, method, step, each.value, each.low, each.high, runs)
        for step, each in zip(steps, found, strict=True)
    ]


def _counts(scores: Iterable[Floats]) -> str:
    counts = [len(runs) for runs in scores]
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
