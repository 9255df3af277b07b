"""The probe's arithmetic on features with known answers, its files, and probe.py on real runs."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_run import PROBED, VARIABLES

import probe
import train
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.probe import figures, linear, recording

EPISODES = np.repeat(np.arange(10), 200)
SPLIT = linear.split_by_episode(EPISODES)
LABELS = np.random.default_rng(0).normal(size=(len(EPISODES), 3)) * 5 + 2


# --- regression -----------------------------------------------------------------------------------


def test_whole_episodes_are_held_out() -> None:
    assert [set(EPISODES[rows]) for rows in SPLIT] == [set(range(6)), {6, 7}, {8, 9}]
    assert (SPLIT.sum(axis=0) == 1).all()


@pytest.mark.parametrize("width", [8, 1300])
def test_a_linear_map_of_the_state_gives_one_and_a_constant_nothing(width: int) -> None:
    features = LABELS @ np.random.default_rng(1).normal(size=(3, width)) + 7
    features[:, 0] = 1.0
    labels = np.concatenate([LABELS, np.full((len(LABELS), 1), 3.25)], axis=1)
    scores = linear.readout(features.astype(np.float32), labels, SPLIT)
    assert scores == pytest.approx([1, 1, 1, np.nan], abs=1e-3, nan_ok=True)


def test_half_of_the_variance_gives_a_half() -> None:
    rng, episodes = np.random.default_rng(3), np.repeat(np.arange(10), 1000)
    known = rng.normal(size=(len(episodes), 1))
    whole = known + rng.normal(size=known.shape)
    scores = linear.readout(known, whole, linear.split_by_episode(episodes))
    assert scores == pytest.approx([0.5], abs=0.05)


def test_nothing_is_learnt_from_the_test_episodes() -> None:
    features, changed = np.random.default_rng(4).normal(size=(len(EPISODES), 4)), LABELS.copy()
    changed[SPLIT[2]] = features[SPLIT[2]][:, :3] * 50  # would be easy to fit
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


def test_actions_depend_on_seed_and_episode_and_every_second_episode_holds_them() -> None:
    def actions(seed: int, episode: int) -> list[int]:
        drawn = recording.held_actions(seed, episode, lambda random: int(random.integers(1000)))
        return list(itertools.islice(drawn, 200))

    played = {(seed, episode): actions(seed, episode) for seed in (0, 1) for episode in (0, 1)}
    assert actions(0, 1) == played[0, 1]
    assert len(set(map(tuple, played.values()))) == 4
    free, held = (np.mean(np.diff(played[0, episode]) != 0) for episode in (0, 1))
    assert free > 0.95
    assert 0.1 < held < 0.4


# --- files ----------------------------------------------------------------------------------------


def rows(*runs: tuple[str, int, float], data: str = "12345e6789", **changes: Any) -> pd.DataFrame:
    """Scores of one variable; the digest is one that is no number."""
    facts = {"subject": "pole", "preset": "laptop", "updates": 1, "dimensions": 50, "data": data}
    facts |= {"target": "state", "variable": "x", "untrained": 0.25, "pca": 0.125, "score": 7.0}
    return pd.DataFrame(runs, columns=["method", "seed", "r2"]).assign(**(facts | changes))


def test_rows_of_the_same_run_are_replaced_and_other_episodes_refused(tmp_path: Path) -> None:
    path = tmp_path / "probe.csv"
    probe.merged(path, rows(("mlr", 1, 0.5), ("mlr", 2, 0.5)))
    whole = probe.merged(path, rows(("mlr", 2, 0.75), ("curl", 1, 0.5)))
    expected = [["curl", 1, 0.5], ["mlr", 1, 0.5], ["mlr", 2, 0.75]]
    assert whole[["method", "seed", "r2"]].values.tolist() == expected
    text = path.read_bytes()
    probe.merged(path, rows(("mlr", 2, 0.75)))
    for new in (rows(("mlr", 2, 0.5), data="other"), rows(("mlr", 2, 0.5)).assign(more=1)):
        with pytest.raises(ConfigError):
            probe.merged(path, new)
    assert path.read_bytes() == text
    # Actions are another policy's, not what the state was read from.
    probe.merged(path, rows(("mlr", 2, 0.5), data="mlr 1", target="action"))


def test_differences_are_within_a_seed() -> None:
    base = figures.BASELINE
    given = rows((base, 1, 0.2), (base, 2, 0.6), ("mlr", 1, 0.3), ("mlr", 2, 0.7), ("mlr", 3, 0.9))
    still = rows((base, 1, np.nan), variable="y")  # a variable that never changes
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
    unknown = [one.assign(target="action", r2=np.nan) for one in rising]
    table = figures.correlations(pd.concat([*rising, *falling, *unknown]))
    assert table["target"].tolist() == ["state", "reward"]
    assert [text[:5] for text in table["ρ with the score"]] == ["+1.00", "-1.00"]
    assert table["p"].tolist() == ["0.083", "0.083"]  # 2 of the 24 orders
    assert not len(figures.correlations(pd.concat(rising[:4])))
    # Seeds that differ more than methods do leave the rank open.
    wide = pd.concat([one.assign(r2=one["r2"] + 4 * (one["seed"] - 1)) for one in rising])
    (text,) = figures.correlations(wide)["ρ with the score"]
    assert float(text.split("[")[1].split(",")[0]) < 0


# --- the command ----------------------------------------------------------------------------------


def call(folder: Path, *words: object) -> int:
    return probe.main(["--episodes=5", "--steps=24", f"--out={folder}", *map(str, words)])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A finished run of an objective alone, and one of MLR."""
    folder = tmp_path_factory.mktemp("probe")
    for words in (("agent=mlr",), ("agent=curl", "agent.rl=false", "tag=alone")):
        assert train.main([*PROBED, *words, f"runs_dir={folder}"]) == 0
    return sorted(folder.glob("*/*/seed_1"))


