"""probe.py as a user calls it, on real runs at smoke size."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from small_probe import RUN, VARIABLES

import train
from mlr_atari.probe import probe


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
    assert call(path, first) == call(path, second) == 0
    return path


def test_every_variable_of_both_is_scored(folder: Path) -> None:
    rows = pd.read_csv(folder / "out" / "probe.csv")
    assert set(rows["method"]) == {"mlr", "curl alone"}
    for _, run in rows.groupby("method"):
        assert set(run["variable"]) == VARIABLES
        assert (run["updates"] > 0).all()
    assert rows["data"].nunique() == 1
    assert len(list((folder / "cache").iterdir())) == 1
    # Two runs of a seed have the same untrained encoder, whatever their method.
    assert (rows.groupby("variable")["untrained"].nunique() == 1).all()


def test_signs_of_a_collapse_with_and_without_rl(folder: Path) -> None:
    rows = pd.read_csv(folder / "out" / "collapse.csv")
    assert set(rows["method"]) == {"mlr", "curl alone"}
    assert (rows["loss"] >= 0).all()
    assert (rows["projection_std"] > 0).all()
    assert (rows["effective_rank"] >= 1).all()


def test_figures_and_table_are_written(folder: Path) -> None:
    for name in ("probe.png", "collapse.png"):
        assert (folder / "out" / name).read_bytes().startswith(b"\x89PNG")
    text = (folder / "out" / "probe.md").read_text()
    assert text.count("\n") == 4
    assert "curl alone" in text


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ([], "RUN: "),
        (["nowhere"], "RUN=nowhere: "),
        (["nowhere", "--episodes=4"], "--episodes, --steps: "),
        (["--objective-alone", "agent=mlr"], "--objective-alone: "),
    ],
)
def test_what_is_refused(
    words: list[str], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe.main([*words, f"--out={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {key}")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
