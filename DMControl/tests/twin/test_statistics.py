"""Aggregates and intervals, against SciPy, brute force, and numbers with a known answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from mlr_dmcontrol.report import statistics
from mlr_dmcontrol.report.statistics import METRICS, flatten


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def random_scores(tasks: int, runs: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = generator(seed)
    return {f"task_{t}": rng.normal(0.5 * t, 1.0 + t, runs) for t in range(tasks)}


def value(metric: str, scores: dict[str, np.ndarray]) -> float:
    return float(METRICS[metric](*flatten(scores)))


@pytest.mark.parametrize("tasks", [1, 3, 7])
@pytest.mark.parametrize("runs", [1, 2, 3, 5, 10])
def test_metrics_equal_their_definitions(tasks: int, runs: int) -> None:
    scores = random_scores(tasks, runs)
    matrix = np.stack(list(scores.values()), axis=1)  # (runs, tasks), as rliable takes it
    assert value("iqm", scores) == pytest.approx(stats.trim_mean(matrix, 0.25, axis=None), abs=1e-9)
    assert value("mean", scores) == pytest.approx(np.mean(np.mean(matrix, axis=0)))
    assert value("median", scores) == pytest.approx(np.median(np.mean(matrix, axis=0)))
    gap = 1.0 - np.mean(np.minimum(matrix, 1.0))
    assert value("optimality_gap", scores) == pytest.approx(gap)


@pytest.mark.parametrize("metric", METRICS)
def test_tasks_weigh_the_same_whatever_their_number_of_runs(metric: str) -> None:
    rng = generator(3)
    few, many = rng.normal(0, 1, 2), rng.normal(1, 1, 6)
    repeated = {"a": np.tile(few, 3), "b": many}  # 12 runs: a quarter of them is a whole number
    assert value(metric, {"a": few, "b": many}) == pytest.approx(value(metric, repeated))


def test_pooling_unequal_runs_would_give_another_mean() -> None:
    scores = {"a": np.zeros(1), "b": np.ones(3)}
    assert value("mean", scores) == 0.5
    assert value("optimality_gap", scores) == 0.5


def test_metrics_work_on_a_leading_axis() -> None:
    values, layout = flatten(random_scores(3, 5))
    drawn = values[layout.resample(generator(), 20)]
    for metric in METRICS.values():
        assert metric(drawn, layout) == pytest.approx([float(metric(row, layout)) for row in drawn])


def test_resampling_stays_inside_each_task() -> None:
    _, layout = flatten({"a": [1.0, 2.0], "b": [3.0], "c": [4.0, 5.0, 6.0]})
    drawn = layout.resample(generator(), 500)
    allowed = [{0, 1}, {0, 1}, {2}, {3, 4, 5}, {3, 4, 5}, {3, 4, 5}]
    assert [set(column) for column in drawn.T.tolist()] == allowed


def test_interval_is_the_bootstrap_distributions_percentiles() -> None:
    # Two runs of one task: the mean of a redraw is 0, 0.5 or 1 with chances 1/4, 1/2, 1/4.
    scores = {"a": [0.0, 1.0]}
    found = statistics.interval(statistics.mean, scores, generator())
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    # All 27 redraws of three runs, by hand: the 2.5 and 97.5 percentiles of their means.
    runs = [1.0, 2.0, 4.0]
    means = [np.mean(each) for each in itertools.product(runs, repeat=3)]
    exact = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    found = statistics.interval(statistics.mean, {"a": runs}, generator(), 20_000)
    assert [found.low, found.high] == pytest.approx(exact)


def test_interval_agrees_with_theory_on_many_runs() -> None:
    scores = {"a": generator(1).normal(0, 1, 400), "b": generator(2).normal(0, 3, 400)}
    found = statistics.interval(statistics.mean, scores, generator())
    half = 1.96 * 0.5 * np.sqrt((1 + 9) / 400)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_constant_tasks_have_an_interval_without_width() -> None:
    # Tasks are never redrawn, so their difference adds nothing.
    found = statistics.interval(statistics.iqm, {"a": [0.0] * 4, "b": [1.0] * 4}, generator())
    assert found.low == found.value == found.high == 0.5


def test_one_run_per_task_has_no_interval() -> None:
    scores = {"a": [1.0], "b": [3.0]}
    found = statistics.interval(statistics.mean, scores, generator())
    assert found.value == 2.0
    assert np.isnan([found.low, found.high]).all()
    (point,) = statistics.curve(statistics.mean, {"a": [[1.0]]}, generator())
    assert np.isnan([point.low, point.high]).all()
    _, low, high = statistics.performance_profile(scores, [2.0], generator())
    assert np.isnan([*low, *high]).all()
    pair = statistics.probability_of_improvement(scores, scores, generator())
    assert np.isnan([pair.low, pair.high]).all()


def test_same_generator_same_interval() -> None:
    scores = random_scores(4, 5)
    first, again, other = (
        statistics.interval(statistics.iqm, scores, generator(seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_curve_is_an_interval_at_every_point() -> None:
    tables = {"a": generator(1).normal(size=(5, 3)), "b": generator(2).normal(size=(2, 3))}
    found = statistics.curve(statistics.iqm, tables, generator(7))
    for point in range(3):
        column = {task: table[:, point] for task, table in tables.items()}
        assert found[point] == statistics.interval(statistics.iqm, column, generator(7))


def test_performance_profile_counts_runs_above() -> None:
    scores = {"a": [0.1, 0.5, 0.9], "b": [0.5, 1.5, 2.0]}
    share, low, high = statistics.performance_profile(scores, [0.0, 0.5, 1.0, 2.0], generator())
    assert share == pytest.approx([1.0, 3 / 6, 2 / 6, 0.0])
    assert (low <= share + 1e-12).all()
    assert (share <= high + 1e-12).all()
    # Every point is the mean of an indicator, so it has the interval of that mean.
    above = {task: np.greater(runs, 0.5).astype(float) for task, runs in scores.items()}
    expected = statistics.interval(statistics.mean, above, generator())
    assert (low[1], high[1]) == pytest.approx((expected.low, expected.high))


def test_probability_of_improvement_is_the_rank_statistic() -> None:
    x, y = random_scores(3, 6, seed=1), random_scores(3, 4, seed=2)
    expected = np.mean([stats.mannwhitneyu(x[t], y[t]).statistic / 24 for t in x])
    found = statistics.probability_of_improvement(x, y, generator())
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    swapped = statistics.probability_of_improvement(y, x, generator())
    assert swapped.value == pytest.approx(1 - found.value)


def test_probability_of_improvement_counts_ties_half() -> None:
    found = statistics.probability_of_improvement({"a": [1.0, 1.0]}, {"a": [1.0, 0.0]}, generator())
    assert found.value == 0.75


def test_probability_of_improvement_needs_the_same_tasks() -> None:
    with pytest.raises(ValueError, match="different tasks"):
        statistics.probability_of_improvement({"a": [1.0]}, {"b": [1.0]}, generator())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_never_averaged(bad: float) -> None:
    with pytest.raises(ValueError, match="b: score that is not a finite number"):
        statistics.interval(statistics.mean, {"a": [1.0], "b": [1.0, bad]}, generator())
    with pytest.raises(ValueError, match="not a finite"):
        statistics.curve(statistics.mean, {"a": [[1.0, bad]]}, generator())


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ValueError, match="no scores"):
        flatten({})
    with pytest.raises(ValueError, match="a: expected a list"):
        flatten({"a": []})
    with pytest.raises(ValueError, match="different length"):
        statistics.curve(statistics.mean, {"a": [[1.0, 2.0]], "b": [[1.0]]}, generator())


def test_caveats_name_what_is_wrong_with_the_runs() -> None:
    good = {"a": [1.0, 2.0], "b": [1.0, 2.0]}
    assert statistics.caveats(good, ["a", "b"]) == []
    assert statistics.caveats(good, ["a", "b", "c"]) == ["1 of 3 tasks missing: c"]
    assert statistics.caveats({"a": [1.0], "b": [2.0]}) == ["one run per task: no interval"]
    notes = statistics.caveats({"a": [1.0], "b": [2.0, 3.0]})
    assert notes[0] == "one run only, so the interval is too narrow: a"
    assert notes[1].startswith("unequal runs per task (1 to 2)")
