"""The published tables: complete, and consistent with each other as far as they can be checked."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from mlr_dmcontrol import protocol

PRINTED_IN_THE_PAPER = ("planet", "dreamer", "sac_ae", "slac", "curl", "drq", "playvirtual")
PRINTED_IN_THE_PAPER += ("mlr_baseline", "mlr")


@pytest.mark.parametrize("name", protocol.PUBLISHED_BENCHMARKS)
def test_every_method_has_every_task(name: str) -> None:
    scores = protocol.published_scores(name)
    assert set(protocol.PUBLISHED) <= set(scores)
    for method, tasks in scores.items():
        missing = set(protocol.TASKS) - set(tasks)
        expected = {"cartpole_swingup", "reacher_easy"} if method == "slac" else set()
        assert missing == expected, method
        assert all(0 <= mean <= 1000 for mean, _ in tasks.values())


@pytest.mark.parametrize("name", protocol.PUBLISHED_BENCHMARKS)
@pytest.mark.parametrize("metric", ["mean", "median"])
def test_printed_aggregates_follow_from_the_task_means(name: str, metric: str) -> None:
    with (protocol.PUBLISHED_FOLDER / "aggregates.csv").open(newline="") as file:
        printed = {
            row["method"]: float(row["value"])
            for row in csv.DictReader(file)
            if (row["benchmark"], row["metric"]) == (name, metric)
        }
    scores = protocol.published_scores(name)
    assert set(PRINTED_IN_THE_PAPER) <= set(printed)
    for method in PRINTED_IN_THE_PAPER:
        means = [mean for mean, _ in scores[method].values()]
        assert getattr(np, metric)(means) == pytest.approx(printed[method], abs=0.051), method


def test_the_papers_headline() -> None:
    mean, std = protocol.published_scores("dmcontrol100k")["mlr"]["cheetah_run"]
    assert (mean, std) == (482.0, 38.0)


def test_only_the_published_setting_is_compared() -> None:
    assert protocol.published_benchmark("dmcontrol", "paper", 100_000) == "dmcontrol100k"
    assert protocol.published_benchmark("dmcontrol", "paper", 500_000) == "dmcontrol500k"
    assert protocol.published_benchmark("dmcontrol", "paper", 50_000) is None
    assert protocol.published_benchmark("dmcontrol", "laptop", 100_000) is None
    assert protocol.published_benchmark(protocol.stamp(0), "paper", 100_000) == "dmcontrol100k"
    assert protocol.published_benchmark(protocol.stamp(2), "paper", 100_000) is None


def test_normalisation_is_the_share_of_the_largest_return() -> None:
    assert protocol.normalize("hopper_hop", 250.0) == 0.25
    assert math.isnan(protocol.normalize("hopper_hop", math.nan))
