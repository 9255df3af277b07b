"""Our own runs in `results/`, and the table of them in README.md."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from synthetic_runs import A, B, make_run, read_all

from mlr_dmcontrol import markdown, protocol
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.report import cli, fairness, readme, results, runs, study


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for task in (A, B):
        for seed in (1, 2):
            make_run(root, task, "mlr", seed, [0.1 * seed, 1 / 3], {50_000: 0.1})
    make_run(root, A, "sac", 1, status="failed", final={})
    return root


def test_finished_runs_are_appended_and_read_back(sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    added, skipped = results.append(folder, read_all(sweep))
    assert len(added) == 4
    assert len(skipped) == 1
    assert "not finished (failed)" in skipped[0]
    loaded = {run.name: run for run in results.load(folder)}
    for run in added:
        found = loaded[run.name]
        for field in ("setting", "final", "values", "curve", "settings", "facts"):
            assert getattr(found, field) == getattr(run, field), field


def test_rows_are_tidy(sweep: Path, tmp_path: Path) -> None:
    results.append(tmp_path, read_all(sweep))
    with (tmp_path / "runs.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row[protocol.TASK_KEY], row["seed"]) for row in found] == [
        (task, seed) for task in sorted((A, B)) for seed in ("1", "2")
    ]
    row = found[0]
    assert row["values"].split() == ["0.1", repr(1 / 3)]
    assert row["command"] == f"python train.py {protocol.TASK_KEY}={row[protocol.TASK_KEY]} " + (
        "agent=mlr seed=1"
    )
    assert row["revision"] == "abc123"
    with (tmp_path / "curves.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4 * 2


def test_appending_again_changes_nothing(sweep: Path, tmp_path: Path) -> None:
    results.append(tmp_path, read_all(sweep))
    before = (tmp_path / "runs.csv").read_bytes(), (tmp_path / "curves.csv").read_bytes()
    added, skipped = results.append(tmp_path, read_all(sweep))
    assert added == []
    assert sum("already in results" in line for line in skipped) == 4
    assert before == ((tmp_path / "runs.csv").read_bytes(), (tmp_path / "curves.csv").read_bytes())


def test_appending_in_parts_is_appending_at_once(sweep: Path, tmp_path: Path) -> None:
    found = read_all(sweep)
    results.append(tmp_path / "once", found)
    for run in reversed(found):
        results.append(tmp_path / "parts", [run])
    for name in ("runs.csv", "curves.csv"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_another_run_of_the_same_name_is_refused(sweep: Path, tmp_path: Path) -> None:
    results.append(tmp_path / "results", read_all(sweep))
    other = make_run(tmp_path / "again", A, "mlr", 1, [0.7, 0.7])
    with pytest.raises(ConfigError, match="another run of that name"):
        results.append(tmp_path / "results", [runs.read(other)])


def test_seeds_with_other_settings_are_refused(sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    results.append(folder, read_all(sweep))
    before = (folder / "runs.csv").read_bytes()
    other = make_run(tmp_path / "more", A, "mlr", 3, [1, 1], config={"agent.mask_ratio": 0.3})
    with pytest.raises(ConfigError, match="settings"):
        results.append(folder, [runs.read(other)])
    assert (folder / "runs.csv").read_bytes() == before


def test_settings_never_meet(sweep: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        make_run(sweep, A, "mlr-small", seed, [1.0], preset="laptop", budget=20_000)
    results.append(tmp_path, read_all(sweep))
    found = study.shipped(results.load(tmp_path), protocol.PUBLISHED_BENCHMARKS)
    named = [each for each in found if each.setting]
    assert sorted(each.setting.preset for each in named if each.setting) == ["laptop", "paper"]
    assert [each.published for each in named if each.methods == ("mlr-small",)] == [None]


def test_a_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("method,score\nmlr,1\n")
    with pytest.raises(ConfigError, match="other columns"):
        results.load(tmp_path)


# --- README -------------------------------------------------------------------------------------

BEGIN, END = markdown.markers(readme.BLOCK)
TEXT = f"# Title\n\nbefore\n{BEGIN}\n{END}\nafter\n"


def test_the_readme_table_follows_the_results(sweep: Path, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(TEXT)
    none: list[runs.Run] = []
    assert readme.is_stale(path, none)
    path.write_text(readme.updated(TEXT, none))
    assert not readme.is_stale(path, none)
    some = [run for run in read_all(sweep) if not fairness.unfit(run)]
    assert readme.is_stale(path, some)
    text = readme.updated(path.read_text(), some)
    assert text == readme.updated(text, some)
    assert text.startswith("# Title\n\nbefore\n")
    assert text.endswith("\nafter\n")
    assert "| mlr | " in text
    assert "| mlr (published) | " in text
    assert f"| {A} | " in text


def test_a_readme_without_markers_is_an_error() -> None:
    for text in ("", BEGIN, f"{END} {BEGIN}", TEXT + TEXT):
        with pytest.raises(ConfigError, match="needs one"):
            readme.updated(text, [])


def test_the_shipped_readme_is_fresh() -> None:
    shipped = results.load(cli.RESULTS)
    assert not readme.is_stale(cli.README, shipped), "run: python report.py --readme"


def test_the_shipped_results_are_fair() -> None:
    shipped = results.load(cli.RESULTS)
    for setting in {run.setting for run in shipped}:
        assert fairness.check([run for run in shipped if run.setting == setting]) == []


def test_files_are_replaced_whole(sweep: Path, tmp_path: Path) -> None:
    results.append(tmp_path / "results", read_all(sweep))
    assert sorted(os.listdir(tmp_path / "results")) == ["curves.csv", "runs.csv"]
