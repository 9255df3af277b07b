"""Sweeps: what is refused, what is skipped, how failures are told, and the launchers themselves.

The same file in both trees.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import config_cases as cases
import pytest
from small_run import TRAIN

TREE = Path(__file__).resolve().parents[1]
LAYOUT = cases.config.LAYOUT
FIRST, SECOND = LAYOUT.sets["dev"][-2:]  # untrained, Breakout would never serve nor end
SLURM = ("hydra.launcher.mem_gb=1", "hydra.launcher.cpus_per_task=1")
WHOLE_SWEEP = pytest.mark.skipif(
    cases.SUBJECT == "game",
    reason="these files are tried in DMControl: games of an untrained policy last too long",
)
TABLES = ("train.csv", "eval.csv", "eval_episodes.csv")

sys.path.insert(0, str(TREE))
import train  # noqa: E402

sweep = train.sweep
Outcome, Pack, Run = sweep.Outcome, sweep.Pack, sweep.Run


def refusal(*words: str) -> str:
    """The one line that refuses a command line of the program itself."""
    with pytest.raises(cases.ConfigError) as caught:
        sweep.read(words, LAYOUT)
    return str(caught.value)


# --- the command line ---------------------------------------------------------------------------


def test_names_of_several_stand_for_each() -> None:
    request = sweep.read(["-m", f"{cases.SUBJECT}=dev,{SECOND}", "seed=1,2"], LAYOUT)
    assert len(request.jobs) == 2 * len(LAYOUT.sets["dev"])
    everything = sweep.read(["-m", f"{cases.SUBJECT}=all"], LAYOUT)
    assert [job[0].partition("=")[2] for job in everything.jobs] == list(LAYOUT.sets["all"])


def test_words_of_the_launcher_are_no_words_of_a_job() -> None:
    words = ["launcher=slurm", "hydra.launcher.partition=gpu", "runs_per_gpu=2"]
    request = sweep.read(["-m", "seed=1,2", *words], LAYOUT)
    assert request.launcher == words
    assert request.jobs == [["seed=1"], ["seed=2"]]


@pytest.mark.parametrize(
    "words, fragment",
    [
        (["-m", "launcher=slrm"], "did you mean slurm?"),
        (["-m", "runs_per_gpu=0"], "at least 1"),
        (["-m", "jobs_at_once=x"], "whole number"),
        (["-m", "plan=perhaps"], "true or false"),
    ],
)
def test_wrong_words_of_a_sweep(words: list[str], fragment: str) -> None:
    message = refusal(*words)
    assert message.startswith(words[-1])
    assert fragment in message


@pytest.mark.parametrize("word", ["launcher=slurm", "runs_per_gpu=2", f"{cases.SUBJECT}=all"])
def test_words_that_need_a_multirun(word: str) -> None:
    with pytest.raises(cases.ConfigError, match=f"^{word}: .*add -m"):
        cases.config.load([word], cases.OBJECTIVES, cases.AgentSettings)


def test_a_wrong_job_stops_a_sweep_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = train.main(["-m", *TRAIN, "agent.mask_ratio=0.3,2", f"runs_dir={tmp_path}/runs"])
    assert code == 2
    assert capsys.readouterr().err.startswith("error: agent.mask_ratio=2")
    assert not list(tmp_path.iterdir())


def test_jobs_that_would_share_a_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = train.main(["-m", *TRAIN, "agent.mask_ratio=0.3,0.6", f"runs_dir={tmp_path}/runs"])
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: agent.mask_ratio=0.3 agent.mask_ratio=0.6: two jobs")
    assert "tag=" in error
    assert not list(tmp_path.iterdir())


# --- plans --------------------------------------------------------------------------------------


def test_a_plan_counts_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", *TRAIN, "seed=1,2,3", f"runs_dir={tmp_path}/runs", "plan=true"]
    assert train.main(words) == 0
    text = capsys.readouterr().out
    assert "3 runs: 3 waiting" in text
    assert text.count("GB memory") == 4
    assert not list(tmp_path.iterdir())


# --- outcomes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "codes, expected",
    [([], 0), ([0, 0], 0), ([0, 75], 75), ([75, 4, 4], 4), ([4, 3], 1), ([-9], 1), ([1], 1)],
)
def test_the_exit_code_is_honest(codes: list[int], expected: int) -> None:
    outcomes = [Outcome(str(number), code) for number, code in enumerate(codes)]
    assert sweep.exit_code(outcomes) == expected


def test_the_summary_names_each_failure() -> None:
    outcomes = [
        Outcome("a/mlr/seed_1", 0),
        Outcome("a/mlr/seed_2", 4, "NaN in loss/critic"),
        Outcome("a/mlr/seed_3", -9, "killed by SIGKILL"),
        Outcome("a/mlr/seed_4", 75, "SIGTERM at agent step 3"),
    ]
    text = sweep.summary(outcomes, 2, Path("runs/.sweep"))
    assert "FAILED     a/mlr/seed_2  exit 4: NaN in loss/critic" in text
    assert "FAILED     a/mlr/seed_3  exit -9: killed by SIGKILL" in text
    assert "preempted  a/mlr/seed_4" in text
    assert "a/mlr/seed_1" not in text
    assert text.splitlines()[-1] == "6 runs: 3 finished, 1 preempted, 2 failed"


def pack_of(tmp_path: Path, *codes: str, stop: str = "stop") -> Pack:
    runs = [
        Run(f"run{n}", (sys.executable, "-c", code), str(tmp_path / "logs" / f"{n}.txt"))
        for n, code in enumerate(codes)
    ]
    return Pack(tuple(runs), str(tmp_path), str(tmp_path / stop))


def test_a_crash_is_one_outcome_among_others(tmp_path: Path) -> None:
    pack = pack_of(
        tmp_path,
        "print('fine')",
        "import sys; print('error: budget=1: wrong', file=sys.stderr); sys.exit(2)",
        "import os; os.kill(os.getpid(), 9)",
        "raise ValueError('a bug')",
    )
    outcomes = sweep.run_pack(pack)
    assert [each.code for each in outcomes] == [0, 2, -9, 1]
    assert [each.error for each in outcomes] == [
        "",
        "budget=1: wrong",
        "killed by SIGKILL",
        "ValueError: a bug",
    ]


SAVES = """
import pathlib, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
pathlib.Path("ready").touch()
time.sleep(60)
"""


def test_a_stop_file_asks_the_runs_to_save(tmp_path: Path) -> None:
    pack = pack_of(tmp_path, SAVES)
    code = "import time, pathlib\nwhile not pathlib.Path('ready').exists(): time.sleep(0.05)\n"
    code += "pathlib.Path('stop').touch()"
    other = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    assert [each.code for each in sweep.run_pack(pack)] == [75]
    assert other.wait() == 0
    assert sweep.run_pack(pack)[0].error == "not started"


def test_a_signal_is_passed_on(tmp_path: Path) -> None:
    code = "import os, time, pathlib\nwhile not pathlib.Path('ready').exists(): time.sleep(0.05)\n"
    code += f"os.kill({os.getpid()}, {int(signal.SIGTERM)})"
    other = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    assert [each.code for each in sweep.run_pack(pack_of(tmp_path, SAVES))] == [75]
    assert other.wait() == 0
    assert signal.getsignal(signal.SIGTERM) == before


def test_gpus_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    from contextlib import ExitStack

    free_gpu = sys.modules[sweep.run_pack.__module__].free_gpu
    with ExitStack() as places:
        taken = [places.enter_context(free_gpu(("3", "GPU-x"), 2)) for _ in range(4)]
    assert taken == ["3", "GPU-x", "3", "GPU-x"]
    with free_gpu((), 2) as none:
        assert none == ""


# --- whole sweeps: long -------------------------------------------------------------------------


def command(runs: Path, *words: str) -> list[str]:
    plain = [word for word in TRAIN if not word.startswith(f"{cases.SUBJECT}=")]
    return [sys.executable, "train.py", *plain, f"runs_dir={runs}", *words]


def finish(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=TREE, capture_output=True, text=True, check=False)


def folders() -> list[str]:
    return [f"{name}/mlr/seed_{seed}" for name in (FIRST, SECOND) for seed in (1, 2)]


def assert_same(found: Path, expected: Path, names: Sequence[str]) -> None:
    for name in names:
        same, *different = filecmp.cmpfiles(found / name, expected / name, TABLES, shallow=False)
        assert same == list(TABLES), (name, different)


AXES = ("-m", f"{cases.SUBJECT}={FIRST},{SECOND}", "seed=1,2")


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep's runs, one after another, without a launcher."""
    runs = tmp_path_factory.mktemp("by_hand")
    for name in (FIRST, SECOND):
        for seed in (1, 2):
            done = finish(*command(runs, f"{cases.SUBJECT}={name}", f"seed={seed}"))
            assert done.returncode == 0, done.stderr
    return runs


