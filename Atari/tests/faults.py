"""`train.py` in a process of its own, with what a test does to it from outside.

A fault is called with the trainer once that is ready; it puts itself around the loop's own methods,
so production code knows nothing of it. It is pickled on its way into the process.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import train
from mlr_atari.errors import NonFiniteError

Fault = Callable[[train.Trainer], None]


def run(words: Sequence[str], output: str, faults: Sequence[Fault]) -> None:
    """Be `python train.py <words>`, printing to the file `output`; ends the process."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.argv = ["train.py", *words]
    torch.set_num_threads(1)

    def work(trainer: train.Trainer) -> None:
        for fault in faults:
            fault(trainer)
        trainer.train()

    with patch.object(train, "train", partial(train.train, work=work)):
        sys.exit(train.main(words))


def before(owner: Any, name: str, action: Callable[[], object]) -> None:
    """Do something before each call of a method."""
    method = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        action()
        return method(*arguments, **options)

    setattr(owner, name, wrapped)


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


@dataclass(frozen=True)
class Signal:
    """The run gets a signal right before step `at_step`, or before it does anything."""

    name: str
    at_step: int = -1

    def __call__(self, trainer: train.Trainer) -> None:
        if self.at_step < 0:
            send(self.name)

        def step() -> None:
            if trainer.progress.agent_step == self.at_step:
                send(self.name)

        before(trainer, "step", step)


@dataclass(frozen=True)
class SignalInEvaluation:
    """The run gets a signal when the policy is asked for its third action of an evaluation."""

    name: str
    at_step: int

    def __call__(self, trainer: train.Trainer) -> None:
        evaluate, asked = train.evaluate, itertools.count(1)

        def interrupted(act: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            def policy(*observed: Any) -> Any:
                if trainer.progress.agent_step == self.at_step and next(asked) == 3:
                    send(self.name)
                return act(*observed)

            return evaluate(policy, *arguments, **options)

        train.evaluate = interrupted  # type: ignore[assignment]


class NoScore:
    """Evaluations give no number."""

    def __call__(self, trainer: train.Trainer) -> None:
        def evaluate(*arguments: Any) -> Any:
            raise NonFiniteError("score=nan")

        train.evaluate = evaluate


class KillAtTheEnd:
    """The run is killed after its last checkpoint, before it says that it is finished."""

    def __call__(self, trainer: train.Trainer) -> None:
        before(trainer.records, "finish", lambda: send("SIGKILL"))


class Report:
    """The run prints which step it begins, its memory in pages and how many files are open."""

    def __call__(self, trainer: train.Trainer) -> None:
        def step() -> None:
            pages = Path("/proc/self/statm").read_text().split()[1]
            print(
                "at",
                trainer.progress.agent_step,
                pages,
                len(os.listdir("/proc/self/fd")),
                flush=True,
            )

        before(trainer, "step", step)


@dataclass(frozen=True)
class SlowDisk:
    """Each wait for the disk takes this many seconds longer."""

    seconds: float

    def __call__(self, trainer: train.Trainer) -> None:
        before(os, "fsync", partial(time.sleep, self.seconds))


@dataclass(frozen=True)
class FullDisk:
    """Saves number `first` to `last` find the disk full."""

    first: int
    last: int

    def __call__(self, trainer: train.Trainer) -> None:
        save, numbers = trainer.save, itertools.count(1)

        def save_in_vain(**options: Any) -> None:
            full = OSError(errno.ENOSPC, "No space left on device")
            if self.first <= next(numbers) <= self.last:
                with patch.object(os, "fsync", side_effect=full):
                    save(**options)
            else:
                save(**options)

        trainer.save = save_in_vain  # type: ignore[method-assign]


@dataclass(frozen=True)
class NotANumber:
    """Before step `at_step` a parameter becomes a NaN."""

    at_step: int

    def __call__(self, trainer: train.Trainer) -> None:
        def step() -> None:
            if trainer.progress.agent_step == self.at_step:
                next(iter(trainer.agent.objective.parameters())).data.view(-1)[0] = math.nan

        before(trainer, "step", step)