def test_every_variable_is_scored(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(tmp_path, *runs) == 0
    rows = pd.read_csv(tmp_path / "probe.csv")
    assert set(rows["method"]) == {"mlr", "curl alone"}
    for _, run in rows.groupby("method"):
        assert set(run[run["target"] == "state"]["variable"]) == VARIABLES
        assert (run["target"] == "reward").sum() == 1
        assert (run["target"] == "action").sum() >= 1
        assert (run["updates"] > 0).all()
        assert run["score"].nunique() == 1
    # Two runs of a seed have the same untrained encoder, whatever their method.
    assert (rows.groupby("variable")["untrained"].nunique() <= 1).all()
    # Whose score is best is not asked for its own actions.
    best = rows[(rows["score"] == rows["score"].max()) & (rows["target"] == "action")]
    asked = best.groupby("method")["r2"].count()
    assert asked.min() == 0
    # Actions of another policy are no match; that shows before anything is played.
    monkeypatch.setattr(probe, "record", pytest.fail)
    assert call(tmp_path, runs[0], f"--policy={runs[asked.idxmin() == 'curl alone']}") == 2
    assert (tmp_path / "probe.png").read_bytes().startswith(b"\x89PNG")
    tables = (tmp_path / "probe.md").read_text().split("\n\n")
    assert [table.count("curl alone") for table in tables] == [1, 0]


def test_a_policy_sees_its_own_pictures(runs: list[Path], tmp_path: Path) -> None:
    words = ("agent=curl", "environment.frame_stack=2", "tag=two", f"runs_dir={tmp_path}")
    assert train.main([*PROBED, *words]) == 0
    (other,) = tmp_path.glob("*/curl-two/seed_1")
    assert call(tmp_path / "out", runs[0], f"--policy={other}") == 0
    rows = pd.read_csv(tmp_path / "out" / "probe.csv")
    assert rows.loc[rows["target"] == "action", "data"].str.contains("curl two 1 ").sum() >= 1


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["nowhere"], "RUN=nowhere: "),
        (["nowhere", "--episodes=4"], "--episodes, --steps, --seed: "),
        (["{run}", "{run}"], "RUN: "),
        (["{run}", "{copy}"], "RUN: two "),
        (["{run}", "--out={run}/config.yaml"], "--out="),
        (["{run}", "--device=gpu"], "RUN="),
        (["{run}", "--out={copy}"], "{copy}/probe.csv: "),
        (["{run}", "--policy=nowhere"], "nowhere: "),
        (["{damaged}"], "{damaged}/run.json, line 1: "),
    ],
)
def test_what_is_refused(
    words: list[str],
    key: str,
    runs: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one line, and nothing is written."""
    copy, damaged = (shutil.copytree(runs[0], tmp_path / name) for name in ("copy", "damaged"))
    (damaged / "run.json").write_text("{")
    (copy / "probe.csv").touch()  # which is no table
    places = {"run": runs[0], "copy": copy, "damaged": damaged}
    assert call(tmp_path / "out", *(word.format(**places) for word in words)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {key.format(**places)}")
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))
