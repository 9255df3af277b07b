"""The published tables, and our statistics on the single runs that others have published."""

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import make_run

from mlr_atari import protocol
from mlr_atari.report import page, runs, statistics, tables

ROOT = Path(__file__).resolve().parents[2]
Scores = dict[str, list[np.ndarray]]


@pytest.fixture(scope="session")
def published_runs() -> Scores:
    """Normalised scores by method, an array a game; they are not part of the repository."""
    folder = Path(os.environ.get("MLR_PUBLISHED") or ROOT.parent / "shared" / "published")
    path = folder / "atari100k_runs.csv"
    if not path.is_file():
        pytest.skip(f"no published single runs at {path} (set MLR_PUBLISHED)")
    table = pd.read_csv(path)
    table["score"] = list(map(protocol.normalize, table["game"], table["score"]))
    return {
        method: [one.to_numpy() for _, one in own.groupby("game")["score"]]
        for method, own in table.groupby("method")
    }


@pytest.mark.parametrize(
    ("method", "runs", "iqm", "gap"),
    [("spr", 100, 0.337, 0.577), ("drq_eps", 100, 0.280, 0.631), ("iris", 5, 0.501, 0.512)],
)
def test_published_aggregates_are_reproduced_from_published_runs(
    published_runs: Scores, method: str, runs: int, iqm: float, gap: float
) -> None:
    scores = published_runs[method]
    assert [own.shape for own in scores] == [(runs,)] * len(protocol.TASKS)
    assert round(float(statistics.iqm(*scores)), 3) == iqm
    assert round(float(statistics.optimality_gap(*scores)), 3) == gap


def test_intervals_agree_with_an_independent_bootstrap(published_runs: Scores) -> None:
    # Rows that somebody else has recomputed from the same runs; bootstraps differ by chance.
    table = pd.read_csv(protocol.PUBLISHED_FOLDER / "aggregates.csv")
    rows = table[(table["kind"] == "recomputed_from_runs") & table["method"].isin(["spr", "iris"])]
    assert len(rows) == 8
    for row in rows.itertuples():
        metric, width = statistics.METRICS[row.metric], row.ci_high - row.ci_low
        found = statistics.interval(metric, published_runs[row.method])
        assert found.value == pytest.approx(row.value, abs=6e-5)
        if row.n_runs == 100:
            expected = pytest.approx((row.ci_low, row.ci_high), abs=0.08 * width)
            assert (found.low, found.high) == expected
        else:  # theirs is as narrow as percentiles of five runs are
            assert 1.1 < (found.high - found.low) / width < 3.0


@pytest.mark.parametrize(("metric", "experiments"), [("mean", 1500), ("iqm", 300), ("single", 300)])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_the_truth_however_few_the_seeds(
    published_runs: Scores,
    monkeypatch: pytest.MonkeyPatch,
    metric: str,
    experiments: int,
    seeds: int,
) -> None:
    # Fewer redraws of many experiments at once: the sooner done.
    monkeypatch.setattr(statistics, "REPETITIONS", 300)
    monkeypatch.setattr(statistics, "BATCH", 30)
    rng, spr = np.random.default_rng(seeds), np.stack(published_runs["spr"])
    function = statistics.METRICS[metric] if metric != "single" else statistics.mean
    covered = []
    for games in [spr] if metric != "single" else spr[:, None]:  # of single games, the average
        drawn = [rng.choice(game, (experiments, seeds)) for game in games]
        found, truth = statistics.interval(function, drawn), function(*games)
        covered.append(np.mean((found.low <= truth) & (truth <= found.high)))
    assert np.mean(covered) >= 0.93


def test_every_method_has_every_game_and_the_scale_its_ends() -> None:
    scores = protocol.published_scores("atari100k")
    assert len(protocol.TASKS) == 26
    assert set(protocol.PUBLISHED) <= set(scores)
    assert all(set(games) == set(protocol.TASKS) for games in scores.values())
    for game in protocol.TASKS:
        assert protocol.normalize(game, scores["human"][game][0]) == 1.0
        assert protocol.normalize(game, scores["random"][game][0]) == 0.0
    assert (scores["random"]["pong"][0], scores["human"]["breakout"][0]) == (-20.7, 30.5)
    assert math.isnan(protocol.normalize("tetris", 1.0))


def test_the_papers_headline() -> None:
    scores = protocol.published_scores("atari100k")
    agents = ("der", "otrainbow", "curl", "drq", "spr", "playvirtual", "mlr_baseline", "mlr")
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
