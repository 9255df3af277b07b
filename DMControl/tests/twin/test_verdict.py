"""What is said of a plan: the tests, the runs that lack, and yes or no."""

from pathlib import Path

import pandas as pd
import pytest
from scipy import stats
from synthetic_runs import BASELINE, BUDGET, A, B, make_run, raw
from test_plan import read, written

from mlr_dmcontrol.report import page, runs, verdict

SCORES = {"mlr": (0.5, 0.6, 0.7), BASELINE: (0.1, 0.2, 0.15)}


@pytest.fixture
def planned(tmp_path: Path) -> Path:
    """A plan, all of whose runs are in `runs` beside it; MLR is ahead on A, not on B."""
    for method, scores in SCORES.items():
        for seed, score in enumerate(scores):
            for task, value in ((A, score), (B, 0.3 + seed / 10)):
                make_run(tmp_path / "runs", task, method, seed, [raw(task, value)], preset="laptop")
    holds = {"test": "welch", "above": 0, "ahead_on": 1, "p": 0.05}
    changes = {"methods": ["mlr"], "seeds": [0, 1, 2], "budget": BUDGET, "overrides": []}
    return written(tmp_path, **changes, holds_if=holds, hypothesis="\x1b[2JAhead")


def judged(path: Path) -> tuple[str, bool]:
    return verdict.judge(read(path), runs.load([path.parent / "runs"]))


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_tests_are_welchs_on_the_planned_runs_alone(planned: Path) -> None:
    own = runs.load([planned.parent / "runs"]).runs
    table = verdict.welch_tests(read(planned), own).set_index("task")
    x, y = ([raw(A, score) for score in SCORES[method]] for method in ("mlr", BASELINE))
    known = stats.ttest_ind(x, y, equal_var=False, alternative="greater")
    assert table.loc[A, "p"] == pytest.approx(known.pvalue)
    assert table.loc[A, "probability"] == 1.0
    assert table.loc[B, "value"] == pytest.approx(0.0)
    assert table.loc[verdict.MEAN, "value"] == pytest.approx(0.225)
    assert 0.0 < table.loc[A, "power"] < table.loc[B, "power"] < 1.0
    text, complete = judged(planned)
    assert complete and text.endswith("VERDICT: yes")
    assert all(map(str.isprintable, text.splitlines()))
    make_run(planned.parent / "runs", A, "mlr", 9, [raw(A, 99.0)], preset="laptop")
    make_run(planned.parent / "runs" / "short", A, "mlr", 1, budget=BUDGET // 2, preset="laptop")
    assert judged(planned) == (text, True)


@pytest.mark.parametrize(
    ("old", "new", "answer"),
    [
        ("ahead_on: 1", "ahead_on: 2", "no"),
        ("ahead_on: 1", "ahead_on: 0", "yes"),
        ("above: 0", f"above: {raw(A, 0.44) - raw(A, 0.0)}", "no"),
        ("p: 0.05", "p: 0.000001", "no"),
    ],
)
def test_what_counts_as_yes_is_the_plans(planned: Path, old: str, new: str, answer: str) -> None:
    change(planned, old, new)
    assert judged(planned)[0].endswith(f"VERDICT: {answer}")


def test_of_several_tasks_one_that_is_ahead_by_chance_is_not_enough() -> None:
    p = pd.Series({"a": 0.01, "b": 0.04, "c": 0.5, verdict.MEAN: 0.2})
    for ahead_on, expected in ((0, 0.2), (1, 0.03), (2, 0.08), (3, 0.5)):
        assert verdict.claim(ahead_on, p) == pytest.approx(expected)


def test_runs_that_lack_are_named_and_keep_the_verdict_open(
    planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = planned.parent / "runs"
    change(folder / A / "mlr" / "seed_2" / "run.json", "finished", "failed")
    (folder / B / "mlr" / "seed_1").rename(folder.parent / "elsewhere")
    (folder / B / "mlr" / "seed_0" / "run.json").write_text("{")
    change(planned, "overrides: []", "overrides: [threads=1]")
    assert page.main([str(folder), "--plan", str(planned)]) == 2
    said = capsys.readouterr()
    assert f"{A}/mlr/seed_2: not finished (failed)" in said.out
    assert {f"missing: {B}/mlr/{seed}" for seed in (0, 1)} <= set(said.out.splitlines())
    assert f"started without threads=1: {folder / A / 'mlr' / 'seed_0'}" in said.out
    assert "VERDICT: yes, so far: 3 of 12 runs" in said.out
    assert "run.json, line 1" in said.err
    # The other method is not there at all: nothing can be said.
    (folder / A / BASELINE).rename(folder.parent / "others")
    (folder / B / BASELINE).rename(folder.parent / "more")
    assert "VERDICT: open, so far" in judged(planned)[0]


def test_runs_that_cannot_belong_together_are_refused(
    planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = make_run(planned.parent / "runs" / "copy", A, "mlr", 1, [1.0], preset="laptop")
    assert page.main([str(planned.parent / "runs"), "--plan", str(planned)]) == 2
    assert str(copy) in capsys.readouterr().err
    assert page.main(["--plan", str(planned.parent / "none.yaml")]) == 2
    assert page.main(["--plan", str(planned)]) == 2  # nothing in results yet
