"""The published tables, and our statistics on the single runs that others have published."""

from __future__ import annotations

import csv
import math
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import make_run

from mlr_atari import protocol
from mlr_atari.report import page, runs, statistics, tables

ROOT = Path(__file__).resolve().parents[2]
Runs = dict[str, dict[str, list[float]]]


@pytest.fixture(scope="session")
def published_runs() -> Runs:
    """Normalised scores of single runs by method and game; they are not part of the repository."""
    folder = Path(os.environ.get("MLR_PUBLISHED") or ROOT.parent / "shared" / "published")
    path = folder / "atari100k_runs.csv"
    if not path.is_file():
        pytest.skip(f"no published single runs at {path} (set MLR_PUBLISHED)")
    runs: Runs = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            score = protocol.normalize(row["game"], float(row["score"]))
            runs[row["method"]][row["game"]].append(score)
    return runs


@pytest.mark.parametrize(
    ("method", "runs", "iqm", "gap"),
    [
        ("spr", 100, 0.337, 0.577),
        ("drq_eps", 100, 0.280, 0.631),
        ("curl", 100, 0.113, 0.768),
        ("iris", 5, 0.501, 0.512),
    ],
)
def test_published_aggregates_are_reproduced_from_published_runs(
    published_runs: Runs, method: str, runs: int, iqm: float, gap: float
) -> None:
    scores = [np.asarray(own) for own in published_runs[method].values()]
    assert [own.shape for own in scores] == [(runs,)] * len(protocol.TASKS)
    assert round(float(statistics.iqm(*scores)), 3) == iqm
    assert round(float(statistics.optimality_gap(*scores)), 3) == gap


def test_intervals_agree_with_an_independent_bootstrap(published_runs: Runs) -> None:
    # Rows that somebody else has recomputed from the same runs; bootstraps differ by chance.
    with (protocol.PUBLISHED_FOLDER / "aggregates.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "recomputed_from_runs"]
    compared = [row for row in rows if row["method"] in ("spr", "iris", "diamond")]
    assert len(compared) == 12
    for row in compared:
        found = statistics.interval(
            statistics.METRICS[row["metric"]], published_runs[row["method"]]
        )
        low, high = float(row["ci_low"]), float(row["ci_high"])
        assert found.value == pytest.approx(float(row["value"]), abs=6e-5)
        if row["n_runs"] == "100":
            assert (found.low, found.high) == pytest.approx((low, high), abs=0.08 * (high - low))
        else:  # theirs is as narrow as percentiles of five runs are
            assert 1.1 < (found.high - found.low) / (high - low) < 3.0


def test_every_method_has_every_game() -> None:
    scores = protocol.published_scores("atari100k")
    assert len(protocol.TASKS) == 26
    assert set(protocol.PUBLISHED) <= set(scores)
    assert len(scores) == 31
    for method, games in scores.items():
        assert set(games) == set(protocol.TASKS), method


def test_human_and_random_are_the_ends_of_the_scale() -> None:
    scores = protocol.published_scores("atari100k")
    for game in protocol.TASKS:
        assert protocol.normalize(game, scores["human"][game][0]) == 1.0
        assert protocol.normalize(game, scores["random"][game][0]) == 0.0
    assert scores["random"]["pong"][0] == -20.7
    assert scores["human"]["breakout"][0] == 30.5
    assert math.isnan(protocol.normalize("tetris", 1.0))


def test_the_papers_headline() -> None:
    scores = protocol.published_scores("atari100k")
    agents = [
        "der", "otrainbow", "curl", "drq", "spr", "playvirtual", "mlr_baseline", "mlr",
    ]  # fmt: skip
    # "Best of the eight agents in 11 of 26 games".
    first = [max(agents, key=lambda a: scores[a][game][0]) for game in protocol.TASKS]
    assert first.count("mlr") == 11
    assert scores["mlr"]["alien"] == (990.1, 79.2)


def test_only_the_published_setting_is_compared() -> None:
    assert protocol.published_benchmark("atari100k", "paper", 100_000) == "atari100k"
    assert protocol.published_benchmark("atari100k_sticky", "paper", 100_000) is None
    assert protocol.published_benchmark("atari100k", "paper", 50_000) is None
    assert protocol.published_benchmark("atari100k", "laptop", 100_000) is None


def test_a_game_outside_the_benchmark_has_scores_but_no_aggregates(tmp_path: Path) -> None:
    for seed in (1, 2):
        make_run(tmp_path / "runs", "my.package:Game-v0", "mlr", seed, [1.0, 3.0], {50_000: 1.0})
    built = tables.build(runs.load([tmp_path / "runs"]))
    assert len(tables.aggregates(built, protocol.PUBLISHED)) == 0
    assert list(tables.task_scores(built, protocol.PUBLISHED)["mean"]) == [2.0]
    assert len(tables.task_curves(built)) == 2
    assert page.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
