"""Run folders to numbers, tables, figures and the page, on runs with known answers."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import BUDGET, REPEAT, make_run

from mlr_atari.errors import ConfigError
from mlr_atari.report import benchmark, cli, fairness, plots, rows, runs, study, tables
from mlr_atari.run import records

A, B, C = benchmark.TASKS[:3]
BASELINE = "baseline"


def raw(task: str, normalized: float) -> float:
    """The raw score that is `normalized` on this task."""
    low, high = benchmark.normalize(task, 0.0), benchmark.normalize(task, 1.0)
    return (normalized - low) / (high - low)


def read_all(root: Path) -> list[runs.Run]:
    return [runs.read(folder) for folder in runs.find([root])]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two methods, two tasks, three seeds; normalised scores are seed/10 and, of `mlr`, +0.2."""
    root = tmp_path / "runs"
    for task in (A, B):
        for seed in (1, 2, 3):
            for method, bonus in (("mlr", 0.2), (BASELINE, 0.0)):
                final = seed / 10 + bonus
                values = [raw(task, final - 0.05), raw(task, final + 0.05)]
                curve = {step: raw(task, final * step / BUDGET) for step in (20_000, 60_000)}
                make_run(root, task, method, seed, values, curve)
    return root


# --- reading ------------------------------------------------------------------------------------


