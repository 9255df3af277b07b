"""Run folders to numbers: what is read, what may be compared, and what comes out of it."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import BASELINE, BUDGET, REPEAT, A, B, C, make_run, make_sweep, raw, read_all

from mlr_atari import protocol
from mlr_atari.errors import ConfigError
from mlr_atari.report import fairness, rows, runs, study
from mlr_atari.run import records


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return make_sweep(tmp_path / "runs")


# --- reading ------------------------------------------------------------------------------------


def test_a_run_folder_is_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path, A, "mlr-tag", 7, [1.0, 3.0], {20_000: 0.5, 40_000: 1.5})
    run = runs.read(folder)
    assert (run.method, run.task, run.seed, run.status) == ("mlr-tag", A, 7, "finished")
    assert run.setting[1:] == ("paper", BUDGET)
    assert run.final == runs.Point(BUDGET // REPEAT, BUDGET, 2, 2.0)
    assert [point.mean for point in run.curve] == [0.5, 1.5, 2.0]
    assert [point.step for point in run.curve] == [20_000, 40_000, BUDGET]
    assert run.normalized == pytest.approx(protocol.normalize(A, 2.0))
    assert run.facts["hours"] == "1.00"
    assert run.facts["versions"] == "python=3.11; torch=2.13.0"


def test_training_writes_what_is_read() -> None:
    assert records.EVAL_COLUMNS == runs.EVAL_COLUMNS


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
        ({"final": {protocol.STEP: BUDGET - 2 * REPEAT}}, "its budget is"),
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
    assert built.common == tuple(task for task in protocol.TASKS if task in (A, B))
    (row,) = (
        row for row in rows.aggregate_rows(built, []) if (row.method, row.metric) == ("mlr", "mean")
    )
    assert row.value == pytest.approx(0.4)
    notes = built.notes()
    assert f"{C} is not in the aggregates: not run with {BASELINE}" in notes
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
    known = protocol.published_scores(protocol.PUBLISHED_BENCHMARKS[0])["mlr"]
    expected = np.mean([protocol.normalize(task, known[task][0]) for task in (A, B)])
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
    name = protocol.PUBLISHED_BENCHMARKS[0]
    found = rows.aggregate_rows(study.Study({}, None, name), ["mlr"])
    with (protocol.PUBLISHED_FOLDER / "aggregates.csv").open(newline="") as file:
        printed = {
            row["metric"]: float(row["value"]) / protocol.SCALE
            for row in csv.DictReader(file)
            if (row["benchmark"], row["method"], row["kind"]) == (name, "mlr", "printed")
        }
    assert printed
    values = {row.metric: row.value for row in found}
    assert {metric: values[metric] for metric in printed} == pytest.approx(printed)


def test_final_json_is_never_replaced_by_a_better_evaluation(tmp_path: Path) -> None:
    folder = make_run(tmp_path, A, "mlr", 1, [raw(A, 0.1)] * 2, {60_000: raw(A, 0.9)})
    score = json.loads((folder / "final.json").read_text())
    (row,) = rows.task_rows(study.build([runs.read(folder)]), [])
    assert row.mean == pytest.approx(score["mean"])
