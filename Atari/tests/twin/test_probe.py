"""The probe's arithmetic, on features whose answer is known; its episodes; its files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlr_atari.errors import ConfigError
from mlr_atari.probe import figures, linear, probe, recording

EPISODES = np.repeat(np.arange(10), 200)
SPLIT = linear.split_by_episode(EPISODES)


def labels(variables: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(EPISODES), variables)) * 5 + 2


# --- regression -----------------------------------------------------------------------------------


def test_whole_episodes_are_held_out() -> None:
    parts = [set(EPISODES[rows]) for rows in SPLIT]
    assert parts == [set(range(6)), {6, 7}, {8, 9}]
    assert (SPLIT.train.astype(int) + SPLIT.validation + SPLIT.test == 1).all()


@pytest.mark.parametrize("width", [3, 8, 1300])
def test_a_linear_map_of_the_state_gives_one(width: int) -> None:
    mixing = np.random.default_rng(1).normal(size=(3, width))
    features = (labels() @ mixing + 7).astype(np.float32)
    assert linear.readout(features, labels(), SPLIT) == pytest.approx(np.ones(3), abs=1e-3)


def test_half_of_the_variance_gives_a_half() -> None:
    rng = np.random.default_rng(3)
    episodes = np.repeat(np.arange(10), 1000)
    known = rng.normal(size=(len(episodes), 1))
    whole = known + rng.normal(size=known.shape)
    scores = linear.readout(known, whole, linear.split_by_episode(episodes))
    assert scores == pytest.approx([0.5], abs=0.05)


def test_constants_are_left_out() -> None:
    given = labels()
    given[:, 1] = 3.25
    features = np.concatenate([given, np.ones((len(given), 1))], axis=1)
    assert np.isnan(linear.readout(features, given, SPLIT)).tolist() == [False, True, False]


def test_nothing_is_learnt_from_the_test_episodes() -> None:
    features = np.random.default_rng(4).normal(size=(len(EPISODES), 4))
    changed = labels()
    changed[SPLIT.test] = features[SPLIT.test][:, :3] * 50  # would be easy to fit
    assert (linear.readout(features, changed, SPLIT) < 0.1).all()


@pytest.mark.parametrize("width", [4, 60])
def test_ridge_is_the_minimum(width: int) -> None:
    rng = np.random.default_rng(5)
    inputs, targets = rng.normal(size=(30, width)), rng.normal(size=(30, 2))
    for penalty, weights in zip(linear.PENALTIES, linear.ridge(inputs, targets), strict=True):
        gram = inputs.T @ inputs / 30 + penalty * np.eye(width)
        expected = np.linalg.solve(gram, inputs.T @ targets / 30)
        assert weights == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_components_are_the_directions_of_largest_variance() -> None:
    rng = np.random.default_rng(6)
    spread = (rng.normal(size=(50, 5)) * [9, 4, 1, 0.1, 0.01] * 5 + 128).astype(np.uint8)
    pictures, train = spread.reshape(50, 1, 5, 1), np.arange(50) < 30
    coordinates = linear.components(pictures, train, 2)
    known = spread[train].astype(float)
    _, vectors = np.linalg.eigh(np.cov(known.T))
    expected = (spread - known.mean(axis=0)) @ vectors[:, [3, 4]]
    overlap = np.abs(np.corrcoef(expected.T, coordinates.T)[:2, 2:])
    assert overlap == pytest.approx(np.eye(2), abs=0.2)
    assert linear.components(pictures[:3], train[:3], 10).shape == (3, 2)


# --- episodes -------------------------------------------------------------------------------------


def actions(seed: int, episode: int) -> list[int]:
    drawn = recording.held_actions(seed, episode, lambda random: int(random.integers(1000)))
    return list(itertools.islice(drawn, 200))


def test_actions_depend_on_seed_and_episode_only() -> None:
    assert actions(0, 3) == actions(0, 3)
    assert len({tuple(actions(seed, episode)) for seed in (0, 1) for episode in (0, 1)}) == 4


def test_every_second_episode_holds_its_actions() -> None:
    changes = [np.mean(np.diff(actions(0, episode)) != 0) for episode in (0, 1)]
    assert changes[0] > 0.95
    assert 0.1 < changes[1] < 0.4


def test_episodes_in_which_nothing_changes_are_refused() -> None:
    values = labels(variables=2)
    values[SPLIT.train] = 1.0
    played = recording.Recording(np.zeros(0, np.uint8), values, EPISODES, np.array(["x", "y"]), "")
    with pytest.raises(ConfigError, match="--episodes, --steps: too few, in these none of x, y"):
        recording.require_changes(played)
    values[SPLIT.train, 1] = EPISODES[SPLIT.train]
    recording.require_changes(played)


# --- files ----------------------------------------------------------------------------------------


def rows(*runs: tuple[str, int, float], data: str = "12345e6789", **changes: Any) -> pd.DataFrame:
    """Scores of one variable; the digest is one that is no number."""
    facts = {"subject": "pole", "preset": "laptop", "updates": 1, "dimensions": 50, "data": data}
    facts |= {"target": "state", "variable": "x", "untrained": 0.25, "pca": 0.125, "score": 7.0}
    facts |= changes
    return pd.DataFrame(
        [{"method": method, "seed": seed, "r2": r2} | facts for method, seed, r2 in runs]
    )


def test_rows_of_the_same_run_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "probe.csv"
    probe.merged(path, rows(("mlr", 1, 0.5), ("mlr", 2, 0.5)))
    whole = probe.merged(path, rows(("mlr", 2, 0.75), ("curl", 1, 0.5)))
    assert whole[["method", "seed", "r2"]].values.tolist() == [
        ["curl", 1, 0.5],
        ["mlr", 1, 0.5],
        ["mlr", 2, 0.75],
    ]
    text = path.read_bytes()
    probe.merged(path, rows(("mlr", 2, 0.75)))
    assert path.read_bytes() == text


def test_scores_on_other_episodes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "probe.csv"
    probe.merged(path, rows(("mlr", 1, 0.5)))
    before = path.read_bytes()
    for words, new in (
        ("on other episodes", rows(("mlr", 2, 0.5), data="other")),
        ("has other columns", rows(("mlr", 2, 0.5)).drop(columns="score")),
    ):
        with pytest.raises(ConfigError, match=words):
            probe.merged(path, new)
    assert path.read_bytes() == before
    # Actions are another policy's, not what the state was read from.
    probe.merged(path, rows(("mlr", 2, 0.5), data="mlr 1", target="action"))


def test_differences_are_within_a_seed() -> None:
    base = figures.BASELINE
    given = rows((base, 1, 0.2), (base, 2, 0.6), ("mlr", 1, 0.3), ("mlr", 2, 0.7), ("mlr", 3, 0.9))
    runs = figures.by_run(given)
    gains = (runs["r2"] - runs["baseline"]).round(6).dropna()
    assert gains.to_dict() == {2: 0.1, 3: 0.1}
    still = rows((base, 1, float("nan")), variable="y")  # a variable that never changes
    baseline, mlr = figures.table(pd.concat([given, still])).to_dict("records")
    assert baseline["R²"].startswith("0.400 [")
    assert baseline[f"− {base}"] == ""
    assert (mlr[""], mlr["seeds"]) == ("pole, laptop", 3)
    assert mlr["R²"].startswith("0.633 [")
    assert mlr["− untrained"].startswith("+0.383 [")
    assert mlr[f"− {base}"].startswith("+0.100 [")


def test_methods_are_ranked_as_their_scores_are_or_not() -> None:
    """Over the means of seeds; a target whose R² is unknown, or of two methods, is left out."""
    names, seeds = ("a", "b", "c", "d"), (1, 2)
    rising = [rows((n, s, 0.1 * i), score=9.0 * i) for i, n in enumerate(names) for s in seeds]
    falling = [one.assign(target="reward", score=-one["score"]) for one in rising]
    unknown = [one.assign(target="action", r2=float("nan")) for one in rising]
    table = figures.correlations(pd.concat([*rising, *falling, *unknown]))
    assert table["target"].tolist() == ["state", "reward"]
    assert table["methods"].tolist() == [4, 4]
    assert [text[:5] for text in table["ρ with the score"]] == ["+1.00", "-1.00"]
    assert table["p"].tolist() == ["0.083", "0.083"]  # 2 of the 24 orders
    assert not len(figures.correlations(pd.concat(rising[:4])))
    # Seeds that differ more than methods do leave the rank open.
    wide = pd.concat([one.assign(r2=one["r2"] + 4 * (one["seed"] - 1)) for one in rising])
    (text,) = figures.correlations(wide)["ρ with the score"]
    low = float(text.split("[")[1].split(",")[0])
    assert low < 0


def test_signs_of_a_run_are_read_from_its_table(tmp_path: Path) -> None:
    head = "agent_step,update_step,loss/mlr,mlr/projection_std,mlr/effective_rank"
    (tmp_path / "train.csv").write_text(f"{head}\n10,0,,,\n20,5,0.5,0.25,3\n")
    expected = {"update": 5, "loss": 0.5, "projection_std": 0.25, "effective_rank": 3.0}
    assert probe.signs_of_collapse(tmp_path, "mlr").to_dict("records") == [expected]
    assert not len(probe.signs_of_collapse(tmp_path, None))