def test_a_run_folder_is_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path, A, "mlr-tag", 7, [1.0, 3.0], {20_000: 0.5, 40_000: 1.5})
    run = runs.read(folder)
    assert (run.method, run.task, run.seed, run.status) == ("mlr-tag", A, 7, "finished")
    assert run.setting[1:] == ("paper", BUDGET)
    assert run.final == runs.Point(BUDGET // REPEAT, BUDGET, 2, 2.0)
    assert [point.mean for point in run.curve] == [0.5, 1.5, 2.0]
    assert [point.step for point in run.curve] == [20_000, 40_000, BUDGET]
    assert run.normalized == pytest.approx(benchmark.normalize(A, 2.0))
    assert run.facts["hours"] == "1.00"
    assert run.facts["versions"] == "python=3.11; torch=2.13.0"


def test_training_writes_what_is_read() -> None:
    assert records.EVAL_COLUMNS == runs.EVAL_COLUMNS
    assert records.STEP == benchmark.STEP_COLUMN


def test_the_final_evaluation_replaces_the_one_at_the_budget(tmp_path: Path) -> None:
    run = runs.read(make_run(tmp_path, A, "mlr", 1, [2.0] * 5, {50_000: 1.0, BUDGET: 9.0}))
    assert [point.mean for point in run.curve] == [1.0, 2.0]


def test_commands_are_kept_without_what_exists_on_one_machine_only(tmp_path: Path) -> None:
    command = "/somewhere/train.py seed=1 runs_dir=/scratch/me tag='a b'"
    run = runs.read(make_run(tmp_path, A, "mlr", 1, command=command))
    assert run.facts["command"] == "python train.py seed=1 'tag=a b'"


def test_runs_are_found_once_wherever_they_lie(sweep: Path) -> None:
    below = sweep / A / "mlr" / "seed_1"
    assert len(runs.find([sweep])) == 12
    assert len(runs.find([below, sweep / A, sweep])) == 12
    with pytest.raises(ConfigError, match="no such folder"):
        runs.find([sweep / "nothing"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", "{", "cannot be read"),
        ("run.json", '{"status": "finished"}', "no protocol"),
        ("run.json", '{"status": "odd", "protocol": "p"}', "status=odd"),
        ("config.yaml", "seed: 1\npreset: paper\nbudget: 1\n", "needs"),
        ("final.json", '{"values": [1]}', "no agent_step"),
        ("eval.csv", "step,mean\n1,2\n", "no column agent_step"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    folder = make_run(tmp_path, A, "mlr", 1)
    (folder / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        runs.read(folder)
    assert name in str(error.value)


# --- the gate -----------------------------------------------------------------------------------


def test_a_fair_comparison_has_no_reasons(sweep: Path) -> None:
    assert fairness.check(read_all(sweep)) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "running"}, "not finished (running)"),
        ({"status": "failed", "last_error": "boom"}, "not finished (failed: boom)"),
        ({"final": {}}, "no final.json"),
        ({"final": {"mean": None}}, "not a finite number"),
        ({"values": [1.0, float("nan")]}, "not a finite number"),
        ({"final": {"mean": 5.0}}, "not the mean of its episodes"),
        ({"final": {"values": []}}, "no episode"),
        ({"final": {benchmark.STEP_COLUMN: BUDGET - 2 * REPEAT}}, "its budget is"),
        ({"protocol": "other"}, "protocol: "),
        ({"preset": "laptop"}, "preset: "),
        ({"budget": 50_000}, "budget: "),
        ({"values": [1.0] * 3}, "episodes of the final evaluation: "),
    ],
)
def test_what_is_not_comparable_is_listed(sweep: Path, change: dict, reason: str) -> None:
    make_run(sweep, A, "mlr", 4, **({"values": [1.0, 1.0]} | change))
    reasons = fairness.check(read_all(sweep))
    assert any(reason in each for each in reasons), reasons


def test_seeds_run_with_other_settings_are_listed_by_key(sweep: Path) -> None:
    make_run(sweep, A, "mlr", 4, [1.0, 1.0], config={"agent.mask_ratio": 0.3})
    (reason,) = fairness.check(read_all(sweep))
    assert reason.startswith(f"{A}, mlr: agent.mask_ratio: None ({A}/mlr/seed_1, ")
    assert f"0.3 ({A}/mlr/seed_4)" in reason


def test_seeds_may_differ_in_what_does_not_shape_the_result(sweep: Path) -> None:
    harmless = {"device": "cuda", "tag": "x", "logging.every": 3, "runs_dir": "elsewhere"}
    make_run(sweep, A, "mlr", 4, [1.0, 1.0], config=harmless)
    assert fairness.check(read_all(sweep)) == []


def test_the_same_run_twice_is_not_counted_twice(sweep: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "copy", A, "mlr", 1, [1.0, 1.0])
    (reason,) = fairness.check(read_all(sweep) + read_all(tmp_path / "copy"))
    assert "2 runs of the same seed" in reason


# --- numbers ------------------------------------------------------------------------------------


def test_aggregates_of_runs_with_known_scores(sweep: Path) -> None:
    found = {
        (row.method, row.metric): row
        for row in rows.aggregate_rows(study.build(read_all(sweep)), [])
    }
    for method, mean in (("mlr", 0.4), (BASELINE, 0.2)):
        assert found[method, "mean"].value == pytest.approx(mean)
        assert found[method, "median"].value == pytest.approx(mean)
        assert found[method, "iqm"].value == pytest.approx(mean)
        assert found[method, "optimality_gap"].value == pytest.approx(1 - mean)
        row = found[method, "mean"]
        assert row.low < row.value < row.high
        assert (row.tasks, row.runs_per_task, row.source) == (2, "3", "ours")


def test_scores_of_a_task(sweep: Path) -> None:
    row = next(
        row
        for row in rows.task_rows(study.build(read_all(sweep)), [])
        if (row.task, row.method) == (B, "mlr")
    )
    assert row.mean == pytest.approx(raw(B, 0.4))
    assert row.std == pytest.approx(raw(B, 0.4) - raw(B, 0.3))
    assert row.low >= raw(B, 0.3) - 1e-6
    assert row.high <= raw(B, 0.5) + 1e-6
    assert row.runs == "3"


def test_learning_curves_are_unsmoothed_means_and_end_in_the_final_score(sweep: Path) -> None:
    built = study.build(read_all(sweep))
    found = [row for row in rows.task_curves(built) if (row.what, row.method) == (A, "mlr")]
    assert [row.step for row in found] == [20_000, 60_000, BUDGET]
    expected = [raw(A, 0.08), raw(A, 0.24), raw(A, 0.4)]
    assert [row.value for row in found] == pytest.approx(expected)
    whole = [
        row for row in rows.aggregate_curves(built) if (row.what, row.method) == ("iqm", "mlr")
    ]
    assert [row.value for row in whole] == pytest.approx([0.08, 0.24, 0.4])
    final = {row.metric: row for row in rows.aggregate_rows(built, []) if row.method == "mlr"}
    assert (whole[-1].low, whole[-1].high) == (final["iqm"].low, final["iqm"].high)


def test_only_evaluations_that_all_runs_have_are_drawn(sweep: Path) -> None:
    make_run(sweep, A, "mlr", 4, [1.0, 1.0], {20_000: 1.0, 70_000: math.nan})
    built = study.build(read_all(sweep))
    found = [row.step for row in rows.task_curves(built) if (row.what, row.method) == (A, "mlr")]
    assert found == [20_000, BUDGET]
    assert rows.uneven_curves(built) == [f"{A}, mlr: 2 of 4 evaluations in the curve"]


def test_profiles_and_improvement(sweep: Path) -> None:
    built = study.build(read_all(sweep))
    share = {(row.method, round(row.threshold, 6)): row.share for row in rows.profile_rows(built)}
    assert share["mlr", 0.36] == pytest.approx(2 / 3)
    assert share[BASELINE, 0.36] == 0.0
    (pair,) = rows.improvement_rows(built)
    # Of nine pairs 0.3 0.4 0.5 against 0.1 0.2 0.3 one is a tie (up to rounding, hence the slack).
    assert (pair.method, pair.other, pair.tasks) == ("mlr", BASELINE, 2)
    assert pair.probability == pytest.approx(8.5 / 9, abs=0.06)


def test_missing_tasks_are_left_out_for_all_and_said(sweep: Path) -> None:
    make_run(sweep, C, "mlr", 1, [raw(C, 9.0)] * 2)
    built = study.build(read_all(sweep))
    assert built.common == tuple(task for task in benchmark.TASKS if task in (A, B))
    (row,) = (
        row for row in rows.aggregate_rows(built, []) if (row.method, row.metric) == ("mlr", "mean")
    )
    assert row.value == pytest.approx(0.4)
    notes = built.notes()
    assert f"mlr: not in the aggregates: {C}" in notes
    assert any("tasks missing" in note and note.startswith(BASELINE) for note in notes)


def test_one_seed_and_unequal_seeds_are_said(sweep: Path) -> None:
    make_run(sweep, A, "mlr", 4, [1.0, 1.0])
    make_run(sweep, A, "extra", 1, [1.0, 1.0])
    make_run(sweep, B, "extra", 1, [1.0, 1.0])
    built = study.build(read_all(sweep))
    notes = "\n".join(built.notes())
    assert "mlr: unequal runs per task (3 to 4)" in notes
    assert "extra: one run per task: no interval" in notes
    assert f"methods differ in their number of seeds: mlr 4, {BASELINE} 3, extra 1" in notes
    row = next(row for row in rows.aggregate_rows(built, []) if row.method == "extra")
    assert math.isnan(row.low)
    assert row.note == "one run per task: no interval"


def test_published_numbers_stand_beside_comparable_runs_only(sweep: Path) -> None:
    built = study.build(read_all(sweep))
    found = {row.metric: row for row in rows.aggregate_rows(built, ["mlr"]) if row.source != "ours"}
    known = benchmark.published_scores(benchmark.PUBLISHED_BENCHMARKS[0])["mlr"]
    expected = np.mean([benchmark.normalize(task, known[task][0]) for task in (A, B)])
    # Over two of the tasks the metrics of single runs are not known, and none is made up.
    assert set(found) == {"mean", "median"}
    assert found["mean"].value == pytest.approx(expected)
    assert math.isnan(found["mean"].low)
    assert "mean only, no interval" in found["mean"].note


def test_published_numbers_are_not_shown_for_another_preset(tmp_path: Path) -> None:
    make_run(tmp_path, A, "mlr", 1, preset="laptop")
    built = study.build(read_all(tmp_path))
    assert all(row.source == "ours" for row in rows.task_rows(built, ["mlr"]))
    assert any("published numbers are not shown" in note for note in built.notes())


def test_published_aggregates_over_the_whole_benchmark_are_the_sources_own() -> None:
    name = benchmark.PUBLISHED_BENCHMARKS[0]
    found = rows.aggregate_rows(study.Study({}, None, name), ["mlr"])
    with (benchmark.FOLDER / "aggregates.csv").open(newline="") as file:
        printed = {
            row["metric"]: float(row["value"]) / benchmark.SCALE
            for row in csv.DictReader(file)
            if (row["benchmark"], row["method"], row["kind"]) == (name, "mlr", "printed")
        }
    assert printed
    values = {row.metric: row.value for row in found}
    assert {metric: values[metric] for metric in printed} == pytest.approx(printed)


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
    assert f"python train.py {benchmark.TASK_KEY}={A} agent=mlr seed=1" in repro


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


def test_final_json_is_never_replaced_by_a_better_evaluation(tmp_path: Path) -> None:
    folder = make_run(tmp_path, A, "mlr", 1, [raw(A, 0.1)] * 2, {60_000: raw(A, 0.9)})
    score = json.loads((folder / "final.json").read_text())
    (row,) = rows.task_rows(study.build([runs.read(folder)]), [])
    assert row.mean == pytest.approx(score["mean"])
