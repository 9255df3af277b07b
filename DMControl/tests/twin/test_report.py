"""From numbers to tables, figures and the page, and `report.py` as a user calls it."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import pytest
from synthetic_runs import BASELINE, A, B, make_run, make_sweep, raw, read_all

from mlr_dmcontrol import protocol
from mlr_dmcontrol.report import cli, plots, rows, study, tables


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return make_sweep(tmp_path / "runs")


# --- tables -------------------------------------------------------------------------------------


def test_tables_in_every_format(sweep: Path) -> None:
    table = tables.task_table(rows.task_rows(study.build(read_all(sweep)), ["mlr"]))
    assert table.header[1:3] == ("mlr, n = 3", f"{BASELINE}, n = 3")
    markdown = table.markdown().splitlines()
    assert markdown[2].startswith(f"| {A} | {raw(A, 0.4):.1f} [")
    assert len({line.count("|") for line in markdown}) == 1
    latex = table.latex()
    assert A.replace("_", r"\_") in latex
    assert re.search(r"(?<!\\)_", latex.split("toprule")[1]) is None
    assert "<td>" in table.html()


def test_csv_holds_the_numbers_and_leaves_nan_empty(tmp_path: Path) -> None:
    row = rows.CurveRow("a", "m", 5, 1.23456789, math.nan, math.nan, "1")
    tables.write_csv(tmp_path / "x.csv", [row])
    with (tmp_path / "x.csv").open(newline="") as file:
        (found,) = csv.DictReader(file)
    assert (found["step"], found["value"], found["low"]) == ("5", "1.23457", "")


# --- the command --------------------------------------------------------------------------------


def links(page: Path) -> list[str]:
    return re.findall(r'(?:src|href)="([^"#]+)"', page.read_text())


def test_the_report_is_complete_offline_and_the_same_every_time(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    for out in (first, again):
        assert cli.main([str(sweep), "--out", str(out)]) == 0
    assert str(first / "index.html") in capsys.readouterr().out
    (folder,) = (path for path in first.iterdir() if path.is_dir())
    stems = [
        "learning_curves", "sample_efficiency", "interval_estimates", "performance_profiles",
        "probability_of_improvement", "final_scores",
    ]  # fmt: skip
    expected = {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf", "csv")}
    expected |= {
        f"{stem}.{kind}" for stem in ("tasks", "aggregates") for kind in ("md", "tex", "csv")
    }
    assert {path.name for path in folder.iterdir()} == expected
    found = links(first / "index.html")
    assert len(found) > len(expected)
    assert [link for link in found if not (first / link).is_file()] == []
    assert "://" not in (first / "index.html").read_text()
    for path in (path for path in first.rglob("*") if path.is_file()):
        assert path.read_bytes() == (again / path.relative_to(first)).read_bytes(), path.name
    repro = (first / "repro.md").read_text()
    assert f"| mlr | {A} {B} | 1, 2, 3 |" in repro or f"| mlr | {B} {A} | 1, 2, 3 |" in repro
    assert "| hours of computing | 12.0 in 12 of 12 runs that recorded it |" in repro
    assert f"python train.py {protocol.TASK_KEY}={A} agent=mlr seed=1" in repro


def test_unfair_comparisons_are_refused_with_the_list(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(sweep, A, "mlr", 4, [1.0, 1.0], budget=50_000)
    make_run(sweep, B, "mlr", 4, status="failed", last_error="disk full")
    out = tmp_path / "out"
    assert cli.main([str(sweep), "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert "refused" in message
    assert "budget: 100000 (12 runs); 50000" in message
    assert "not finished (failed: disk full)" in message
    assert not out.exists()


def test_mixed_runs_are_drawn_apart_and_labelled_everywhere(sweep: Path, tmp_path: Path) -> None:
    make_run(sweep, A, "mlr", 1 + 3, [raw(A, 5.0)] * 2, budget=50_000)
    make_run(sweep, B, "mlr", 1 + 3, [raw(B, 5.0)] * 2, budget=50_000)
    mixed = study.build(read_all(sweep), mixed=True)
    labels = ("mlr (budget 100000)", "mlr (budget 50000)", f"{BASELINE} (budget 100000)")
    assert mixed.methods == labels
    means = {
        row.method: row.value for row in rows.aggregate_rows(mixed, []) if row.metric == "mean"
    }
    assert sorted(means.values()) == pytest.approx([0.2, 0.4, 5.0])
    assert mixed.published is None
    out = tmp_path / "out"
    assert cli.main([str(sweep), "--out", str(out), "--allow-mixed"]) == 0
    assert "MIXED runs, not a fair comparison" in (out / "index.html").read_text()
    assert "MIXED" in (out / "mixed" / "tasks.md").read_text()
    assert "MIXED" in (out / "mixed" / "tasks.tex").read_text()


def test_a_warning_is_printed_on_the_figure_itself(tmp_path: Path) -> None:
    figure = plots.performance_profiles([rows.ProfileRow("m", 0.5, 1.0, 0.9, 1.0)])
    plots.save(figure, tmp_path / "profile", "MIXED")
    assert figure.get_suptitle() == "MIXED"
    assert (tmp_path / "profile.pdf").stat().st_size > 1000


def test_duplicates_are_refused_even_as_mixed(sweep: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "copy", A, "mlr", 1, [1.0, 1.0])
    arguments = [str(sweep), str(tmp_path / "copy"), "--allow-mixed", "--out", str(tmp_path / "o")]
    assert cli.main(arguments) == 2


def test_no_runs_at_the_given_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert cli.main([str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_the_shipped_results_and_published_tables_make_a_report(tmp_path: Path) -> None:
    assert cli.main(["--out", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text()
    assert "mlr_baseline (published)" in page
    assert [
        link for link in links(tmp_path / "index.html") if not (tmp_path / link).is_file()
    ] == []


def test_methods_beyond_the_palette_are_still_told_apart(tmp_path: Path) -> None:
    for index in range(9):
        make_run(tmp_path, A, f"method_{index}", 1, [raw(A, index / 10)], {50_000: raw(A, 0.1)})
    built = study.build(read_all(tmp_path))
    assert len(rows.improvement_rows(built)) == 9 * 8 // 2
    (axes,) = plots.learning_curves(rows.task_curves(built), []).axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert len(looks) == 9
