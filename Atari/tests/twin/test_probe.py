"""The probe's arithmetic, on features whose answer is known; and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import config_cases as cases
import numpy as np
import pytest

from mlr_atari.probe import alone, linear, measure, output, recording

EPISODES = np.repeat(np.arange(10), 200)
SPLIT = linear.split_by_episode(EPISODES)


def labels(seed: int = 0, variables: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(EPISODES), variables)) * 5 + 2


# --- regression -----------------------------------------------------------------------------------


def test_whole_episodes_are_held_out() -> None:
    parts = [set(EPISODES[rows]) for rows in (SPLIT.train, SPLIT.validation, SPLIT.test)]
    assert parts == [set(range(6)), {6, 7}, {8, 9}]
    assert (SPLIT.train.astype(int) + SPLIT.validation + SPLIT.test == 1).all()
    with pytest.raises(ValueError, match="4 episodes are too few"):
        linear.split_by_episode(np.arange(4))


def test_episodes_in_which_nothing_changes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = labels(variables=2)
    found[SPLIT.train] = 1.0
    played = recording.Recording(
        np.zeros((2000, 1, 1, 1), np.uint8), found, EPISODES, ("x", "y"), ""
    )
    monkeypatch.setattr(measure.world, "record", lambda *_: played)
    prober = measure.Prober(measure.Episodes(10, 200, 0, tmp_path))
    with pytest.raises(cases.ConfigError, match="--steps=200: too few, in these none of x, y"):
        prober.recording(None, None)
    found[SPLIT.train, 1] = EPISODES[SPLIT.train]
    assert prober.recording(None, None) is played


@pytest.mark.parametrize("width", [3, 8, 1300])
def test_a_linear_map_of_the_state_gives_one(width: int) -> None:
    mixing = np.random.default_rng(1).normal(size=(3, width))
    features = (labels() @ mixing + 7).astype(np.float32)
    assert linear.readout(features, labels(), SPLIT) == pytest.approx(np.ones(3), abs=1e-3)


@pytest.mark.parametrize("width", [5, 100])
def test_noise_gives_nothing(width: int) -> None:
    features = np.random.default_rng(2).normal(size=(len(EPISODES), width))
    assert (linear.readout(features, labels(), SPLIT) < 0.02).all()


def test_half_of_the_variance_gives_a_half() -> None:
    rng = np.random.default_rng(3)
    episodes = np.repeat(np.arange(10), 1000)
    known = rng.normal(size=(len(episodes), 1))
    whole = known + rng.normal(size=known.shape)
    found = linear.readout(known, whole, linear.split_by_episode(episodes))
    assert found == pytest.approx([0.5], abs=0.05)


def test_constants_are_left_out() -> None:
    given = labels()
    given[:, 1] = 3.25
    features = np.concatenate([given, np.ones((len(given), 1))], axis=1)
    found = linear.readout(features, given, SPLIT)
    assert np.isnan(found).tolist() == [False, True, False]


def test_nothing_is_learnt_from_the_test_episodes() -> None:
    given = labels()
    features = np.random.default_rng(4).normal(size=(len(given), 4))
    changed = given.copy()
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


def test_principal_components_are_those_of_the_covariance() -> None:
    rng = np.random.default_rng(6)
    pictures = (rng.normal(size=(50, 5)) @ np.diag([9, 4, 1, 0.1, 0.01])).astype(np.float32)
    found = linear.PrincipalComponents.of(pictures, 2)
    _, vectors = np.linalg.eigh(np.cov(pictures.T))
    overlap = np.abs(found.directions.T @ vectors[:, [3, 4]])
    assert overlap == pytest.approx(np.eye(2), abs=1e-3)
    assert found(pictures).mean(axis=0) == pytest.approx([0, 0], abs=1e-4)
    assert linear.PrincipalComponents.of(pictures[:3], 10).directions.shape == (5, 2)


# --- episodes -------------------------------------------------------------------------------------


def actions(seed: int, episode: int, count: int = 200) -> list[int]:
    act = recording.HeldActions(seed, episode, lambda random: int(random.integers(1000)))
    return [act() for _ in range(count)]


def test_actions_depend_on_seed_and_episode_only() -> None:
    assert actions(0, 3) == actions(0, 3)
    assert len({tuple(actions(seed, episode)) for seed in (0, 1) for episode in (0, 1)}) == 4


def test_every_second_episode_holds_its_actions() -> None:
    changes = [np.mean(np.diff(actions(0, episode)) != 0) for episode in (0, 1)]
    assert changes[0] > 0.95
    assert 0.1 < changes[1] < 0.4


def test_a_recording_is_played_once(tmp_path: Path) -> None:
    played: list[int] = []

    def play() -> Any:
        played.append(1)
        for step in range(4):
            yield recording.Sample(step // 2, np.full((1, 2, 2), step, np.uint8), np.array([0.5]))

    def get(facts: dict[str, Any], size: int) -> Any:
        return recording.recorded(facts, {"size": size}, lambda: ("x",), play, tmp_path)

    first, again = get({"seed": 0}, 2), get({"seed": 0}, 2)
    assert len(played) == 1
    assert np.array_equal(first.observations, again.observations)
    assert first.names == again.names == ("x",)
    assert first.episodes.tolist() == [0, 0, 1, 1]
    # The same episodes drawn otherwise are another file, but may be compared.
    assert get({"seed": 0}, 3).key == first.key != get({"seed": 1}, 2).key
    assert len(played) == 3


# --- files ----------------------------------------------------------------------------------------


def row(method: str, seed: int, r2: float, variable: str = "x", data: str = "d") -> dict[str, Any]:
    facts = {"subject": "pole", "preset": "laptop", "method": method, "seed": seed, "updates": 1}
    facts |= {"dimensions": 50, "data": data, "variable": variable}
    return facts | {"r2": r2, "untrained": 0.25, "pca": 0.125}


def test_rows_of_the_same_run_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "probe.csv"
    output.merge(path, [row("mlr", 1, 0.5), row("mlr", 2, 0.5)])
    whole = output.merge(path, [row("mlr", 2, 0.75), row("curl", 1, 0.5)])
    assert output.read(path) == whole
    assert [(each["method"], each["seed"], each["r2"]) for each in whole] == [
        ("curl", 1, 0.5),
        ("mlr", 1, 0.5),
        ("mlr", 2, 0.75),
    ]


def test_scores_on_other_episodes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "probe.csv"
    output.merge(path, [row("mlr", 1, 0.5)])
    before = path.read_bytes()
    with pytest.raises(cases.ConfigError, match="on other episodes"):
        output.merge(path, [row("mlr", 2, 0.5, data="other")])
    assert path.read_bytes() == before


def test_differences_are_within_a_seed() -> None:
    base = output.BASELINE
    rows = [row(base, 1, 0.2), row(base, 2, 0.6), row("mlr", 1, 0.3), row("mlr", 2, 0.7)]
    rows.append(row("mlr", 3, 0.9))
    baseline, mlr = output.summaries(rows)
    assert baseline.over_baseline is None
    assert mlr.seeds == 3
    assert mlr.r2.value == pytest.approx(1.9 / 3)
    gain = mlr.over_baseline
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))
    assert mlr.over_untrained.value == pytest.approx(1.9 / 3 - 0.25)
    assert "| pole, laptop | mlr | 3 | 0.633 [0.300, 0.900] |" in output.table([mlr])


def test_a_variable_that_never_changes_does_not_count() -> None:
    rows = [row("mlr", 1, 0.5), row("mlr", 1, float("nan"), variable="y")]
    (summary,) = output.summaries(rows)
    assert summary.r2.value == 0.5
    assert np.isnan(summary.r2.low)  # one seed has no interval


def test_signs_of_a_run_are_read_from_its_table(tmp_path: Path) -> None:
    head = "agent_step,update_step,loss/mlr,mlr/projection_std,mlr/effective_rank"
    (tmp_path / "train.csv").write_text(f"{head}\n10,0,,,\n20,5,0.5,0.25,3\n")
    expected = {"update": 5, "loss": 0.5, "projection_std": 0.25, "effective_rank": 3.0}
    assert alone.along_run(composed("mlr"), tmp_path) == [expected]
    assert alone.along_run(composed(cases.PLAIN_AGENT), tmp_path) == []


def composed(agent: str) -> Any:
    words = [f"agent={agent}", "preset=smoke"]
    return cases.config.compose(words)
