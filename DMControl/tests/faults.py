"""`train.py` in a process of its own, with what a test does to it from outside.

A fault is called with the trainer once that is ready; it puts itself around the loop's own methods,
so production code knows nothing of it. It is pickled on its way into the process: a function, or a
`partial` of one.
"""

import errno
import itertools
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import train
from mlr_dmcontrol.errors import NonFiniteError

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


def asked(name: str, at_step: int, trainer: train.Trainer) -> None:
    """The run gets a signal right before step `at_step`; if that is negative, at once."""
    if at_step < 0:
        send(name)
    before(trainer, "step", lambda: trainer.progress.agent_step == at_step and send(name))


def asked_in_evaluation(name: str, at_step: int, trainer: train.Trainer) -> None:
    """The run gets a signal when the policy is asked for its third action of an evaluation."""
    evaluate, actions = train.evaluate, itertools.count(1)

    def interrupted(act: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        def policy(*observed: Any) -> Any:
            if trainer.progress.agent_step == at_step and next(actions) == 3:
                send(name)
            return act(*observed)

        return evaluate(policy, *arguments, **options)

    train.evaluate = interrupted  # type: ignore[assignment]


def no_score(trainer: train.Trainer) -> None:
    """Evaluations give no number."""
    patch.object(train, "evaluate", side_effect=NonFiniteError("score=nan")).start()


def killed_at_the_end(trainer: train.Trainer) -> None:
    """The run is killed after its last checkpoint, before it says that it is finished."""
    before(trainer.records, "finish", lambda: send("SIGKILL"))


def report(trainer: train.Trainer) -> None:
    """The run prints which step it begins, its memory in pages and how many files are open."""

    def step() -> None:
        pages, files = Path("/proc/self/statm").read_text().split()[1], os.listdir("/proc/self/fd")
        print("at", trainer.progress.agent_step, pages, len(files), flush=True)

    before(trainer, "step", step)


def slow_disk(seconds: float, trainer: train.Trainer) -> None:
    """Each wait for the disk takes this many seconds longer."""
    before(os, "fsync", partial(time.sleep, seconds))


def full_disk(saves: Collection[int], trainer: train.Trainer) -> None:
    """Saves of these numbers, from 1, find the disk full."""
    save, numbers = trainer.save, itertools.count(1)

    def save_in_vain(**options: Any) -> None:
        full = OSError(errno.ENOSPC, "No space left on device") if next(numbers) in saves else None
        with patch.object(os, "fsync", wraps=os.fsync, side_effect=full):
            save(**options)

    trainer.save = save_in_vain  # type: ignore[method-assign]


def out_of_memory(at_step: int, trainer: train.Trainer) -> None:
    """Before step `at_step` the GPU has no more memory."""

    def step() -> None:
        if trainer.progress.agent_step == at_step:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    before(trainer, "step", step)


def not_a_number(at_step: int, trainer: train.Trainer) -> None:
    """Before step `at_step` a parameter becomes a NaN."""

    def step() -> None:
        if trainer.progress.agent_step == at_step:
            next(iter(trainer.agent.objective.parameters())).data.view(-1)[0] = math.nan

    before(trainer, "step", step)
