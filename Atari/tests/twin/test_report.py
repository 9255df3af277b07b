"""From runs to numbers, tables, figures and the page, and `report.py` as a user calls it."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import BASELINE, BUDGET, A, B, C, make_run, make_sweep, raw

from mlr_atari import protocol
from mlr_atari.report import page, plots, runs, tables


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return make_sweep(tmp_path / "runs")


def study(path: Path) -> tables.Study:
    return tables.build(runs.load([path]))


def row(table: pd.DataFrame, **values: Any) -> Any:
    """The one row in which these columns have these values."""
    for column, value in values.items():
        table = table[table[column] == value]
    (found,) = table.itertuples()
    return found


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
    whole = tables.aggregate_curves(study(sweep))
    own = whole[(whole["what"] == "iqm") & (whole["method"] == "mlr")]
    assert list(own["value"]) == pytest.approx([0.08, 0.24, 0.4])
    final = row(tables.aggregates(study(sweep), []), method="mlr", metric="iqm")
    assert tuple(own.iloc[-1][["low", "high"]]) == pytest.approx((final.low, final.high))
    # Only evaluations that all runs have are drawn, and of how many they are is said.
    make_run(sweep, A, "mlr", 4, [raw(A, 0.4)] * 2, {20_000: raw(A, 0.08), 70_000: math.nan})
    curves = tables.task_curves(study(sweep))
    own = curves[(curves["what"] == A) & (curves["method"] == "mlr")]
    assert list(own["step"]) == [20_000, BUDGET]
    assert list(own["value"]) == pytest.approx([raw(A, 0.08), raw(A, 0.4)])
    assert set(own["of"]) == {4}


@pytest.mark.parametrize(
    ("gain", "seeds", "said"),
    [(0.5, 3, "ahead"), (0.0, 3, "not told apart"), (-0.5, 3, "behind"), (0.5, 1, "not judged")],
)
def test_methods_are_compared_pair_by_pair(
    tmp_path: Path, gain: float, seeds: int, said: str
) -> None:
    for seed in range(seeds):
        for method, score in (("mlr", 0.6 + gain), (BASELINE, 0.6)):
            make_run(tmp_path, A, method, seed, [raw(A, score + seed / 50)] * 2)
    pairs = tables.comparisons(study(tmp_path))
    found = row(pairs, method="mlr", other=BASELINE)
    assert (found.difference, found.tasks) == (pytest.approx(gain), 1)
    assert found.probability == pytest.approx(0.5 + np.sign(gain) / 2)
    table, _ = tables.comparison_table(pairs)
    assert list(table["X is"]) == [said]
    assert (" [" in table["X − Y"][0]) == (seeds > 1)


def test_tasks_that_a_method_lacks_are_left_out_for_all_and_said(sweep: Path) -> None:
    make_run(sweep, C, "mlr", 1, [raw(C, 9.0)] * 2)
    built = study(sweep)
    assert built.common == [A, B]
    aggregates = tables.aggregates(built, [])
    assert row(aggregates, method="mlr", metric="mean").value == pytest.approx(0.4)
    _, caption = tables.aggregate_table(built, aggregates)
    assert f"{C} is left out: not run with {BASELINE}." in caption


def test_published_numbers_stand_beside_comparable_runs_only(sweep: Path) -> None:
    assert set(tables.task_scores(study(sweep), ["mlr"])["source"]) == {"ours", "published"}
    assert set(tables.aggregates(study(sweep), ["mlr"])["source"]) == {"ours"}  # two tasks only
    make_run(sweep / "laptop", A, "mlr", 1, preset="laptop")
    other, published, *_ = tables.shipped(runs.load([sweep / "laptop"]))
    assert set(tables.task_scores(other, ["mlr"])["source"]) == {"ours"}
    known = protocol.published_scores(protocol.PUBLISHED_BENCHMARKS[0])["mlr"]
    mean = np.mean([protocol.normalize(task, known[task][0]) for task in protocol.TASKS])
    found = row(tables.aggregates(published, ["mlr"]), metric="mean")
    assert found.value == pytest.approx(mean, abs=1e-3)
    # Nor do our own results of different settings ever meet.
    both = [study for study in tables.shipped(runs.load([sweep])) if study.setting]
    assert [len(study.runs) for study in both] == [1, 12]


def test_a_methods_name_breaks_no_table(sweep: Path) -> None:
    make_run(sweep, A, "a|b<c>", 1, [1.0, 1.0])
    table, _ = tables.task_table(tables.task_scores(study(sweep), ["mlr"]))
    lines = tables.markdown(table).splitlines()
    assert f"{raw(A, 0.4):.1f} [" in lines[2 + list(table[protocol.TASK_KEY]).index(A)]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<" not in lines[0]


def links(folder: Path) -> list[str]:
    return re.findall(r'(?:src|href)="([^"#]+)"', (folder / "index.html").read_text())


def test_the_report_is_complete_offline_and_the_same_every_time(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = make_run(sweep, A, "mlr", 4)
    (damaged / "config.yaml").write_text("<script>: [")
    first, again = tmp_path / "first", tmp_path / "again"
    for out in (first, again):
        assert page.main([str(sweep), "--out", str(out)]) == 0
    kinds = dict.fromkeys(("aggregates", "comparisons", "tasks", "seeds_needed"), "md tex csv")
    kinds |= dict.fromkeys(("learning_curves", "sample_efficiency", "final_scores"), "png pdf csv")
    expected = {f"{stem}.{kind}" for stem, many in kinds.items() for kind in many.split()}
    files = [path for path in first.rglob("*") if path.is_file()]
    assert {path.name for path in files} == expected | {"index.html"}
    assert {Path(link).name for link in links(first)} == expected
    assert all((first / link).is_file() for link in links(first))
    text = (first / "index.html").read_text()
    assert str(damaged) in capsys.readouterr().err
    assert str(damaged) in text
    assert "://" not in text
    for path in files:
        assert path.read_bytes() == (again / path.relative_to(first)).read_bytes(), path.name


def test_what_cannot_be_compared_is_refused(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for word in (f"--out={tmp_path}/file", "--out=/proc/none", "--published=nobody"):
        assert page.main([str(sweep), word]) == 2
        assert capsys.readouterr().err.startswith(f"error: {word}: ")
    make_run(sweep, A, "mlr", 4, [1.0, 1.0], budget=50_000)
    make_run(sweep, B, "mlr", 4, status="failed", last_error="disk full")
    (tmp_path / "empty").mkdir()
    for folder in (sweep, tmp_path / "empty", tmp_path / "nothing"):
        assert page.main([str(folder), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.count("error: ") == 3
    assert "budget: 100000 (12 runs); 50000" in message
    assert "not finished (failed: disk full)" in message
    assert not (tmp_path / "out").exists()


def test_names_in_a_run_are_neither_paths_nor_markup(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>$x_2$"
    for method in (script, "../../b"):
        folder = make_run(tmp_path / "runs", A, f"m{len(method)}", 1, [1.0])
        config = (folder / "config.yaml").read_text()
        names = {"name: m": f"name: '{method}' #", "preset: paper": f"preset: ../../<{'ä' * 90}"}
        for old, new in names.items():
            config = config.replace(old, new)
        (folder / "config.yaml").write_text(config)
    out = tmp_path / "deep" / "out"
    assert page.main([str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "deep"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert not any("<" in path.read_text() for path in out.rglob("*.md"))
    text = (out / "index.html").read_text()
    assert "<script" not in text
    assert "&lt;script" in text


def test_the_shipped_results_and_published_tables_make_a_report(tmp_path: Path) -> None:
    assert page.main(["--out", str(tmp_path), "--published=mlr_baseline,spr"]) == 0
    text = (tmp_path / "index.html").read_text()
    assert "mlr_baseline (published)" in text and "spr (published)" in text
    assert all((tmp_path / link).is_file() for link in links(tmp_path))


def test_many_methods_are_told_apart_and_compared_with_the_first(tmp_path: Path) -> None:
    for index in range(9):
        make_run(tmp_path, A, f"method_{index}", 1, [raw(A, index / 10)], {50_000: raw(A, 0.1)})
    built = study(tmp_path)
    assert len(tables.comparisons(built)) == 8
    (axes,) = plots.curves(tables.task_curves(built), tables.task_scores(built, [])).axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert len(looks) == 9
