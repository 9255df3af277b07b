"""Whole runs of `train.py` in processes of their own, and what they leave behind.

A run here is the small one of `small_run.py`; `faults.py` says what is done to it.
"""

import atexit
import io
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import chdir
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import faults
import small_run
import torch
from small_checkpoints import files, forge_part
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlr_atari.run.checkpoint import Checkpoint, Checkpointer

TREE = Path(__file__).resolve().parents[1]
LEFT = ("train.csv", "eval.csv", "eval_episodes.csv", "final.json")

# Each run is forked from a process that has imported everything, which takes longer than a run.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["train", "pytest", "torch._inductor", *small_run.IMPORTS])
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def new_folder() -> Path:
    """An empty folder that is removed when this process ends."""
    path = Path(tempfile.mkdtemp(prefix="mlr_runs_"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code, or minus the signal; all that it printed."""

    code: int
    output: str

    @property
    def last_line(self) -> str:
        """What it said last, such as an error."""
        return self.output.splitlines()[-1]


class Started:
    """A run under way in `runs`."""

    def __init__(self, runs: Path, *more: str, what: tuple[faults.Fault, ...] = ()) -> None:
        self._output = new_folder() / "output"
        arguments = (words(runs, *more), str(self._output), what)
        self._process = processes.Process(target=faults.run, args=arguments, daemon=True)
        with chdir(TREE):  # where the process that is forked finds `train`
            self._process.start()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text() if self._output.exists() else ""

    def wait_until(self, happened: Callable[[], object]) -> None:
        """Until something has happened, or the run has ended."""
        while self._process.is_alive() and not happened():
            time.sleep(0.005)

    def wait_for_steps(self, count: int) -> None:
        """Until so many have begun; with `faults.report`."""
        self.wait_until(lambda: self.output.count("\nat ") >= count)

    def kill(self, number: signal.Signals) -> None:
        if self._process.is_alive():
            os.kill(self._process.pid or 0, number)

    def end(self) -> Ended:
        """Wait for its end."""
        self._process.join()
        return Ended(self._process.exitcode or 0, self.output)


def words(runs: Path, *more: str) -> list[str]:
    """The command line, without `train.py`; `more` takes precedence."""
    keys = {word.partition("=")[0] for word in more}
    usual = [word for word in small_run.TRAIN if word.partition("=")[0] not in keys]
    return [*usual, f"runs_dir={runs}", *more]


def train(runs: Path, *more: str, what: tuple[faults.Fault, ...] = (), code: int = 0) -> Ended:
    """Run `train.py` in `runs` to its end, which must have that code."""
    ended = Started(runs, *more, what=what).end()
    assert ended.code == code, ended.output
    return ended


def folder(runs: Path) -> Path:
    """The run's folder."""
    return runs / small_run.FOLDER


@cache
def uninterrupted(*more: str) -> Path:
    """`runs` of a run that nothing disturbed, made once for all tests of this process."""
    runs = new_folder()
    train(runs, *more)
    return runs


def finish(runs: Path, *more: str) -> Ended:
    """Go on to the end, which is that of a run that nothing disturbed."""
    ended = train(runs, *more)
    assert_same(runs, uninterrupted())
    return ended


# --- what is left behind --------------------------------------------------------------------------


def newest(runs: Path) -> Checkpoint:
    """The newest valid checkpoint."""
    checkpoint = Checkpointer(folder(runs)).newest()
    assert checkpoint is not None
    return checkpoint


def frames(runs: Path) -> torch.Tensor:
    """All frames of the replay in the newest checkpoint, oldest first."""
    checkpoint = newest(runs)
    paths = files(folder(runs), checkpoint.step)
    return torch.cat([torch.load(paths[f"frames {stop}"]) for stop in sorted(checkpoint.frames)])


def change(runs: Path, part: str, edit: Callable[[Any], None]) -> None:
    """Change a part of the newest checkpoint so that nothing shows: its checksums are right."""
    checkpoint, content = newest(runs), io.BytesIO()
    edit(checkpoint.items[part])
    torch.save(checkpoint.items[part], content)
    forge_part(files(folder(runs), checkpoint.step)["json"], part, content.getvalue())


def left(runs: Path) -> dict[str, Any]:
    """All that must not depend on interruptions: the state, every table's bytes, the scores."""
    checkpoint, path = newest(runs), folder(runs)
    del checkpoint.items["records"]["charts"]  # a file for each start; what they show is below
    return {
        "step": checkpoint.step,
        **checkpoint.items,
        "frames": frames(runs),
        **{name: (path / name).read_bytes() for name in LEFT},
        "tb": curves(path / "tb"),
    }


def curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's scalars as it shows them, without times."""
    shown = EventAccumulator(str(path), size_guidance={"scalars": 0})
    shown.Reload()
    return {
        tag: [(point.step, point.value) for point in shown.Scalars(tag)]
        for tag in sorted(shown.Tags()["scalars"])
        if not tag.startswith("time/")
    }


def leaves(tree: Any, name: str = "") -> dict[str, Any]:
    """What nested containers hold, by its path, every tensor as its type, shape and bytes."""
    if isinstance(tree, torch.Tensor):
        return {name: (tree.dtype, tree.shape, tree.numpy().tobytes())}
    if isinstance(tree, list | tuple):
        tree = dict(enumerate(tree))
    if not isinstance(tree, Mapping):
        return {name: (type(tree), tree)}
    flat = (leaves(child, f"{name}/{key}") for key, child in tree.items())
    return {f"{name}/": len(tree)} | {path: leaf for part in flat for path, leaf in part.items()}


def differences(one: Any, other: Any) -> list[str]:
    """Paths of the leaves in which two states differ by a single bit, or that only one has."""
    first, second = leaves(one), leaves(other)
    return [path for path in {**first, **second} if first.get(path) != second.get(path)]


def assert_same(runs: Path, other: Path) -> None:
    """Two runs left the same behind, bit for bit."""
    assert not differences(left(runs), left(other))
