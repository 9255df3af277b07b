"""Aggregate statistics of few-run benchmarks, as defined by Agarwal et al. 2021 (arXiv:2108.13264).

Scores are normalised run scores grouped by task, one number per run: `{task: [run, run, ...]}`.
With the same number of runs in every task all results equal those of the authors' package
`rliable`. With unequal numbers every task keeps the same total weight, whatever its number of runs.

Intervals are percentiles of a stratified bootstrap: runs are redrawn with replacement inside each
task, tasks are never redrawn. Nothing here drops a NaN: it raises, and the caller decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]

TRIM = 0.25
"""Share of the runs cut from each end by the interquartile mean."""
TARGET = 1.0
"""Normalised score at which the optimality gap is closed (human level, or return 1000)."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; `low` and `high` are NaN where single runs give none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Layout:
    """Which columns of a flat run axis belong to which task: `counts[t]` runs for `tasks[t]`."""

    tasks: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def starts(self) -> NDArray[np.int64]:
        """First column of each task, shape (T,)."""
        return np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.int64)

    @property
    def weights(self) -> Floats:
        """Weight of each run so that tasks weigh the same, shape (R,), sum 1."""
        counts = np.asarray(self.counts)
        return np.repeat(1.0 / (counts * len(counts)), counts)

    @property
    def single(self) -> bool:
        """Whether no task has more than one run, so that redrawing changes nothing."""
        return max(self.counts) == 1

    @property
    def balanced(self) -> bool:
        """Whether every task has the same number of runs."""
        return len(set(self.counts)) == 1

    def resample(self, rng: np.random.Generator, repetitions: int) -> NDArray[np.int64]:
        """Columns redrawn with replacement inside each task, shape (repetitions, R)."""
        counts = np.repeat(self.counts, self.counts)
        offsets = np.repeat(self.starts, self.counts)
        return offsets + rng.integers(0, counts, size=(repetitions, len(counts)))


Metric: TypeAlias = Callable[[Floats, Layout], Floats]
"""Reduces run scores (..., R) to (...)."""


def flatten(scores: Mapping[str, ArrayLike]) -> tuple[Floats, Layout]:
    """Run scores of all tasks in one row (R,), and where each task lies in it.

    Raises:
        ValueError: no task, a task without runs, or a score that is not finite.
    """
    columns = {task: np.atleast_1d(np.asarray(runs, np.float64)) for task, runs in scores.items()}
    if not columns:
        raise ValueError("no scores")
    for task, column in columns.items():
        if column.ndim != 1 or column.size == 0:
            raise ValueError(f"{task}: expected a list of run scores, got shape {column.shape}")
        if not np.isfinite(column).all():
            raise ValueError(f"{task}: score that is not a finite number in {column.tolist()}")
    layout = Layout(tuple(columns), tuple(column.size for column in columns.values()))
    return np.concatenate(list(columns.values())), layout


def task_means(values: Floats, layout: Layout) -> Floats:
    """Mean over the runs of each task: (..., R) -> (..., T)."""
    sums = np.add.reduceat(values, layout.starts, axis=-1)
    return np.asarray(sums / np.asarray(layout.counts))


def mean(values: Floats, layout: Layout) -> Floats:
    """Mean of the task means: (..., R) -> (...)."""
    return np.asarray(task_means(values, layout).mean(axis=-1))


def median(values: Floats, layout: Layout) -> Floats:
    """Median of the task means: (..., R) -> (...)."""
    return np.asarray(np.median(task_means(values, layout), axis=-1))


def iqm(values: Floats, layout: Layout) -> Floats:
    """Interquartile mean over runs and tasks together: (..., R) -> (...).

    Equals `scipy.stats.trim_mean(values, 0.25)` where tasks have the same number of runs: a quarter
    of all, rounded down, is cut from each end. Otherwise a quarter of the weight is.
    """
    runs = values.shape[-1]
    cut = int(TRIM * runs) / runs if layout.balanced else TRIM
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=-1)
    upper = np.cumsum(layout.weights[order], axis=-1)
    lower = upper - layout.weights[order]
    kept = np.maximum(np.minimum(upper, 1.0 - cut) - np.maximum(lower, cut), 0.0)
    return np.asarray((ordered * kept).sum(axis=-1) / kept.sum(axis=-1))


def optimality_gap(values: Floats, layout: Layout) -> Floats:
    """Mean shortfall from the target score, nothing gained above it: (..., R) -> (...)."""
    return np.asarray(TARGET - mean(np.minimum(values, TARGET), layout))


METRICS: dict[str, Metric] = {
    "iqm": iqm,
    "median": median,
    "mean": mean,
    "optimality_gap": optimality_gap,
}


