"""probe.py as a user calls it, on a real run at smoke size; the same file in both trees."""

from __future__ import annotations

from pathlib import Path

import config_cases as cases
import pytest
import small_probe
import torch

import probe
import train

output, alone, world = small_probe.output, small_probe.alone, small_probe.world
SMALL = ("--episodes=5", "--steps=24", "--every=4", "--updates=8", "--frames=90")


def call(folder: Path, *words: str) -> int:
    return probe.main([*words, *SMALL, f"--out={folder / 'out'}", f"--cache={folder / 'cache'}"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and what probing it and an objective alone has written."""
    path = tmp_path_factory.mktemp("probe")
    words = (*small_probe.RUN, f"runs_dir={path / 'runs'}")
    assert train.main([*words]) == 0
    (run,) = (path / "runs").glob("*/*/seed_1")
    assert call(path, str(run)) == 0
    assert call(path, "--objective-alone", *small_probe.ALONE) == 0
    return path


def test_every_variable_of_both_is_scored(folder: Path) -> None:
    rows = output.read(folder / "out" / "probe.csv")
    methods = {row["method"] for row in rows}
    assert methods == {"mlr", f"{small_probe.METHOD}{output.ALONE}"}
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        assert {row["variable"] for row in own} == small_probe.VARIABLES
        assert all(row["updates"] > 0 for row in own)
    assert len({row["data"] for row in rows}) == 1
    assert len(list((folder / "cache").iterdir())) == 1


def test_references_do_not_depend_on_the_method(folder: Path) -> None:
    found: dict[str, set[float]] = {}
    for row in output.read(folder / "out" / "probe.csv"):
        found.setdefault(row["variable"], set()).add(row["untrained"])
    assert all(len(values) == 1 for values in found.values())


def test_signs_of_a_collapse_with_and_without_rl(folder: Path) -> None:
    rows = output.read(folder / "out" / "collapse.csv")
    alone_rows = [row for row in rows if row["method"].endswith(output.ALONE)]
    assert [row["update"] for row in alone_rows] == [1, 4, 8]
    assert {row["method"] for row in rows} > {alone_rows[0]["method"]}
    for row in rows:
        assert row["loss"] >= 0
        assert row["projection_std"] > 0
        assert row["effective_rank"] >= 1


def test_figures_and_table_are_written(folder: Path) -> None:
    out = folder / "out"
    for name in ("probe.png", "collapse.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    text = (out / "probe.md").read_text()
    assert text.count("\n") == 4
    assert f"{small_probe.METHOD}{output.ALONE}" in text


def test_an_objective_alone_is_reproducible_and_learns_without_rl() -> None:
    cfg = probe.configuration(small_probe.ALONE)
    runs = []
    for _ in range(2):
        with small_probe.build_parts(cfg, torch.device("cpu")) as parts:
            before = small_probe.rl_weights(parts.agent)
            start = [each.clone() for each in world.encoder_of(parts.agent).parameters()]
            rows = alone.train_alone(cfg, parts, updates=6, frames=90, every=3)
            weights = [each.clone() for each in world.encoder_of(parts.agent).parameters()]
            after = small_probe.rl_weights(parts.agent)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(start, weights, strict=True))
        runs.append((rows, weights))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "RUN: give the folder"),
        (["nowhere"], "RUN=nowhere: has no config.yaml"),
        (["nowhere", "--episodes=4"], "--episodes, --steps: at least 5"),
        (["nowhere", "--updates=0"], "--updates, --frames, --every"),
        (["--objective-alone", "agent=mrl"], "agent=mrl"),
        (
            ["--objective-alone", f"agent={cases.PLAIN_AGENT}", "preset=smoke"],
            f"agent={cases.PLAIN_AGENT}: has no objective",
        ),
    ],
)
def test_what_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*words, f"--out={tmp_path}"]
    assert probe.main(given) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
