"""probe.py as a user calls it, on real runs at smoke size."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from small_probe import RUN, VARIABLES

import train
from mlr_atari.probe import probe
from mlr_atari.protocol import TASK_KEY


def call(folder: Path, *words: str) -> int:
    small = ("--episodes=5", "--steps=24")
    return probe.main([*words, *small, f"--out={folder / 'out'}", f"--cache={folder / 'cache'}"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run and one of an objective alone, and what probing them has written."""
    path = tmp_path_factory.mktemp("probe")
    for words in (("agent=mlr",), ("agent=curl", "agent.rl=false", "tag=alone")):
        assert train.main([*RUN, *words, f"runs_dir={path / 'runs'}"]) == 0
    first, second = sorted(map(str, (path / "runs").glob("*/*/seed_1")))
    policy = f"--policy={second}"  # the path of mlr
    assert call(path, first, policy) == call(path, second, policy) == 0
    return path


def test_every_variable_of_both_is_scored(folder: Path) -> None:
    rows = pd.read_csv(folder / "out" / "probe.csv")
    assert set(rows["method"]) == {"mlr", "curl alone"}
    for _, run in rows.groupby("method"):
        assert set(run[run["target"] == "state"]["variable"]) == VARIABLES
        assert (run["target"] == "reward").sum() == 1
        assert (run["target"] == "action").sum() >= 1
        assert (run["updates"] > 0).all()
        assert run["score"].nunique() == 1
    assert (rows.groupby("target")["data"].nunique() == 1).all()
    assert len(list((folder / "cache").iterdir())) == 1
    # Two runs of a seed have the same untrained encoder, whatever their method.
    assert (rows.groupby("variable")["untrained"].nunique() <= 1).all()
    # The policy whose actions are asked for is the first one's, which is not asked.
    asked = rows[rows["target"] == "action"].groupby("method")["r2"].count()
    assert asked["mlr"] == 0


def test_signs_of_a_collapse_with_and_without_rl(folder: Path) -> None:
    rows = pd.read_csv(folder / "out" / "collapse.csv")
    assert set(rows["method"]) == {"mlr", "curl alone"}
    assert (rows["loss"] >= 0).all()
    assert (rows["projection_std"] > 0).all()
    assert (rows["effective_rank"] >= 1).all()


def test_figures_and_table_are_written(folder: Path) -> None:
    for name in ("probe.png", "collapse.png"):
        assert (folder / "out" / name).read_bytes().startswith(b"\x89PNG")
    tables = (folder / "out" / "probe.md").read_text().split("\n\n")
    assert [table.count("curl alone") for table in tables] == [1, 0]


def test_the_best_of_the_runs_is_the_policy() -> None:
    scores = [("a", 1.0, "pole"), ("b", 3.0, "pole"), ("c", float("nan"), "cheetah")]
    known = [
        probe.Run(Path(name), None, {"subject": task, "preset": "smoke", "score": score})  # type: ignore[arg-type]
        for name, score, task in scores
    ]
    assert probe.best_policies(known) == {("pole", "smoke"): Path("b")}


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ([], "RUN: "),
        (["nowhere"], "RUN=nowhere: "),
        (["nowhere", "--episodes=4"], "--episodes, --steps, --seed: "),
        (["nowhere", "--seed=-1"], "--episodes, --steps, --seed: "),
        (["{run}", "--device=tpu"], "RUN={run}: device=tpu: "),
        (["{run}", "{run}"], "RUN: two "),
        (["{run}", "--out={run}/config.yaml"], "--out="),
        (["{run}", "--cache={run}/config.yaml/x"], "--cache="),
        (["{run}", "--policy=nowhere"], "nowhere: "),
        (["{damaged}"], "{damaged}/run.json, line 1: "),
        (["{foreign}"], "RUN={foreign}: {foreign}: is no run of "),
    ],
)
def test_what_is_refused(
    words: list[str],
    key: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one line, and nothing is written."""
    run = min((folder / "runs").glob("*/*/seed_1"))
    places = {"run": run, "damaged": tmp_path / "damaged", "foreign": tmp_path / "foreign"}
    for name in ("damaged", "foreign"):
        places[name].mkdir()
        for file in ("config.yaml", "run.json"):
            (places[name] / file).write_bytes((run / file).read_bytes())
    (places["damaged"] / "run.json").write_text("{")
    config = (run / "config.yaml").read_text()
    (places["foreign"] / "config.yaml").write_text(config.replace(f"\n{TASK_KEY}:", "\nlevel:"))
    small = ("--episodes=5", "--steps=24", f"--cache={folder / 'cache'}", f"--out={tmp_path / 'o'}")
    assert probe.main([*small, *(word.format(**places) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {key.format(**places)}")
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())
