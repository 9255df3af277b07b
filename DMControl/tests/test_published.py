"""The published tables: complete, and consistent with each other as far as they can be checked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mlr_dmcontrol import protocol


@pytest.mark.parametrize("name", protocol.PUBLISHED_BENCHMARKS)
def test_every_method_has_every_task_and_printed_aggregates_follow_from_them(name: str) -> None:
    scores = protocol.published_scores(name)
    assert set(protocol.PUBLISHED) <= set(scores)
    for method, tasks in scores.items():
        expected = {"cartpole_swingup", "reacher_easy"} if method == "slac" else set()
        assert set(protocol.TASKS) - set(tasks) == expected, method
        assert all(0 <= mean <= 1000 for mean, _ in tasks.values())
    table = pd.read_csv(protocol.PUBLISHED_FOLDER / "aggregates.csv")
    printed = table[table["benchmark"] == name].pivot(index="method", columns="metric")["value"]
    for method in protocol.PUBLISHED:
        means = [mean for mean, _ in scores[method].values()]
        for metric in ("mean", "median"):
            value = getattr(np, metric)(means)
            assert value == pytest.approx(printed.loc[method, metric], abs=0.051), method


def test_only_the_published_setting_is_compared() -> None:
    assert protocol.published_benchmark(protocol.stamp(0), "paper", 100_000) == "dmcontrol100k"
    assert protocol.published_benchmark("dmcontrol", "paper", 500_000) == "dmcontrol500k"
    assert protocol.published_benchmark("dmcontrol", "paper", 50_000) is None
    assert protocol.published_benchmark("dmcontrol", "laptop", 100_000) is None
    assert protocol.published_benchmark(protocol.stamp(2), "paper", 100_000) is None


def test_scores_are_as_in_the_paper_and_normalised_by_the_largest_return() -> None:
    assert protocol.published_scores("dmcontrol100k")["mlr"]["cheetah_run"] == (482.0, 38.0)
    assert protocol.normalize("hopper_hop", 250.0) == 0.25
