"""Run folders to one table: what is read, found, damaged, fair, and how far runs are."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_runs import BASELINE, BUDGET, REPEAT, A, B, make_run, make_sweep

from mlr_atari import protocol
from mlr_atari.errors import ConfigError
from mlr_atari.report import page, runs

TREE = Path(__file__).resolve().parents[2]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return make_sweep(tmp_path / "runs")


# --- reading ------------------------------------------------------------------------------------


def test_a_run_folder_is_a_row_and_its_curve(tmp_path: Path) -> None:
    evaluations = {20_000: 0.5, 40_000: 1.5, BUDGET: 9.0}
    command = "/some/train.py seed=7 runs_dir=/scratch tag='a b'"
    config = {"tag": "x"}
    make_run(tmp_path, A, "mlr", 7, [1.0, 3.0], evaluations, config=config, command=command)
    found = runs.load([tmp_path])
    (run,) = found.runs.itertuples()
    assert (run.method, run.task, run.seed, run.status) == ("mlr-x", A, 7, "finished")
    assert (run.preset, run.budget, run.agent_step) == ("paper", BUDGET, BUDGET // REPEAT)
    assert (run.mean, run.values, run.episodes) == (2.0, (1.0, 3.0), 2)
    assert run.normalized == pytest.approx(protocol.normalize(A, 2.0))
    assert (run.hours, run.versions) == ("1.00", "python=3.11; torch=2.13.0")
    assert run.command == "python train.py seed=7 'tag=a b'"
    # The final evaluation replaces the one at the budget.
    assert list(found.curves["step"]) == [20_000, 40_000, BUDGET]
    assert list(found.curves["mean"]) == [0.5, 1.5, 2.0]


def run_without(blocked: list[str], code: str) -> None:
    """Run `code` in a process that has none of the `blocked` packages."""
    start = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {blocked}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
    )
    subprocess.run([sys.executable, "-c", start + code], cwd=TREE, check=True)


def test_neither_torch_nor_a_simulator_is_needed(sweep: Path, tmp_path: Path) -> None:
    words = [str(sweep), "--out", str(tmp_path / "out")]
    run_without(
        ["torch", "gymnasium", "dm_control", "mujoco", "ale_py", "kornia", "hydra"],
        f"from mlr_atari.report.page import main\nsys.exit(main({words}))",
    )


def test_training_needs_nothing_of_the_report() -> None:
    run_without(["pandas", "tabulate", "jinja2"], "import train, evaluate")


# --- finding ------------------------------------------------------------------------------------


def found_in(*paths: Path) -> list[Path]:
    return runs.find(paths)[0]


def test_runs_are_found_once_wherever_they_lie(sweep: Path, tmp_path: Path) -> None:
    method = sweep / A / "mlr"
    assert len(found_in(sweep)) == len(found_in(method / "seed_1", sweep / A, sweep)) == 12
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "ours").symlink_to(method)
    (method / "again").symlink_to(sweep)  # a loop
    assert len(found_in(tmp_path / "links")) == 12
    assert len(found_in(sweep, tmp_path / "links")) == 12
    (method / ".ipynb_checkpoints").mkdir()
    (method / ".ipynb_checkpoints" / "run.json").write_text("{}")
    assert len(found_in(sweep)) == 12
    with pytest.raises(ConfigError):
        found_in(sweep / "nothing")


def test_a_method_is_named_by_its_configuration(sweep: Path, tmp_path: Path) -> None:
    os.rename(sweep / A / "mlr" / "seed_1", tmp_path / "the best one (old)")
    (row,) = runs.load([tmp_path / "the best one (old)"]).runs.itertuples()
    assert row.name == f"{A}/mlr/seed_1"


# --- damage -------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-14])


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def change(**values: object) -> Callable[[Path], None]:
    return lambda path: text(json.dumps(json.loads(path.read_text()) | values))(path)


def add(line: str) -> Callable[[Path], None]:
    return lambda path: text(path.read_text() + line)(path)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BOMB = "a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]\n"
# File, what happens to it, and the line that is named; 0: none.
DAMAGES = [
    ("run.json", text(""), 1),
    ("run.json", cut, 1),
    ("run.json", text("[" * 100_000), 0),
    ("run.json", change(status="odd"), 0),
    ("run.json", change(protocol="a\nb"), 0),
    ("run.json", change(command="it's"), 0),
    ("run.json", pipe, 0),
    ("run.json", folder, 0),
    ("config.yaml", add("  - {oops"), 8),
    ("config.yaml", add(BOMB), 9),
    ("config.yaml", add("x: !!python/object/apply:os.system [exit]\n"), 8),
    ("config.yaml", add("x: " + "[" * 100_000), 0),
    ("config.yaml", lambda path: path.write_bytes(path.read_bytes() + b"x: caf\xe9\n"), 8),
    ("config.yaml", lambda path: path.write_text(path.read_text(), encoding="utf-16"), 1),
    ("config.yaml", add("seed: null\n"), 0),
    ("config.yaml", add("x: [{1: 2, y: 3}]\n"), 0),
    ("config.yaml", add("x: 0x" + "f" * 5000), 8),
    ("config.yaml", Path.unlink, 0),
    ("eval.csv", text("agent_step,env_step,episodes,mean,mean\n"), 1),
    ("eval.csv", lambda path: path.write_bytes(path.read_bytes() + b"\0\n"), 4),
    ("eval.csv", text(""), 1),
    ("eval.csv", cut, 3),
    ("eval.csv", add("15,60\n"), 4),
    ("eval.csv", add("15,60,2,x,0,0\n"), 4),
    ("eval.csv", add(f"{10**400},60,2,1,0,0\n"), 4),
    ("eval.csv", add("15,60,2,1e300,0,0\n"), 4),
    ("eval.csv", text("step,mean\n1,2\n"), 1),
    ("eval.csv", add('"15\n'), 4),
    ("final.json", cut, 1),
    ("final.json", change(values=["-20", None]), 0),
    ("final.json", change(mean=10**400), 0),
    ("final.json", change(values=[1e300]), 0),
]


@pytest.mark.parametrize(("name", "damage", "line"), DAMAGES)
def test_a_damaged_run_is_named_and_the_others_are_read(
    tmp_path: Path, name: str, damage: Callable[[Path], None], line: int
) -> None:
    for seed in (1, 2):
        folder = make_run(tmp_path, A, "mlr", seed, [1.0], {20_000: 1.0, 40_000: 2.0})
    damage(folder / name)
    found = runs.load([tmp_path])
    assert list(found.runs["seed"]) == [1]
    (said,) = found.unreadable
    assert said.startswith(str(folder / name) + (f", line {line}: " if line else ": "))
    assert len(said.splitlines()) == 1
    assert page.main([str(tmp_path), "--status"]) == 2


def test_editors_marks_are_no_damage(tmp_path: Path) -> None:
    path = make_run(tmp_path, A, "mlr", 1, [1.0], {20_000: 1.0})
    for name in ("run.json", "config.yaml", "eval.csv", "final.json"):
        lines = (path / name).read_text().splitlines()  # as Windows and a byte order mark have it
        (path / name).write_text("\ufeff" + "\r\n".join(lines) + "\r\n", newline="")
    found = runs.load([tmp_path])
    assert (found.unreadable, list(found.runs["mean"])) == ((), [1.0])
    assert list(found.curves["step"]) == [20_000, BUDGET]


def test_a_report_goes_on_without_what_is_damaged(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = make_run(sweep, A, "mlr", 4)
    (damaged / "config.yaml").write_text("<script>: [")
    assert page.main([str(sweep), "--out", str(tmp_path / "out")]) == 0
    assert str(damaged) in capsys.readouterr().err
    assert str(damaged) in (tmp_path / "out" / "index.html").read_text()


def test_a_run_that_goes_on_has_no_final_score_yet(tmp_path: Path) -> None:
    make_run(tmp_path, A, "mlr", 1, curve={BUDGET: 1.0, 2 * BUDGET: 2.0}, status="running")
    found = runs.load([tmp_path])
    assert list(found.runs["episodes"]) == [0]
    assert list(found.curves["step"]) == [BUDGET, 2 * BUDGET]


def test_what_is_being_written_is_not_damaged(tmp_path: Path) -> None:
    folder = make_run(tmp_path, A, "mlr", 1, curve={20_000: 1.0}, status="running", final={})
    add("500,40")(folder / "eval.csv")
    assert list(runs.load([tmp_path]).curves["step"]) == [20_000]


# --- the gate -----------------------------------------------------------------------------------


def reasons(*paths: Path) -> list[str]:
    return runs.check(runs.load(paths).runs)


def test_a_fair_comparison_has_no_reasons(sweep: Path) -> None:
    harmless = {"device": "cuda", "logging.every": 3, "runs_dir": "elsewhere"}
    make_run(sweep, A, "mlr", 4, [1.0, 1.0], config=harmless)
    assert reasons(sweep) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "running"}, "not finished (running)"),
        ({"status": "failed", "last_error": "boom"}, "not finished (failed: boom)"),
        ({"final": {}}, "no final score"),
        ({"final": {"mean": None}}, "not a finite number"),
        ({"values": [1.0, float("nan")]}, "not a finite number"),
        ({"final": {"mean": 5.0}}, "not the mean of its episodes"),
        ({"final": {"values": []}}, "no final score"),
        ({"final": {protocol.STEP: BUDGET - 2 * REPEAT}}, "its budget is"),
        ({"protocol": "other"}, "protocol: "),
        ({"preset": "laptop"}, "preset: "),
        ({"budget": 50_000}, "budget: "),
        ({"values": [1.0] * 3}, "episodes: "),
        ({"config": {"agent.mask_ratio": 0.3}}, f"{A}, mlr: agent.mask_ratio: None ("),
    ],
)
def test_what_is_not_comparable_is_listed(sweep: Path, change: dict, reason: str) -> None:
    make_run(sweep, A, "mlr", 4, **({"values": [1.0, 1.0]} | change))
    assert any(reason in line for line in reasons(sweep)), reasons(sweep)


def test_a_final_score_that_its_episodes_contradict_is_doubted(tmp_path: Path) -> None:
    folder = make_run(tmp_path, A, "mlr", 4, [1.0, 2.0])
    rows = "".join(f"{BUDGET // REPEAT},{BUDGET},{n},{n + 1.0},9\n" for n in (0, 1))
    header = "agent_step,env_step,episode,value,length\n"
    (folder / "eval_episodes.csv").write_text(header + rows)
    assert runs.load([tmp_path]).notes == ()
    (folder / "eval_episodes.csv").write_text(header + rows.replace("2.0", "7.0"))
    (note,) = runs.load([tmp_path]).notes
    assert note.startswith(f"doubtful: {folder}: eval_episodes.csv")
    assert reasons(tmp_path) == []


def test_the_same_run_twice_is_named_by_both_paths(sweep: Path, tmp_path: Path) -> None:
    copy = make_run(tmp_path / "copy", A, "mlr", 1, [1.0, 1.0])
    (reason,) = reasons(sweep, tmp_path / "copy")
    assert str(sweep / A / "mlr" / "seed_1") in reason
    assert str(copy) in reason


# --- status -------------------------------------------------------------------------------------


def test_every_state_is_told(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = socket.gethostname()
    make_run(tmp_path, A, "mlr", 1)
    owners = {2: f"{os.getpid()} on {here}", 3: f"{ended.pid} on {here}", 4: "1 on elsewhere"}
    for seed, owner in owners.items():
        folder = make_run(tmp_path, A, "mlr", seed, status="running", starts=1, final={})
        (folder / "run.lock").write_text(f"process {owner}\n")
    make_run(tmp_path, A, "mlr", 5, curve={40_000: 2.0}, status="preempted", final={})
    make_run(tmp_path, A, "mlr", 6, status="failed", last_error="NaN in critic loss", final={})
    make_run(tmp_path, A, "mlr", 7, final={"mean": None})
    lines, done = runs.status(runs.load([tmp_path]))
    states = {line.split()[1]: line.split()[0] for line in lines.splitlines()[:-1]}
    expected = ["done", "running", "lost", "running", "preempted", "failed", "unfit"]
    assert [states[f"{A}/mlr/seed_{seed}"] for seed in range(1, 8)] == expected
    assert "NaN in critic loss" in lines
    assert "40,000 / 100,000" in lines
    assert lines.splitlines()[-1].startswith("7 runs: 1 done, 2 running, ")
    assert not done


def test_exit_code_says_whether_all_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_run(tmp_path, A, "mlr", 1)
    listed = {path: path.stat().st_mtime_ns for path in (before, *before.iterdir())}
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert page.main(["--status", f"~/{tmp_path.name}"]) == 0
    make_run(tmp_path, B, BASELINE, 1, status="preempted", final={})
    assert page.main(["--status", str(tmp_path)]) == 2
    assert page.main(["--status", str(tmp_path / "nothing")]) == 2
    assert listed == {path: path.stat().st_mtime_ns for path in (before, *before.iterdir())}


# --- results ------------------------------------------------------------------------------------


def test_the_shipped_results_are_read_and_fair() -> None:
    found = runs.results(page.RESULTS)
    assert len(found.runs) > 20
    assert set(found.curves["run"]) == set(found.runs.index)
    for _, own in found.runs.groupby(list(runs.Setting._fields)):
        assert runs.check(own) == []
    assert all(math.isfinite(mean) for mean in found.curves["mean"])
