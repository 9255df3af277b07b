"""From runs to numbers, tables, figures and the page, and `report.py` as a user calls it."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import BASELINE, BUDGET, A, B, C, make_run, make_sweep, raw

from mlr_dmcontrol import protocol
from mlr_dmcontrol.report import page, plots, runs, tables


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return make_sweep(tmp_path / "runs")


def study(*paths: Path, mixed: bool = False) -> tables.Study:
    return tables.build(runs.load(paths), mixed)


def row(table: pd.DataFrame, **values: Any) -> Any:
    """The one row in which these columns have these values."""
    for column, value in values.items():
        table = table[table[column] == value]
    (found,) = table.itertuples()
    return found


# --- numbers ------------------------------------------------------------------------------------


def test_aggregates_of_runs_with_known_scores(sweep: Path) -> None:
    table = tables.aggregates(study(sweep), [])
    for method, mean in (("mlr", 0.4), (BASELINE, 0.2)):
        for metric in ("iqm", "median", "mean"):
            assert row(table, method=method, metric=metric).value == pytest.approx(mean)
        assert row(table, method=method, metric="optimality_gap").value == pytest.approx(1 - mean)
        found = row(table, method=method, metric="mean")
        assert found.low < found.value < found.high
        assert (found.tasks, found.runs, found.source) == (2, "3", "ours")
    found = row(tables.task_scores(study(sweep), []), task=B, method="mlr")
    assert (found.mean, found.std) == pytest.approx((raw(B, 0.4), raw(B, 0.4) - raw(B, 0.3)))


def test_learning_curves_are_unsmoothed_means_and_end_in_the_final_score(sweep: Path) -> None:
    curves = tables.task_curves(study(sweep))
    own = curves[(curves["what"] == A) & (curves["method"] == "mlr")]
    assert list(own["step"]) == [20_000, 60_000, BUDGET]
    assert list(own["value"]) == pytest.approx([raw(A, 0.08), raw(A, 0.24), raw(A, 0.4)])
    whole = tables.aggregate_curves(study(sweep))
    own = whole[(whole["what"] == "iqm") & (whole["method"] == "mlr")]
    assert list(own["value"]) == pytest.approx([0.08, 0.24, 0.4])
    final = row(tables.aggregates(study(sweep), []), method="mlr", metric="iqm")
    assert tuple(own.iloc[-1][["low", "high"]]) == pytest.approx((final.low, final.high))
    # Only evaluations that all runs have are drawn, and of how many they are is said.
    make_run(sweep, A, "mlr", 4, [1.0, 1.0], {20_000: 1.0, 70_000: math.nan})
    curves = tables.task_curves(study(sweep))
    own = curves[(curves["what"] == A) & (curves["method"] == "mlr")]
    assert list(own["step"]) == [20_000, BUDGET]
    assert set(own["of"]) == {4}


def test_profiles_and_comparisons(sweep: Path) -> None:
    table = tables.profiles(study(sweep))
    at = table[np.isclose(table["threshold"], 0.36)]
    assert row(at, method="mlr").share == pytest.approx(2 / 3)
    assert row(at, method=BASELINE).share == 0.0
    (pair,) = tables.comparisons(study(sweep)).itertuples()
    assert (pair.method, pair.other, pair.tasks) == ("mlr", BASELINE, 2)
    assert pair.difference == pytest.approx(0.2)
    # Of nine pairs 0.3 0.4 0.5 against 0.1 0.2 0.3 one is a tie (up to rounding, hence the slack).
    assert pair.probability == pytest.approx(8.5 / 9, abs=0.06)


def test_tasks_that_a_method_lacks_are_left_out_for_all_and_said(sweep: Path) -> None:
    make_run(sweep, C, "mlr", 1, [raw(C, 9.0)] * 2)
    built = study(sweep)
    assert built.common == [task for task in protocol.TASKS if task in (A, B)]
    aggregates = tables.aggregates(built, [])
    assert row(aggregates, method="mlr", metric="mean").value == pytest.approx(0.4)
    _, caption = tables.aggregate_table(built, aggregates)
    assert f"{C} is left out: not run with {BASELINE}." in caption


def test_one_run_of_a_task_has_no_interval_and_no_verdict(sweep: Path) -> None:
    make_run(sweep, A, "extra", 1, [raw(A, 9.0)] * 2)
    make_run(sweep, B, "extra", 1, [raw(B, 9.0)] * 2)
    built = study(sweep)
    assert math.isnan(row(tables.aggregates(built, []), method="extra", metric="mean").low)
    pairs = tables.comparisons(built)
    assert math.isnan(row(pairs, method="mlr", other="extra").difference_low)
    said = " ".join(tables.verdict(built, pairs))
    assert "cannot be judged, with one run of a task, against extra" in said


@pytest.mark.parametrize(
    ("gain", "said"),
    [(0.5, "is ahead of"), (0.0, "is not told apart from"), (-0.5, "is behind")],
)
def test_the_verdict_is_about_mlr_and_its_baseline(tmp_path: Path, gain: float, said: str) -> None:
    for seed in (1, 2, 3):
        for method, score in (("mlr", 0.6 + gain), (BASELINE, 0.6)):
            make_run(tmp_path, A, method, seed, [raw(A, score + seed / 50)] * 2)
    built = study(tmp_path)
    (sentence,) = tables.verdict(built, tables.comparisons(built))
    assert sentence.startswith(f"mlr {said} its Baseline, {BASELINE}: ")


def test_published_numbers_stand_beside_comparable_runs_only(sweep: Path) -> None:
    table = tables.aggregates(study(sweep), ["mlr"])
    table = table[table["source"] == "published"]
    known = protocol.published_scores(protocol.PUBLISHED_BENCHMARKS[0])["mlr"]
    expected = np.mean([protocol.normalize(task, known[task][0]) for task in (A, B)])
    # Over two of the tasks the metrics of single runs are not known, and none is made up.
    assert set(table["metric"]) == {"mean", "median"}
    assert row(table, metric="mean").value == pytest.approx(expected)
    assert math.isnan(row(table, metric="mean").low)
    make_run(sweep / "laptop", A, "mlr", 1, preset="laptop")
    other = study(sweep / "laptop")
    assert set(tables.task_scores(other, ["mlr"])["source"]) == {"ours"}


# --- tables -------------------------------------------------------------------------------------


def test_tables_in_markdown(sweep: Path) -> None:
    make_run(sweep, A, "a|b<c>", 1, [1.0, 1.0])
    table, _ = tables.task_table(tables.task_scores(study(sweep), ["mlr"]))
    assert list(table.columns[1:3]) == ["mlr, n = 3", f"{BASELINE}, n = 3"]
    lines = tables.markdown(table).splitlines()
    assert f"{raw(A, 0.4):.1f} [" in lines[2 + list(table[protocol.TASK_KEY]).index(A)]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<" not in lines[0]


def test_results_of_different_settings_never_meet(sweep: Path) -> None:
    make_run(sweep, A, "mlr", 4, [1.0], preset="laptop")
    found = [study for study in tables.shipped(runs.load([sweep])) if study.setting]
    assert sorted(study.setting.preset for study in found if study.setting) == ["laptop", "paper"]
    assert [len(study.runs) for study in found] == [1, 12]


# --- the command --------------------------------------------------------------------------------


def links(folder: Path) -> list[str]:
    return re.findall(r'(?:src|href)="([^"#]+)"', (folder / "index.html").read_text())


def test_the_report_is_complete_offline_and_the_same_every_time(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    for out in (first, again):
        assert page.main([str(sweep), "--out", str(out)]) == 0
    assert str(first / "index.html") in capsys.readouterr().out
    (folder,) = (path for path in first.iterdir() if path.is_dir())
    stems = [
        "learning_curves", "sample_efficiency", "interval_estimates", "performance_profiles",
        "comparisons", "final_scores",
    ]  # fmt: skip
    expected = {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf", "csv")}
    expected |= {
        f"{stem}.{kind}"
        for stem in ("tasks", "aggregates", "seeds_needed")
        for kind in ("md", "tex", "csv")
    }
    assert {path.name for path in folder.iterdir()} == expected
    assert {Path(link).name for link in links(first)} == expected
    assert all((first / link).is_file() for link in links(first))
    text = (first / "index.html").read_text()
    assert "://" not in text
    assert text.index('class="verdict') < text.index("<table>") < text.index("<img")
    for path in (path for path in first.rglob("*") if path.is_file()):
        assert path.read_bytes() == (again / path.relative_to(first)).read_bytes(), path.name
    with (folder / "final_scores.csv").open(newline="") as file:
        commands = [line["command"] for line in csv.DictReader(file)]
    assert f"python train.py {protocol.TASK_KEY}={A} agent=mlr seed=1" in commands


def test_unfair_comparisons_are_refused_with_the_list(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(sweep, A, "mlr", 4, [1.0, 1.0], budget=50_000)
    make_run(sweep, B, "mlr", 4, status="failed", last_error="disk full")
    out = tmp_path / "out"
    assert page.main([str(sweep), "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert "budget: 100000 (12 runs); 50000" in message
    assert "not finished (failed: disk full)" in message
    assert not out.exists()


def test_mixed_runs_are_drawn_apart_and_labelled_everywhere(sweep: Path, tmp_path: Path) -> None:
    for task in (A, B):
        make_run(sweep, task, "mlr", 4, [raw(task, 5.0)] * 2, budget=50_000)
    mixed = study(sweep, mixed=True)
    labels = ["mlr (budget 100000)", "mlr (budget 50000)", f"{BASELINE} (budget 100000)"]
    assert mixed.methods == labels
    table = tables.aggregates(mixed, [])
    means = table[table["metric"] == "mean"]["value"]
    assert sorted(means) == pytest.approx([0.2, 0.4, 5.0])
    assert mixed.published is None
    out = tmp_path / "out"
    assert page.main([str(sweep), "--out", str(out), "--allow-mixed"]) == 0
    for name in ("index.html", "mixed/tasks.md", "mixed/tasks.tex"):
        assert "MIXED" in (out / name).read_text()
    caption = (out / "mixed" / "tasks.tex").read_text()
    assert not re.search(r"(?<!\\)%", caption), "the rest of the line would be a comment"


def test_duplicates_and_empty_places_are_refused(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    make_run(tmp_path / "copy", A, "mlr", 1, [1.0, 1.0])
    assert page.main([str(sweep), str(tmp_path / "copy"), "--allow-mixed", *out]) == 2
    (tmp_path / "empty").mkdir()
    assert page.main([str(tmp_path / "empty"), *out]) == 2
    assert page.main([str(tmp_path / "nothing"), *out]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_names_in_a_run_are_neither_paths_nor_markup(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>$x_2$"
    for method in (script, "../../b"):
        for seed in (1, 2):
            folder = make_run(
                tmp_path / "runs", A, f"m{seed}{len(method)}", seed, [float(seed)] * 2
            )
            config = (folder / "config.yaml").read_text()
            names = {"name: m": f"name: '{method}' #", "preset: paper": f"preset: ../../{'ä' * 90}"}
            for old, new in names.items():
                config = config.replace(old, new)
            (folder / "config.yaml").write_text(config)
    out = tmp_path / "deep" / "out"
    assert page.main([str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "deep"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    text = (out / "index.html").read_text()
    assert "<script" not in text
    assert "&lt;script" in text


def test_the_shipped_results_and_published_tables_make_a_report(tmp_path: Path) -> None:
    assert page.main(["--out", str(tmp_path)]) == 0
    assert "mlr_baseline (published)" in (tmp_path / "index.html").read_text()
    assert all((tmp_path / link).is_file() for link in links(tmp_path))


def test_many_methods_are_told_apart_and_compared_with_the_first(tmp_path: Path) -> None:
    for index in range(9):
        make_run(tmp_path, A, f"method_{index}", 1, [raw(A, index / 10)], {50_000: raw(A, 0.1)})
    built = study(tmp_path)
    assert len(tables.comparisons(built)) == 8
    curves = tables.task_curves(built)
    (axes,) = plots.learning_curves(curves, tables.task_scores(built, [])).axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert len(looks) == 9