def percentiles(draws: Floats, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Percentile interval over the first axis: (repetitions, ...) -> two of (...)."""
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def interval(
    metric: Metric,
    scores: Mapping[str, ArrayLike],
    rng: np.random.Generator,
    repetitions: int = 2000,
) -> Interval:
    """Point estimate with its 95 % stratified-bootstrap interval.

    With a single run in every task redrawing changes nothing, so there is no interval (NaN).
    """
    values, layout = flatten(scores)
    return _estimate(metric, values, layout, layout.resample(rng, repetitions))


def _estimate(metric: Metric, values: Floats, layout: Layout, drawn: NDArray[np.int64]) -> Interval:
    value = float(metric(values, layout))
    if layout.single:
        return Interval(value, float("nan"), float("nan"))
    low, high = percentiles(metric(values[drawn], layout))
    return Interval(value, float(low), float(high))


def curve(
    metric: Metric,
    scores: Mapping[str, ArrayLike],
    rng: np.random.Generator,
    repetitions: int = 2000,
) -> list[Interval]:
    """A metric at each of P points in training, from (runs, P) per task; runs are redrawn whole.

    Raises:
        ValueError: tasks that differ in their number of points, or a point that is not finite.
    """
    tables = {task: np.atleast_2d(np.asarray(runs, np.float64)) for task, runs in scores.items()}
    lengths = {table.shape[1] for table in tables.values()}
    if len(lengths) != 1:
        raise ValueError(f"curves of different length: {sorted(lengths)} points")
    result = []
    drawn = None
    for point in range(lengths.pop()):
        values, layout = flatten({task: table[:, point] for task, table in tables.items()})
        if drawn is None:
            drawn = layout.resample(rng, repetitions)
        result.append(_estimate(metric, values, layout, drawn))
    return result


def performance_profile(
    scores: Mapping[str, ArrayLike],
    thresholds: ArrayLike,
    rng: np.random.Generator,
    repetitions: int = 2000,
) -> tuple[Floats, Floats, Floats]:
    """Share of runs scoring above each threshold (run-score distribution), with pointwise interval.

    Returns:
        (value, low, high), each (len(thresholds),); low and high NaN with one run per task.
    """
    levels = np.asarray(thresholds, np.float64)
    values, layout = flatten(scores)
    above = (values[:, None] > levels) * layout.weights[:, None]  # (R, P)
    share = above.sum(axis=0)
    if layout.single:
        return share, np.full_like(share, np.nan), np.full_like(share, np.nan)
    # A redraw is how often each run was taken, so that all thresholds are one matrix product.
    drawn = layout.resample(rng, repetitions)
    taken = np.stack([np.bincount(row, minlength=len(values)) for row in drawn]).astype(np.float64)
    low, high = percentiles(taken @ above)
    return share, low, high


def probability_of_improvement(
    scores_x: Mapping[str, ArrayLike],
    scores_y: Mapping[str, ArrayLike],
    rng: np.random.Generator,
    repetitions: int = 2000,
) -> Interval:
    """P(a run of X beats a run of Y on the same task), ties counted half, averaged over tasks.

    Raises:
        ValueError: the two were not run on the same tasks.
    """
    if set(scores_x) != set(scores_y):
        raise ValueError(f"different tasks: {sorted(set(scores_x) ^ set(scores_y))}")
    tasks = sorted(scores_x)
    values = np.zeros(len(tasks))
    draws = np.zeros((repetitions, len(tasks)))
    runs = 1
    for index, task in enumerate(tasks):
        x, x_layout = flatten({task: scores_x[task]})
        y, y_layout = flatten({task: scores_y[task]})
        wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)  # (runs of x, runs of y)
        values[index] = wins.mean()
        rows, columns = (layout.resample(rng, repetitions) for layout in (x_layout, y_layout))
        for first in range(0, repetitions, 256):
            part = slice(first, first + 256)
            draws[part, index] = wins[rows[part, :, None], columns[part, None]].mean(axis=(1, 2))
        runs = max(runs, len(x), len(y))
    if runs == 1:
        return Interval(float(values.mean()), float("nan"), float("nan"))
    low, high = percentiles(draws.mean(axis=1))
    return Interval(float(values.mean()), float(low), float(high))


def caveats(scores: Mapping[str, ArrayLike], expected: Sequence[str] = ()) -> list[str]:
    """What a reader must know before trusting an aggregate of these scores; empty when nothing."""
    _, layout = flatten(scores)
    notes = []
    missing = [task for task in expected if task not in scores]
    if missing:
        notes.append(f"{len(missing)} of {len(expected)} tasks missing: {', '.join(missing)}")
    single = [task for task, n in zip(layout.tasks, layout.counts, strict=True) if n == 1]
    if len(single) == len(layout.tasks):
        notes.append("one run per task: no interval")
    elif single:
        notes.append(f"one run only, so the interval is too narrow: {', '.join(single)}")
    if not layout.balanced:
        low, high = min(layout.counts), max(layout.counts)
        notes.append(f"unequal runs per task ({low} to {high}); every task weighs the same")
    return notes
