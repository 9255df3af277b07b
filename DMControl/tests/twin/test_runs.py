"""Run folders to one table: what is read, found, damaged, fair, and how far runs are."""

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

from mlr_dmcontrol import protocol
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.report import page, runs


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return make_sweep(tmp_path / "runs")


def test_a_run_folder_is_a_row_and_its_curve(tmp_path: Path) -> None:
    evaluations = {20_000: 0.5, 40_000: 1.5, BUDGET: 9.0}
    command = f"/some/train.py seed=7 runs_dir=/a tag='a b' kwargs='{900 * 'c '}'"
    words = {"config": {"tag": "x"}, "command": command}
    folder = make_run(tmp_path, A, "mlr", 7, [1.0, 3.0], evaluations, **words)
    for path in folder.iterdir():  # as Windows and a byte order mark have it
        path.write_text("\ufeff" + path.read_text().replace("\n", "\r\n") + "\r\n", newline="")
    folder.rename(tmp_path / "the best one (old) \x1b[2J")
    found = runs.load([tmp_path])
    (run,) = found.runs.itertuples()
    assert (run.name, run.status) == (f"{A}/mlr-x/seed_7", "finished")
    assert (run.preset, run.budget, run.agent_step) == ("paper", BUDGET, BUDGET // REPEAT)
    assert (run.mean, run.values, run.episodes) == (2.0, (1.0, 3.0), 2)
    assert run.normalized == pytest.approx(protocol.normalize(A, 2.0))
    assert (run.hours, run.versions) == ("1.00", "python=3.11; torch=2.13.0")
    assert run.command.startswith("python train.py seed=7 'tag=a b' 'kwargs=c c")
    assert run.origin.isprintable()
    # The final evaluation replaces the one at the budget.
    assert list(found.curves["step"]) == [20_000, 40_000, BUDGET]
    assert list(found.curves["mean"]) == [0.5, 1.5, 2.0]


def test_neither_torch_nor_a_simulator_is_needed(sweep: Path, tmp_path: Path) -> None:
    for name in ("torch", "gymnasium", "dm_control", "mujoco", "ale_py", "cv2", "hydra"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    command = [sys.executable, "report.py", str(sweep), "--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, check=True)


def test_runs_are_found_once_wherever_they_lie(sweep: Path, tmp_path: Path) -> None:
    method, links = sweep / A / "mlr", tmp_path / "links"
    links.mkdir()
    (links / "ours").symlink_to(method)
    (method / "again").symlink_to(sweep)  # a loop
    (method / ".ipynb_checkpoints").mkdir()
    (method / ".ipynb_checkpoints" / "run.json").write_text("{}")
    make_run(tmp_path / "outside", A, "mlr", 9)
    (method / "seed_1" / "tb").mkdir()
    (method / "seed_1" / "tb" / "home").symlink_to(tmp_path / "outside")
    (method / "seed_1" / "wandb").mkdir()
    (method / "seed_1" / "wandb" / "config.yaml").write_text("")  # its own
    for paths in ([sweep], [links], [method / "seed_1", sweep / A, sweep, links]):
        found = runs.load(paths)
        assert (len(found.runs), found.unreadable) == (12, ())
    with pytest.raises(ConfigError):
        runs.load([sweep / "nothing"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-6])


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def change(**values: object) -> Callable[[Path], None]:
    return lambda path: text(json.dumps(json.loads(path.read_text()) | values))(path)


def add(line: str) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes() + line.encode("latin1")) and None


BOMB = "a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]\n"
# File, what happens to it, and the line that is named; 0: none.
DAMAGES = [
    ("run.json", cut, 1),
    ("run.json", text("[" * 100_000), 0),
    ("run.json", change(status="odd"), 0),
    ("run.json", change(command="it's"), 0),
    ("run.json", change(seconds={"act": [1]}), 0),
    ("run.json", change(seconds={"act": 10**400}), 0),
    ("run.json", pipe, 0),
    ("config.yaml", add(BOMB), 9),
    ("config.yaml", add("x: !!python/object/apply:os.system [exit]\n"), 8),
    ("config.yaml", add("x: caf\xe9\n"), 8),
    ("config.yaml", lambda path: path.write_text(path.read_text().replace("d: 2", "d: []")), 0),
    ("config.yaml", add("seed: 1\n"), 8),
    ("config.yaml", Path.unlink, 0),
    ("eval.csv", text(""), 1),
    ("eval.csv", cut, 3),
    ("eval.csv", add("15,60\n"), 4),
    ("eval.csv", add("15,60,2,x,0,0\n"), 4),
    ("eval.csv", add("15,60,2,1e300,0,0\n"), 4),
    ("eval.csv", add('"15\n'), 4),
    ("final.json", cut, 1),
    ("final.json", change(values=["-20", None]), 0),
    ("eval_episodes.csv", text("a,b\n"), 1),
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


def test_a_run_of_the_other_benchmark_is_called_so(tmp_path: Path) -> None:
    config = make_run(tmp_path, A, "mlr", 1) / "config.yaml"
    config.write_text(config.read_text().replace(f"{protocol.TASK_KEY}:", "level:"))
    (said,) = runs.load([tmp_path]).unreadable
    assert said.startswith(f"{config}: ") and protocol.NAME in said


def test_a_run_that_goes_on_has_no_final_score_and_perhaps_half_a_line(tmp_path: Path) -> None:
    folder = make_run(tmp_path, A, "mlr", 1, curve={BUDGET: 1.0, 2 * BUDGET: 2.0}, status="running")
    add("500,40")(folder / "eval.csv")
    found = runs.load([tmp_path])
    assert list(found.runs["episodes"]) == [0]
    assert list(found.curves["step"]) == [BUDGET, 2 * BUDGET]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": {"device": "cuda", "logging.every": 3, "runs_dir": "elsewhere"}}, ""),
        ({"final": {}}, "no final score"),
        ({"values": [1.0, float("nan")]}, "not a finite number"),
        ({"final": {"mean": 5.0}}, "not the mean of its episodes"),
        ({"final": {protocol.STEP: BUDGET - 2 * REPEAT}}, "its budget is"),
        ({"protocol": "other"}, "protocol: "),
        ({"preset": "laptop"}, "preset: "),
        ({"values": [1.0] * 3}, "episodes: "),
        ({"config": {"agent.mask_ratio": 0.3}}, f"{A}, mlr: agent.mask_ratio: None ("),
    ],
)
def test_what_is_not_comparable_is_listed(sweep: Path, change: dict, reason: str) -> None:
    make_run(sweep, A, "mlr", 4, **({"values": [1.0, 1.0]} | change))
    listed = runs.check(runs.load([sweep]).runs)
    assert any(reason in line for line in listed) if reason else not listed, listed


def test_a_final_score_that_its_episodes_contradict_is_unfit(tmp_path: Path) -> None:
    folder = make_run(tmp_path, A, "mlr", 4, [1.0, 2.0])
    rows = f"agent_step,value\n5,9.0\n{BUDGET // REPEAT},1.0\n{BUDGET // REPEAT},2.0\n"
    for content, fair in ((rows, True), (rows.replace("2.0", "7.0"), False)):
        (folder / "eval_episodes.csv").write_text(content)
        assert (runs.check(runs.load([tmp_path]).runs) == []) == fair


def test_the_same_run_twice_is_named_by_both_paths(sweep: Path, tmp_path: Path) -> None:
    copy = make_run(tmp_path / "copy", A, "mlr", 1, [1.0, 1.0])
    (reason,) = runs.check(runs.load([sweep, tmp_path / "copy"]).runs)
    assert str(sweep / A / "mlr" / "seed_1") in reason
    assert str(copy) in reason


def test_every_state_is_told(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    make_run(tmp_path, A, "mlr", 1)
    here = socket.gethostname()
    owners = {2: f"{os.getpid()} on {here}", 3: f"{ended.pid} on {here}", 4: "1 on elsewhere"}
    for seed, owner in owners.items():
        folder = make_run(tmp_path, A, "mlr", seed, status="running", starts=1, final={})
        (folder / "run.lock").write_text(f"process {owner}\n")
    make_run(tmp_path, A, "mlr", 5, curve={40_000: 2.0}, status="preempted", final={})
    make_run(tmp_path, A, "mlr", 6, status="failed", last_error="NaN in critic loss", final={})
    make_run(tmp_path, A, "mlr", 7, [math.nan])
    lines, done = runs.status(runs.load([tmp_path]))
    states = {line.split()[1]: line.split()[0] for line in lines.splitlines()[:-1]}
    expected = ["done", "running", "lost", "running", "preempted", "failed", "unfit"]
    assert [states[f"{A}/mlr/seed_{seed}"] for seed in range(1, 8)] == expected
    assert "40,000 / 100,000" in lines
    assert not done


def test_exit_code_says_whether_all_is_done(tmp_path: Path) -> None:
    before = make_run(tmp_path, A, "mlr", 1)
    listed = {path: path.stat().st_mtime_ns for path in (before, *before.iterdir())}
    assert page.main(["--status", str(tmp_path)]) == 0
    make_run(tmp_path, B, BASELINE, 1, status="preempted", final={})
    assert page.main(["--status", str(tmp_path)]) == 2
    assert listed == {path: path.stat().st_mtime_ns for path in (before, *before.iterdir())}


def test_the_shipped_results_are_read_and_fair() -> None:
    found = runs.results(page.RESULTS)
    assert len(found.runs) > 20
    assert set(found.curves["run"]) == set(found.runs.index)
    for _, own in found.runs.groupby(list(runs.SETTING)):
        assert runs.check(own) == []
