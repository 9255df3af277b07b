"""Aggregates of few-run benchmarks (Agarwal et al. 2021, arXiv:2108.13264), and their intervals.

Scores are an array (..., runs) a task. Tasks weigh the same, whatever their number of runs, and are
never redrawn. Nothing here drops a NaN: it raises, and the caller decides.

Intervals are percentiles of the stratified bootstrap (runs are redrawn with replacement inside each
task), stretched about the value because runs are few (after Hesterberg 2015, arXiv:1411.5279):

    stretch = t / z · (1 + 3 / ν) · √(Σ v / Σ v (n − 1) / n),   ν = (Σ v)² / Σ v² / (n − 1)

where n are a task's runs and v is its part of the metric's variance, by the jackknife. The root
undoes that redraws of n runs spread by (n − 1) / n of what runs do; t, with Welch and
Satterthwaite's ν, against the normal z pays for a spread that is itself an estimate, and 1 + 3 / ν
for heavy tails: 3 is the smallest whole number with which single games are covered. Of n drawn from
100 published runs of each of 26 Atari games (95 % is meant; the worst game, private_eye of SPR,
.37 .41 .55, since no interval knows of scores that no run has shown):

    n = 3, 5, 10      single games       mean of 26      IQM of 26       without 1 + 3 / ν
    SPR             .94 .94 .94      .98 .97 .96    .98 .96 .95    .87 .89 .91 (single)
    DrQ(ε)          .95 .95 .95      .97 .98 .95    .98 .97 .95    .89 .90 .91
    CURL            .96 .96 .96      .98 .98 .95    .98 .96 .95    .90 .90 .92

The price is width: 2.5 times at 3 seeds, 1.75 at 5, 1.33 at 10. Welch's, of differences, does
without, since both sides have tails: .92 to .94 of single games, SPR less DrQ(ε) or CURL.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95
TAIL = (1.0 - CONFIDENCE) / 2.0
REPETITIONS = 2000
BATCH = 500  # redraws that are in memory at once
TRIM = 0.25  # share of the runs cut from each end by the interquartile mean
TARGET = 1.0  # normalised score at which the optimality gap is closed: human, or return 1000
HEAVY = 3.0  # what heavy tails add to an interval's width, times the degrees of freedom

Metric = Callable[..., np.ndarray]
"""From an array (..., runs) for each of T tasks to (...)."""


class Interval(NamedTuple):
    """A value, or an array of them, with its 95 % interval; NaN where a task has a single run."""

    value: Any
    low: Any
    high: Any


def mean(*tasks: np.ndarray) -> np.ndarray:
    """Mean of the task means."""
    return np.mean([runs.mean(-1) for runs in tasks], axis=0)


def median(*tasks: np.ndarray) -> np.ndarray:
    """Median of the task means."""
    return np.median([runs.mean(-1) for runs in tasks], axis=0)


def optimality_gap(*tasks: np.ndarray) -> np.ndarray:
    """Mean shortfall from the target score, nothing gained above it."""
    return TARGET - mean(*(np.minimum(runs, TARGET) for runs in tasks))


def iqm(*tasks: np.ndarray) -> np.ndarray:
    """Interquartile mean over runs and tasks together.

    A quarter of the runs, rounded down, is cut from each end; where tasks differ in their number
    of runs, a quarter of the weight.
    """
    scores = np.concatenate(tasks, axis=-1)
    counts = np.asarray([runs.shape[-1] for runs in tasks])
    total = counts.sum()
    cut = int(TRIM * total) / total if len(set(counts)) == 1 else TRIM
    order = np.argsort(scores, axis=-1, kind="stable")
    weights = np.repeat(1.0 / (counts * len(counts)), counts)[order]
    upper = np.cumsum(weights, axis=-1)
    kept = np.minimum(upper, 1.0 - cut) - np.maximum(upper - weights, cut)
    kept = np.maximum(kept, 0.0)
    return (np.take_along_axis(scores, order, axis=-1) * kept).sum(-1) / kept.sum(-1)


METRICS: dict[str, Metric] = {
    metric.__name__: metric for metric in (iqm, median, mean, optimality_gap)
}


def improvement(*tasks: np.ndarray) -> np.ndarray:
    """P(a run of X is above one of Y), ties half; X is the first half of `tasks`, Y the second."""
    half = len(tasks) // 2
    pairs = zip(tasks[:half], tasks[half:], strict=True)
    signs = [np.sign(x[..., :, None] - y[..., None, :]).mean((-2, -1)) for x, y in pairs]
    return 0.5 + 0.5 * np.mean(signs, axis=0)


def interval(
    metric: Metric, scores: Iterable[ArrayLike], limits: tuple[float, float] = (-np.inf, np.inf)
) -> Interval:
    """`metric` of the runs, with its 95 % interval (see the module's text).

    Args:
        scores: (..., runs) of each task. Axes before the last are points of a curve, whose runs are
            redrawn whole: the k-th redraw is the same for all.
        limits: no value lies outside them, so that the interval need not.

    Raises: ValueError: no task, a task without runs, or a score that is not finite.
    """
    samples = [np.asarray(runs, np.float64) for runs in scores]
    if not samples or not all(runs.size and np.isfinite(runs).all() for runs in samples):
        raise ValueError(f"must be finite scores, at least one of a task: {samples}")
    value = metric(*samples)[()]  # a number, not an array without axes
    if min(runs.shape[-1] for runs in samples) == 1:
        unknown = np.full_like(value, np.nan)[()]
        return Interval(value, unknown, unknown)
    bounds = stats.bootstrap(
        samples,
        lambda *redrawn, axis: metric(*redrawn),
        n_resamples=REPETITIONS,
        batch=BATCH,
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    stretch = _stretch(metric, samples)
    low, high = (np.clip(value + stretch * (bound - value), *limits) for bound in bounds)
    return Interval(value, low, high)


def _stretch(metric: Metric, samples: Sequence[np.ndarray]) -> np.ndarray:
    """By how much a percentile interval is too narrow, (...)."""
    counts = np.asarray([runs.shape[-1] for runs in samples])
    spread = []  # of the metric, by leaving each run of a task out
    for task, count in enumerate(counts):
        left = [
            np.broadcast_to(runs[..., None, :], (*runs.shape[:-1], count, runs.shape[-1]))
            for runs in samples
        ]
        left[task] = np.stack([np.delete(samples[task], run, -1) for run in range(count)], -2)
        # Where nothing varies all tasks count the same; there is no width to be stretched.
        spread.append((count - 1) * metric(*left).var(-1) + 1e-30)
    parts = np.stack(spread, -1)
    shares = parts / parts.sum(-1, keepdims=True)
    freedom = 1.0 / (shares**2 / (counts - 1)).sum(-1)
    few = stats.t.isf(TAIL, freedom) / stats.norm.isf(TAIL) * (1.0 + HEAVY / freedom)
    return np.asarray(few / np.sqrt((shares * (counts - 1) / counts).sum(-1)))


# --- two methods, and how many seeds they need --------------------------------------------------


class Welch(NamedTuple):
    """Difference of two means with its 95 % interval; all but `value` NaN where a task has one run.

    `error` and `freedom` are its standard error and degrees of freedom, `p` is one-sided.
    """

    value: float
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    error: float = np.nan
    freedom: float = np.nan


def welch(x: Sequence[ArrayLike], y: Sequence[ArrayLike], above: float = 0.0) -> Welch:
    """Mean of the task means of X less that of Y, by Welch's t; p is of "not more than `above`"."""
    samples = [np.asarray(runs, np.float64) for runs in (*x, *y)]
    counts = np.asarray([len(runs) for runs in samples])
    value = float(mean(*samples[: len(x)]) - mean(*samples[len(x) :]))
    if counts.min() == 1:
        return Welch(value)
    parts = np.asarray([np.var(runs, ddof=1) for runs in samples]) / counts / len(x) ** 2 + 1e-30
    error, freedom = np.sqrt(parts.sum()), parts.sum() ** 2 / (parts**2 / (counts - 1)).sum()
    half = stats.t.isf(TAIL, freedom) * error
    p = stats.t.sf((value - above) / error, freedom)
    return Welch(value, value - half, value + half, *map(float, (p, error, freedom)))


def power(gain: ArrayLike, error: ArrayLike, freedom: ArrayLike, p: float) -> Any:
    """Chance that a `gain` that is there gives a one-sided p below `p`."""
    shift = np.minimum(np.divide(gain, error), 30.0)  # more is certain, and beyond the library
    return stats.nct.sf(stats.t.isf(p, freedom), freedom, shift)


def seeds_needed(gain: float, std: float, chance: float = 0.8, most: int = 1000) -> float:
    """Seeds of each method to see a `gain` between two of this spread, two-sided at 95 %.

    NaN where more than `most` are not enough, or there is no gain to be seen.
    """
    seeds = np.arange(2, most + 1)
    enough = power(gain, max(std, 1e-30) * np.sqrt(2.0 / seeds), 2 * (seeds - 1), TAIL) >= chance
    return float(seeds[enough][0]) if enough.any() else np.nan
