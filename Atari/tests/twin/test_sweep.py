"""Sweeps: what is refused, how runs are watched, asked to save and counted."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import config_cases as cases
import pytest
import torch
from small_run import TRAIN

import train
from mlr_atari.errors import ConfigError
from mlr_atari.run import sweep
from mlr_atari.run.sweep import Job, Launcher, Outcome, Pack
from mlr_atari.settings import LAYOUT, compose


def jobs_of(folder: Path, *codes: str) -> list[Job]:
    """A job for each piece of Python, with its output below `folder`."""
    cfg = compose([f"runs_dir={folder}", "preset=smoke"])
    jobs = []
    for number, code in enumerate(codes):
        name, command = f"run{number}", (sys.executable, "-c", code)
        log = folder / ".sweep" / "logs" / f"{name}.txt"
        jobs.append(Job(name, command, log, asdict(cfg)))
    return jobs


def local(folder: Path, *codes: str, at_once: int = 0, on_gpu: int = 1) -> list[Outcome]:
    own: Any = {"launcher": "local", "settings": {}}
    launcher = Launcher(**own, runs_per_gpu=on_gpu, jobs_at_once=at_once)
    return sweep.launch(jobs_of(folder, *codes), launcher)


def test_words_of_the_launcher_are_no_words_of_a_job() -> None:
    words = (
        *("launcher=slurm", "runs_per_gpu=2", "launcher.partition=gpu,debug"),
        *("launcher.timeout_min=240", "launcher.mem_gb=null", "launcher.setup=[module load cuda]"),
        "launcher.additional_parameters.nodelist=n1",
    )
    jobs, launcher = sweep.read(["-m", "seed=1,2", *words], LAYOUT)
    assert jobs == [["seed=1"], ["seed=2"]]
    assert (launcher.launcher, launcher.runs_per_gpu, launcher.jobs_at_once) == ("slurm", 2, 0)
    expected = {"partition": "gpu,debug", "timeout_min": 240, "mem_gb": None}
    expected["setup"] = ["module load cuda"]
    expected["additional_parameters"] = {"requeue": True, "nodelist": "n1"}
    assert expected.items() <= launcher.settings.items()


@pytest.mark.parametrize(
    "words, fragment",
    [
        (["launcher=slrm"], "slurm?"),
        (["runs_per_gpu=0"], "1"),
        (["jobs_at_once=x"], "number"),
        (["launcher.partition=gpu"], "local.yaml"),
        (["launcher=slurm", "launcher.partion=gpu"], "partition?"),
        (["launcher=slurm", "launcher.setup=[a"], "quote"),
        (["launcher=slurm", "launcher.partition.name=gpu"], "slurm.yaml"),
        (["ablation=mask_rato"], "mask_ratio?"),
        (["ablation=loss_positions", "agent.loss_positions=all"], "leave it out"),
        (["plan=none.yaml", "seed=3"], "where and how"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_words_of_a_sweep(
    words: list[str], fragment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["-m", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {words[-1]}: ") and fragment in line


@pytest.mark.parametrize("values", ["0.3,2", "0.3,0.6"], ids=["a wrong job", "one folder for two"])
def test_nothing_is_started_unless_all_can_be(
    values: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", *TRAIN, f"agent.mask_ratio={values}", f"runs_dir={tmp_path}/runs"]
    assert train.main(words) == 2
    assert capsys.readouterr().err.startswith("error: agent.mask_ratio=")
    assert not list(tmp_path.iterdir())


def test_a_plans_file_says_what_is_run_and_words_beside_it_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, subject = tmp_path / "plan.yaml", cases.SUBJECT
    plan = {f"{subject}s": [cases.WITHOUT_FILE], "methods": ["mlr"], "against": cases.PLAIN_AGENT}
    plan |= {"preset": "smoke", "budget": compose(["preset=smoke"]).budget, "seeds": [1, 2]}
    plan |= {"hypothesis": "It is.", "power": {"gain": 0.5, "at": 0.8}}
    plan |= {"holds_if": {"test": "welch", "above": 0, "ahead_on": 1, "p": 0.05}}
    path.write_text(json.dumps(plan))
    words = [f"plan={path}", f"runs_dir={tmp_path}/runs", "device=cpu"]
    jobs, _ = sweep.read(["-m", *words], LAYOUT)
    assert len(jobs) == 4 and all(set(words[1:]) <= {*job} for job in jobs)
    assert {compose(job).subject for job in jobs} == {cases.WITHOUT_FILE}
    for preview in (words, ["-m", *words, "plan=true"]):
        assert train.main(preview) == 0
        text = capsys.readouterr().out
        assert "4 runs: 4 waiting" in text and text.count("GB memory") == 5
    assert not (tmp_path / "runs").exists()


def ablated(*words: str) -> list[list[str]]:
    return sweep.read(["-m", *words], LAYOUT)[0]


def test_an_ablation_is_the_agent_itself_and_a_run_for_each_value() -> None:
    ratios, seeds = (0.1, 0.3, 0.7, 0.9), ("seed=1", "seed=2")
    assert ablated("ablation=mask_ratio", "seed=1,2") == [
        *([seed] for seed in seeds),
        *([seed, f"tag=mask_ratio-{r}", f"agent.mask_ratio={r}"] for r in ratios for seed in seeds),
    ]
    typed = ablated("ablation=mask_ratio", "agent.mask_ratio=0.25")
    assert typed == [[], ["tag=mask_ratio-0.25", "agent.mask_ratio=0.25"]]


def test_several_ablations_share_the_agent_itself() -> None:
    both = ablated("ablation=mask_ratio,momentum", "tag=study")
    assert both.count(["tag=study"]) == 1
    assert ["tag=study-momentum-null", "agent.target_ema_tau=null"] in both
    assert len(both) == len(ablated("ablation=mask_ratio")) + len(ablated("ablation=momentum")) - 1


@pytest.mark.parametrize("name", LAYOUT.options("ablation"))
def test_each_run_of_an_ablation_composes_into_a_folder_of_its_own(name: str) -> None:
    itself, *others = map(compose, ablated(f"ablation={name}"))
    assert others and len({cfg.path for cfg in [itself, *others]}) == len(others) + 1
    assert name == "cube_depth" or all(replace(cfg, tag="") != itself for cfg in others)


@pytest.mark.parametrize(
    "codes, expected",
    [([], 0), ([0, 0], 0), ([0, 75], 75), ([75, 4, 4], 4), ([4, 3], 1), ([-9], 1), ([1], 1)],
)
def test_the_exit_code_is_honest(codes: list[int], expected: int) -> None:
    outcomes = [Outcome(str(number), code) for number, code in enumerate(codes)]
    assert sweep.exit_code(outcomes) == expected


def test_a_crash_is_one_outcome_among_others(tmp_path: Path) -> None:
    (tmp_path / ".sweep" / "logs" / "run4.txt").mkdir(parents=True)  # no output can be kept
    outcomes = local(
        tmp_path,
        "print('fine')",
        "import sys; print('error: budget=1: wrong', file=sys.stderr); sys.exit(2)",
        "import os; os.kill(os.getpid(), 9)",
        "raise ValueError('a bug')",
        "import sys; sys.exit(3)",
    )
    assert [outcome.code for outcome in outcomes] == [0, 2, -9, 1, 3]
    errors = ["", "budget=1: wrong", "killed by SIGKILL", "ValueError: a bug", "no message"]
    assert [outcome.error for outcome in outcomes] == errors
    *lines, total = sweep.summary(outcomes, tmp_path).splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["run1", "run2", "run3", "run4"]
    assert total == "5 runs: 1 finished, 0 preempted, 4 failed"


SAVES = """
import pathlib, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
pathlib.Path("ready").touch()
time.sleep(60)
"""


def once_ready(folder: Path, number: signal.Signals) -> subprocess.Popen[bytes]:
    """A process that signals this one when the run of `SAVES` in `folder` listens."""
    code = (
        "import os, time, pathlib\nwhile not pathlib.Path('ready').exists(): time.sleep(0.05)\n"
        f"os.kill({os.getpid()}, {int(number)})"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_every_run_save(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other, before = once_ready(tmp_path, number), signal.getsignal(number)
    real, full = Path.touch, iter([OSError(errno.ENOSPC, "No space left on device")])

    def touch(path: Path) -> None:
        if error := next(full, None):
            raise error
        real(path)

    monkeypatch.setattr(Path, "touch", touch)
    outcomes = local(tmp_path, SAVES, SAVES, at_once=1)
    assert [outcome.code for outcome in outcomes] == [75, 75]
    assert outcomes[1].error == "not started"
    assert other.wait() == 0
    assert signal.getsignal(number) == before
    assert sorted(path.name for path in (tmp_path / ".sweep").iterdir()) == ["logs"]


def pack_of(folder: Path, code: str) -> Pack:
    (folder / ".sweep" / "logs").mkdir(parents=True)
    return Pack(tuple(jobs_of(folder, code)), folder, folder / "stop")


def test_the_question_to_save_kills_no_run_that_does_not_listen_yet(tmp_path: Path) -> None:
    early = "import os, pathlib, time; pathlib.Path('stop').touch(); time.sleep(1.5)"
    pack, other = (
        pack_of(tmp_path, f"{early}; os.kill(os.getpid(), 15)" + SAVES),
        tmp_path / "other",
    )
    other.write_text("of somebody else")
    pack.jobs[0].log.symlink_to(other)
    assert [outcome.code for outcome in sweep.watch(pack, pack.stop.exists)] == [75]
    assert other.read_text() == "of somebody else"


def test_a_sweep_writes_through_no_link(tmp_path: Path) -> None:
    (tmp_path / ".sweep").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="runs_dir"):
        local(tmp_path, SAVES)
    assert [path.name for path in tmp_path.iterdir()] == [".sweep"]


@pytest.mark.parametrize("number, returns", [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_slurm_job_queues_again_after_usr1_alone(
    number: signal.Signals, returns: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """submitit's handler of USR1, for which a list stands here, asks SLURM for the requeue."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    asked: list[int] = []
    former = signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
    other = once_ready(tmp_path, number)
    try:
        assert [outcome.code for outcome in pack_of(tmp_path, SAVES)()] == [75]
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert other.wait() == 0
    assert bool(asked) == returns


def test_gpus_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-x")
    monkeypatch.chdir(tmp_path)
    code = """
import os, pathlib, time
pathlib.Path(str(os.getpid())).touch()
while len([path for path in pathlib.Path().iterdir() if path.is_file()]) < 4: time.sleep(0.05)
raise ValueError(os.environ["CUDA_VISIBLE_DEVICES"])
"""
    outcomes = local(tmp_path, *4 * [code], on_gpu=2)
    gpus = [outcome.error.removeprefix("ValueError: ") for outcome in outcomes]
    assert sorted(gpus) == ["3", "3", "GPU-x", "GPU-x"]
