"""What a launcher's job does: training runs, each a process of its own, watched to their ends.

A process for each run means that a crash of one, whatever its kind, is one outcome among others,
and that a run of a sweep is the run of the same command typed by hand.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ..errors import Preempted
from .slots import free_gpu

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_POLL_SECONDS = 0.2
_ASK_SECONDS = 1.0
# A run hears USR1 while it trains; before and after that it ignores it, and is not killed by it:
# SLURM signals the run and this process alike, so that it may have saved when it is asked again.
_DEAF = ("sh", "-c", 'trap "" USR1; exec "$0" "$@"')


@dataclass(frozen=True)
class Run:
    """A run to be started: its name in the sweep, its command, and where its output goes."""

    name: str
    command: tuple[str, ...]
    log: str


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the exit code of `train.py`, negative for a signal that killed it."""

    name: str
    code: int
    error: str = ""


@dataclass(frozen=True)
class Pack:
    """Runs that share one job of a launcher, and so one GPU.

    Args:
        folder: the working directory, which relative paths in the commands mean.
        stop: a file; once it exists, the runs are asked to save and end.
        gpus: devices to choose the least used one from, as CUDA_VISIBLE_DEVICES writes them;
            empty where the launcher, or nobody, chooses.
        runs_per_gpu: how many packs may use one of `gpus` at once.
    """

    runs: tuple[Run, ...]
    folder: str
    stop: str
    gpus: tuple[str, ...] = ()
    runs_per_gpu: int = 1


@dataclass
class _Signals:
    received: list[int] = field(default_factory=list)

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)


def run_pack(pack: Pack) -> list[Outcome]:
    """Start the runs of a pack at once and wait for all; never raises for what a run does.

    A SLURM job that was sent USR1 puts itself back into the queue once every run has saved; after
    SIGTERM, which `scancel` sends, it does not.
    """
    with _listening() as signals, free_gpu(pack.gpus, pack.runs_per_gpu) as gpu:
        environment = dict(os.environ)
        if gpu:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        outcomes = _watch(pack, signals, environment)
    saved = any(each.code == Preempted.exit_code for each in outcomes)
    in_slurm = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
    if signals.received[:1] == [signal.SIGUSR1] and saved and in_slurm:
        # submitit's own handler, active again, asks SLURM for a requeue and ends this process.
        os.kill(os.getpid(), signal.SIGUSR1)
    return outcomes


def _watch(pack: Pack, signals: _Signals, environment: Mapping[str, str]) -> list[Outcome]:
    if signals.received or Path(pack.stop).exists():
        return [Outcome(run.name, Preempted.exit_code, "not started") for run in pack.runs]
    processes = [_start(run, pack.folder, environment) for run in pack.runs]
    while any(process.poll() is None for process in processes):
        asking = signals.received or Path(pack.stop).exists()
        for process in processes:
            if asking and process.poll() is None:  # again and again: it may not listen yet
                process.send_signal(signal.SIGUSR1)
        time.sleep(_ASK_SECONDS if asking else _POLL_SECONDS)
    return [
        Outcome(run.name, process.returncode, last_error(run.log, process.returncode))
        for run, process in zip(pack.runs, processes, strict=True)
    ]


def _start(run: Run, folder: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    Path(run.log).parent.mkdir(parents=True, exist_ok=True)
    with open(run.log, "wb") as log:
        return subprocess.Popen(
            (*_DEAF, *run.command),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def last_error(log: str, code: int) -> str:
    """What a run's output says about its failure; empty for a run that ended well."""
    if code == 0:
        return ""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    text = Path(log).read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no message"])[-1]


@contextmanager
def _listening() -> Iterator[_Signals]:
    """Collect signals instead of obeying them; the former handlers come back at the end."""
    signals = _Signals()
    former = {number: signal.signal(number, signals.handle) for number in _FORWARDED}
    try:
        yield signals
    finally:
        for number, handler in former.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
