"""The published tables, complete and consistent with each other; the policies that are shipped."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import evaluate
from mlr_dmcontrol import load_policy, protocol

POLICIES = sorted((protocol.PUBLISHED_FOLDER.parent / "policies").iterdir())


@pytest.mark.parametrize("folder", POLICIES, ids=lambda path: path.name)
def test_a_policy_that_is_shipped_meets_its_card(folder: Path, tmp_path: Path) -> None:
    """An episode; on another machine it is another one, of the same kind."""
    scores = load_policy(folder, "cpu").facts.content["scores"]
    assert evaluate.main([str(folder), "--episodes=1", "--device=cpu", f"--out={tmp_path}"]) == 0
    (path,) = tmp_path.iterdir()
    (value,) = json.loads(path.read_text())["values"]
    spread = 3 * np.std(scores)
    assert min(scores) - spread <= value <= max(scores) + spread


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
