"""Aggregates and intervals, against SciPy, brute force, and numbers with a known answer."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from mlr_atari.report import statistics
from mlr_atari.report.statistics import METRICS, interval


def random_scores(tasks: int, runs: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0.5 * t, 1.0 + t, runs) for t in range(tasks)]


def value(metric: str, scores: Sequence[np.ndarray]) -> float:
    return float(METRICS[metric](*scores))


@pytest.mark.parametrize("tasks", [1, 3, 7])
@pytest.mark.parametrize("runs", [1, 2, 3, 5, 10])
def test_metrics_equal_their_definitions(tasks: int, runs: int) -> None:
    scores = random_scores(tasks, runs)
    matrix = np.stack(scores, axis=1)
    assert value("iqm", scores) == pytest.approx(stats.trim_mean(matrix, 0.25, axis=None), abs=1e-9)
    assert value("mean", scores) == pytest.approx(np.mean(np.mean(matrix, axis=0)))
    assert value("median", scores) == pytest.approx(np.median(np.mean(matrix, axis=0)))
    gap = 1.0 - np.mean(np.minimum(matrix, 1.0))
    assert value("optimality_gap", scores) == pytest.approx(gap)


@pytest.mark.parametrize("metric", METRICS)
def test_tasks_weigh_the_same_whatever_their_number_of_runs(metric: str) -> None:
    rng = np.random.default_rng(3)
    few, many = rng.normal(0, 1, 2), rng.normal(1, 1, 6)
    repeated = [np.tile(few, 3), many]  # 12 runs: a quarter of them is a whole number
    assert value(metric, [few, many]) == pytest.approx(value(metric, repeated))


def test_few_runs_are_stretched_about_the_value() -> None:
    # All 27 redraws of three runs, by hand: percentiles of their means, then the stretch of ν = 2.
    runs = [1.0, 2.0, 4.0]
    means = [np.mean(redraw) for redraw in itertools.product(runs, repeat=3)]
    edges = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    stretch = stats.t.isf(0.025, 2) / stats.norm.isf(0.025) * (1 + 3 / 2) * np.sqrt(3 / 2)
    found = interval(statistics.mean, [runs])
    expected = np.mean(runs) + stretch * (edges - np.mean(runs))
    assert [found.low, found.high] == pytest.approx(expected)


def test_tasks_are_never_redrawn_and_one_run_leaves_no_interval() -> None:
    found = interval(statistics.iqm, [[0.0] * 4, [1.0] * 4])
    assert found.low == found.value == found.high == 0.5
    found = interval(statistics.mean, [[0.0, 2.0], [3.0]])
    assert found.value == 2.0
    assert np.isnan([found.low, found.high]).all()


def test_a_curve_has_an_interval_at_every_point() -> None:
    rng = np.random.default_rng(1)
    curves = [rng.normal(size=(3, 5)), rng.normal(size=(3, 2))]
    found = interval(statistics.iqm, curves)
    for point in range(3):
        alone = interval(statistics.iqm, [curve[point] for curve in curves])
        values = [found.value[point], found.low[point], found.high[point]]
        assert values == pytest.approx(list(alone))


def test_improvement_is_the_rank_statistic() -> None:
    x, y = random_scores(3, 6, seed=1), random_scores(3, 4, seed=2)
    pair = [*x, *y]
    found = interval(statistics.improvement, pair, (0.0, 1.0))
    expected = np.mean(
        [stats.mannwhitneyu(*both).statistic / 24 for both in zip(x, y, strict=True)]
    )
    assert found.value == pytest.approx(expected)
    assert statistics.improvement(*pair[3:], *pair[:3]) == pytest.approx(1 - found.value)
    assert statistics.improvement(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == 0.75


def test_welch_is_scipys_on_one_task_and_the_difference_of_means_on_several() -> None:
    x, y = random_scores(3, 6, seed=1), random_scores(3, 4, seed=2)
    found = statistics.welch([x[0]], [y[0]])
    known = stats.ttest_ind(x[0], y[0], equal_var=False, alternative="greater")
    assert (found.p, found.freedom) == pytest.approx((known.pvalue, known.df))
    both = stats.ttest_ind(x[0], y[0], equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((both.low, both.high))
    found = statistics.welch(x, y)
    assert found.value == pytest.approx(value("mean", x) - value("mean", y))
    # At the margin itself nothing is shown, and one run has no spread.
    assert statistics.welch([x[0]], [x[0] - 2.0], above=2.0).p == pytest.approx(0.5)
    assert np.isnan(statistics.welch([[1.0]], [[1.0, 2.0]]).p)


@pytest.mark.parametrize(("gain", "seeds"), [(0.5, 64), (0.8, 26), (1.0, 17), (2.0, 6)])
def test_seeds_for_80_percent_power_are_those_of_the_textbooks(gain: float, seeds: int) -> None:
    assert statistics.seeds_needed(gain, 1.0) == seeds  # Cohen 1988, table 2.4.1
    error, freedom = np.sqrt(2 / seeds), 2 * seeds - 2
    assert 0.8 <= statistics.power(gain, error, freedom, 0.025) < 0.88
    assert np.isnan([statistics.seeds_needed(0.0, 1.0), statistics.seeds_needed(0.01, 1.0)]).all()


@pytest.mark.parametrize("bad", [[], [[1.0], []], [[np.nan]], [[1.0, np.inf]]])
def test_what_cannot_be_averaged_is_an_error(bad: list[list[float]]) -> None:
    with pytest.raises(ValueError):
        interval(statistics.mean, bad)