@WHOLE_SWEEP
@pytest.mark.marathon
@pytest.mark.timeout(1800)
def test_joblib_gives_what_single_runs_give(by_hand: Path, tmp_path: Path) -> None:
    words = command(tmp_path, *AXES, "launcher=local", "jobs_at_once=2")
    done = finish(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 runs: 4 finished, 0 preempted, 0 failed" in done.stdout
    assert_same(tmp_path, by_hand, folders())
    shutil.rmtree(tmp_path / folders()[3])
    again = finish(*words)
    assert "4 runs: 3 finished already, 1 to do" in again.stdout
    assert again.returncode == 0
    assert_same(tmp_path, by_hand, folders())


@WHOLE_SWEEP
@pytest.mark.marathon
@pytest.mark.timeout(1800)
def test_ray_gives_what_single_runs_give(by_hand: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is optional: pip install -r requirements-ray.txt")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    done = finish(*command(tmp_path, *AXES, "launcher=ray", "jobs_at_once=2"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(tmp_path, by_hand, folders())


def slurm_job(name: str) -> list[str]:
    """Ids of the jobs in the queue, of a state."""
    listed = finish("squeue", "-h", "-t", name, "-o", "%A")
    return listed.stdout.split()


def wait_for(condition: object, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.3)


@WHOLE_SWEEP
@pytest.mark.marathon
@pytest.mark.timeout(1800)
def test_slurm_requeues_and_names_what_crashed(by_hand: Path, tmp_path: Path) -> None:
    if shutil.which("sbatch") is None or finish("sinfo", "-h").returncode:
        pytest.skip("no SLURM answers here; `.ci/slurm start` starts one for tests")
    broken = tmp_path / FIRST / "mlr" / "seed_2"
    broken.mkdir(parents=True)
    (broken / "notes.txt").write_text("not a run's: train.py refuses this folder")
    words = command(tmp_path, *AXES, "launcher=slurm", *SLURM, "checkpoint.every_steps=10")
    process = subprocess.Popen(words, cwd=TREE, stdout=subprocess.PIPE, text=True)
    victim = tmp_path / FIRST / "mlr" / "seed_1"
    wait_for(lambda: any(victim.glob("checkpoints/step_*")))
    record = json.loads((victim / "run.json").read_text())
    job = slurm_job_of(record["pid"])
    assert finish("scancel", "--signal=USR1", job).returncode == 0
    wait_for(lambda: json.loads((victim / "run.json").read_text())["status"] == "preempted")
    wait_for(lambda: finish("scontrol", "update", f"jobid={job}", "StartTime=now").returncode == 0)
    text, _ = process.communicate()
    assert process.returncode == 2, text
    assert f"FAILED     {FIRST}/mlr/seed_2  exit 2: " in text
    assert "4 runs: 3 finished, 0 preempted, 1 failed" in text
    assert json.loads((victim / "run.json").read_text())["starts"] == 2
    (broken / "notes.txt").unlink()
    again = finish(*words)
    assert "4 runs: 3 finished already, 1 to do" in again.stdout
    assert again.returncode == 0, again.stdout + again.stderr
    assert_same(tmp_path, by_hand, folders())


def slurm_job_of(process: int) -> str:
    """Id of the SLURM job that a process belongs to."""
    environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    (found,) = [each for each in environment if each.startswith(b"SLURM_JOB_ID=")]
    return found.decode().partition("=")[2]
