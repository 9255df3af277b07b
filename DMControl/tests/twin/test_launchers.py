"""Whole sweeps: two tasks or games and two seeds through each launcher equal runs typed by hand.

In Atari one of the two is an own game, which only its name makes known to a launcher's processes.
"""

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import config_cases as cases
import pytest
from small_run import TRAIN

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

TREE = Path(__file__).resolve().parents[2]
FIRST, SECOND = cases.SWEPT
RUNS = [f"{name}/mlr/seed_{seed}" for name in cases.SWEPT_FOLDERS for seed in (1, 2)]
TABLES = ("train.csv", "eval.csv", "eval_episodes.csv", "final.json")
AXES = ("-m", f"{cases.SUBJECT}={FIRST},{SECOND}", "seed=1,2", "checkpoint.every_steps=10")
OWN_GAMES = {"PYTHONPATH": str(TREE / "tests")}


def start(*words: str, **settings: str) -> subprocess.Popen[str]:
    environment, pipe = os.environ | OWN_GAMES | settings, subprocess.PIPE
    return subprocess.Popen(words, cwd=TREE, env=environment, stdout=pipe, stderr=pipe, text=True)


def call(*words: str, expect: int | None = None, **settings: str) -> str:
    """Output and errors of a command that ends with this code, if one is given."""
    process = start(*words, **settings)
    text = "".join(process.communicate())
    assert expect in (None, process.returncode), text
    return text


def wait_for(condition: Callable[[], object], sweep: subprocess.Popen[str]) -> None:
    """Until it is true; the sweep must not have ended before."""
    end = time.monotonic() + 600  # a queue may never get there
    while not condition():
        assert sweep.poll() is None, sweep.communicate()
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def halt(runs: Sequence[Path], sweep: subprocess.Popen[str]) -> list[int]:
    """Stop the clock of each run once it has a checkpoint; returns their process ids."""
    processes: dict[Path, int] = {}

    def all_halted() -> bool:
        for run in runs:
            if run not in processes and any(run.glob("checkpoints/step_*")):
                processes[run] = int(record(run)["pid"])
                os.kill(processes[run], signal.SIGSTOP)
        return len(processes) == len(runs)

    wait_for(all_halted, sweep)
    return [processes[run] for run in runs]


def command(runs: Path, *words: str) -> list[str]:
    plain = [word for word in TRAIN if not word.startswith(f"{cases.SUBJECT}=")]
    return [sys.executable, "train.py", *plain, f"runs_dir={runs}", *words]


def assert_same(runs: Path, expected: Path) -> None:
    """Every table and score of the sweep, byte for byte."""
    for name in RUNS:
        same, *different = filecmp.cmpfiles(runs / name, expected / name, TABLES, shallow=False)
        assert same == list(TABLES), (name, different)


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep's runs, one after another, without a launcher."""
    runs = tmp_path_factory.mktemp("by_hand")
    for name in (FIRST, SECOND):
        for seed in (1, 2):
            call(*command(runs, f"{cases.SUBJECT}={name}", f"seed={seed}"), expect=0)
    return runs


def test_ctrl_c_saves_every_run_and_the_same_command_goes_on(by_hand: Path, tmp_path: Path) -> None:
    words = command(tmp_path, *AXES, "jobs_at_once=2")
    sweep = start(*words)
    halted = halt([tmp_path / name for name in RUNS[:2]], sweep)
    assert "4 runs: 2 running, 2 waiting" in call(*words, "plan=true")
    sweep.send_signal(signal.SIGINT)
    for process in halted:
        os.kill(process, signal.SIGCONT)
    text = "".join(sweep.communicate())
    assert sweep.returncode == 75, text
    assert "4 runs: 0 finished, 4 preempted, 0 failed" in text
    assert "4 runs: 0 finished already, 4 to do" in call(*words, expect=0)
    assert_same(tmp_path, by_hand)
    assert "4 runs: 4 finished already, 0 to do" in call(*words, expect=0)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Ray's sockets lie in it, whose paths may not be long."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as name:
        yield Path(name)


def test_ray_gives_what_single_runs_give(by_hand: Path, tmp_path: Path, short_folder: Path) -> None:
    pytest.importorskip("ray", reason="Ray is optional: pip install -r requirements-ray.txt")
    words = command(tmp_path, *AXES, "launcher=ray", "jobs_at_once=2")
    call(*words, expect=0, RAY_TMPDIR=str(short_folder))
    assert_same(tmp_path, by_hand)
    (log,) = short_folder.glob("ray/session_2*/logs/dashboard.log")
    assert "Usage reporting is disabled" in log.read_text()


def job_of(process: int) -> str:
    """Id of the SLURM job that a process belongs to."""
    environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    (entry,) = [entry for entry in environment if entry.startswith(b"SLURM_JOB_ID=")]
    return entry.decode().partition("=")[2]


@pytest.fixture
def slurm() -> Iterator[Sequence[str]]:
    """Words that choose the launcher; skips where no SLURM answers, cancels what a test left."""
    cores = call("sinfo", "-h", "-o", "%c") if shutil.which("sbatch") else ""
    if not cores.replace("\n", "").isdigit() or sum(map(int, cores.split())) < 2:
        pytest.skip("no SLURM answers that has two cores; `.ci/slurm start` starts one for tests")
    name = f"test{os.getpid()}"
    yield "launcher=slurm", f"launcher.name={name}", "launcher.mem_gb=1", "launcher.cpus_per_task=1"
    call("scancel", f"--name={name}")


def test_slurm_requeues_and_names_what_crashed(
    by_hand: Path, tmp_path: Path, slurm: Sequence[str]
) -> None:
    words = command(tmp_path, *AXES, *slurm)
    told, crashed = (tmp_path / name for name in RUNS[:2])
    sweep = start(*words)
    try:
        told_process, crashed_process = halt([told, crashed], sweep)
        job = job_of(told_process)
        # The step, as SLURM's own warning does: jobs of an array that is half pending are refused.
        call("scancel", "--signal=USR1", f"{job}.0", expect=0)
        os.kill(told_process, signal.SIGCONT)
        os.kill(crashed_process, signal.SIGKILL)
        wait_for(lambda: record(told)["status"] == "preempted", sweep)
        wait_for(lambda: "JobState=PENDING" in call("scontrol", "show", "job", job), sweep)
        # Or SLURM would wait two minutes.
        call("scontrol", "update", f"jobid={job}", "StartTime=now", expect=0)
        text = "".join(sweep.communicate())
    finally:
        sweep.kill()
    assert sweep.returncode == 1, text
    assert f"FAILED     {RUNS[1]}  exit -9: killed by SIGKILL" in text
    assert "4 runs: 3 finished, 0 preempted, 1 failed" in text
    assert record(told)["starts"] == 2
    assert "4 runs: 3 finished already, 1 to do" in call(*words, expect=0)
    assert_same(tmp_path, by_hand)


def test_a_slurm_that_refuses_is_told_in_one_line(tmp_path: Path, slurm: Sequence[str]) -> None:
    words = command(tmp_path, "-m", "seed=1", *slurm, "launcher.partition=none")
    assert call(*words, expect=2).splitlines()[-1].startswith("error: launcher=slurm: ")
