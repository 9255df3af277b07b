"""Sweeps: what is refused, how jobs are watched, signalled and counted, how failures are told.

The same file in both trees.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import config_cases as cases
import pytest
from small_run import TRAIN

import train
from mlr_dmcontrol.run import sweep
from mlr_dmcontrol.run.slots import free_gpu

TREE = Path(__file__).resolve().parents[2]
LAYOUT = cases.config.LAYOUT
SECOND = LAYOUT.sets["dev"][1]

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
        cases.config.load([word])


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


def once_ready(folder: Path, code: str) -> subprocess.Popen[bytes]:
    """A process that runs `code` when the run of `SAVES` in `folder` listens."""
    wait = "import os, time, pathlib\nwhile not pathlib.Path('ready').exists(): time.sleep(0.05)\n"
    return subprocess.Popen([sys.executable, "-c", wait + code], cwd=folder)


def test_a_stop_file_asks_the_runs_to_save(tmp_path: Path) -> None:
    pack = pack_of(tmp_path, SAVES)
    other = once_ready(tmp_path, "pathlib.Path('stop').touch()")
    assert [each.code for each in sweep.run_pack(pack)] == [75]
    assert other.wait() == 0
    assert sweep.run_pack(pack)[0].error == "not started"


SAVED_ALREADY = """
import pathlib, signal, sys, time
former = signal.signal(signal.SIGUSR1, lambda *_: None)
pathlib.Path("stop").touch()
signal.pause()
signal.signal(signal.SIGUSR1, former)
time.sleep(2.5)
sys.exit(75)
"""
NOT_LISTENING_YET = """
import pathlib, signal, sys, time
pathlib.Path("stop").touch()
time.sleep(1.5)
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
time.sleep(60)
"""


@pytest.mark.parametrize("code", [SAVED_ALREADY, NOT_LISTENING_YET], ids=["after", "before"])
def test_the_question_to_save_kills_no_run(code: str, tmp_path: Path) -> None:
    assert [each.code for each in sweep.run_pack(pack_of(tmp_path, code))] == [75]


def test_a_signal_is_passed_on(tmp_path: Path) -> None:
    other = once_ready(tmp_path, f"os.kill({os.getpid()}, {int(signal.SIGTERM)})")
    before = signal.getsignal(signal.SIGTERM)
    assert [each.code for each in sweep.run_pack(pack_of(tmp_path, SAVES))] == [75]
    assert other.wait() == 0
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    "number, returns", [(signal.SIGUSR1, True), (signal.SIGTERM, False)], ids=["USR1", "TERM"]
)
def test_a_slurm_job_queues_again_after_usr1_alone(
    number: signal.Signals, returns: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """submitit's handler of USR1, for which a list stands here, asks SLURM for the requeue."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    asked: list[int] = []
    former = signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
    other = once_ready(tmp_path, f"os.kill({os.getpid()}, {int(number)})")
    try:
        assert [each.code for each in sweep.run_pack(pack_of(tmp_path, SAVES))] == [75]
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert other.wait() == 0
    assert bool(asked) == returns


def test_gpus_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ExitStack() as places:
        taken = [places.enter_context(free_gpu(("3", "GPU-x"), 2)) for _ in range(4)]
    assert taken == ["3", "GPU-x", "3", "GPU-x"]
    with free_gpu((), 2) as none:
        assert none == ""
