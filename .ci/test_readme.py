"""Blocks made from results, and rows that are kept in them."""

import json
import shutil
from pathlib import Path

import pytest
import readme

NAMES = ("DMControl", "Atari")
FILES = ("runs.csv", "curves.csv")


def test_only_what_is_between_the_markers_changes() -> None:
    text = f"above\n{readme.BEGIN}\nold\n{readme.END}\nbelow\n"
    assert readme.filled(text, "new") == text.replace("old", "new")


@pytest.mark.parametrize("text", ["", readme.BEGIN, f"{readme.END}{readme.BEGIN}"])
def test_markers_must_be_there_once_and_in_order(text: str) -> None:
    with pytest.raises(SystemExit):
        readme.filled(text, "new")
    whole = f"{readme.BEGIN}{readme.END}"
    with pytest.raises(SystemExit):
        readme.filled(whole + whole, "new")


@pytest.mark.parametrize("name", NAMES)
def test_every_tree_has_one_fresh_block(name: str) -> None:
    of = readme.tree(name)
    pages = (of.folder / "README.md", of.results / "README.md")
    (page,) = (page for page in pages if readme.BEGIN in page.read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8")
    assert readme.filled(text, readme.block(of, page)) == text, "run: python .ci/readme.py"


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_there_are_written_as_they_are(name: str, tmp_path: Path) -> None:
    of = readme.tree(name)
    kept = of.runs.results(of.results)
    readme.write(of, tmp_path, kept.runs, kept.curves)
    for file in FILES:
        assert (tmp_path / file).read_bytes() == (of.results / file).read_bytes()


def make_run(folder: Path, seed: int, score: float) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"task: {{name: walker_walk}}\nagent: {{name: mlr}}\nseed: {seed}\npreset: p\nbudget: 40\n"
    )
    record = {"status": "finished", "protocol": "dmcontrol", "command": "train.py"}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "eval.csv").write_text("agent_step,env_step,episodes,mean\n5,20,1,nan\n")
    final = {"agent_step": 10, "env_step": 40, "values": [score], "mean": score}
    (folder / "final.json").write_text(json.dumps(final))


def test_finished_runs_are_appended_once(tmp_path: Path) -> None:
    of = readme.tree("DMControl")
    results = tmp_path / "results"
    results.mkdir()
    for file in FILES:
        shutil.copy(of.results / file, results / file)
    for seed in (10, 9):
        make_run(tmp_path / "runs" / f"seed_{seed}", seed, seed / 3)
    before = of.runs.results(results)
    assert all("appended" in line for line in readme.append(of, results, [tmp_path / "runs"]))
    after = of.runs.results(results)
    assert len(after.runs) == len(before.runs) + 2
    new = after.runs[after.runs["preset"] == "p"]
    assert list(new["seed"]) == [9, 10]
    curves = after.curves[after.curves["run"].isin(new.index)]
    assert curves["mean"].fillna(-1.0).tolist() == [-1.0, 9 / 3, -1.0, 10 / 3]
    text = [(results / file).read_bytes() for file in FILES]
    assert all("already" in line for line in readme.append(of, results, [tmp_path / "runs"]))
    shutil.rmtree(tmp_path / "runs")
    make_run(tmp_path / "runs", 9, 0.7)
    with pytest.raises(SystemExit):
        readme.append(of, results, [tmp_path / "runs"])
    assert text == [(results / file).read_bytes() for file in FILES]
