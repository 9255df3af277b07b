"""Whole runs of `train.py` in processes of their own, and what they leave behind.

A run here is the small one of `small_run.py`; `driver.py` puts in the faults.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import small_run
import torch

TREE = Path(__file__).resolve().parents[1]
PACKAGE = next(TREE.glob("mlr_*/__init__.py")).parent.name
checkpoints = import_module(f"{PACKAGE}.run.checkpoint")
storage = import_module(f"{PACKAGE}.run.storage")

TABLES = ("train.csv", "eval.csv", "eval_episodes.csv")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


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


class Server:
    """Starts runs by forking a process that has imported everything; see `driver.py`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "tests/driver.py", "--serve"],
            cwd=TREE,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._outputs = new_folder()
        self.under_way: Started | None = None

    def start(self, words: Sequence[str], **faults: Any) -> Started:
        """Begin a run; one at a time."""
        if self.under_way is not None:  # left behind by a test that failed
            self.under_way.kill()
            self.under_way.end()
        output = self._outputs / str(len(list(self._outputs.iterdir())))
        request = {"words": list(words), "faults": faults, "output": str(output)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        self.under_way = Started(self, self.answer(), output)
        return self.under_way

    def answer(self) -> int:
        """What the forking process says next."""
        assert self._process.stdout is not None
        return int(json.loads(self._process.stdout.readline()))


class Started:
    """A run under way."""

    def __init__(self, server: Server, pid: int, output: Path) -> None:
        self.pid, self._server, self._output = pid, server, output

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text() if self._output.exists() else ""

    @property
    def alive(self) -> bool:
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        return state != "Z"

    def wait_for(self, text: str, count: int = 1) -> None:
        """Until it has printed `text` `count` times, or has ended."""
        while self.output.count(text) < count and self.alive:
            time.sleep(0.01)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def end(self) -> Ended:
        """Wait for its end."""
        code = self._server.answer()
        self._server.under_way = None
        return Ended(code, self.output)


@cache
def server() -> Server:
    """One a test process."""
    return Server()


def words(runs: Path, *more: str) -> list[str]:
    """The command line, without `train.py`; `more` takes precedence."""
    keys = {each.partition("=")[0] for each in more}
    usual = [each for each in small_run.TRAIN if each.partition("=")[0] not in keys]
    return [*usual, f"runs_dir={runs}", *more]


def train(runs: Path, *more: str, **faults: Any) -> Ended:
    """Run `train.py` to its end, in `runs`."""
    return server().start(words(runs, *more), **faults).end()


def train_alone(runs: Path, *more: str, **environment: str) -> Ended:
    """`python train.py` in a new process, nothing shared with others."""
    result = subprocess.run(
        [sys.executable, "train.py", *words(runs, *more)],
        cwd=TREE,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Ended(result.returncode, result.stdout)


def folder(runs: Path) -> Path:
    """The run's folder."""
    return runs / small_run.FOLDER


@cache
def uninterrupted(*more: str) -> Path:
    """`runs` of a run that nothing disturbed, made once for all tests of this process."""
    runs = new_folder()
    ended = train(runs, *more)
    assert ended.code == 0, ended.output
    return runs


# --- what is left behind --------------------------------------------------------------------------


def newest(runs: Path) -> Any:
    """The newest valid checkpoint."""
    found = checkpoints.Checkpointer(folder(runs)).newest()
    assert found is not None
    return found


def steps(runs: Path) -> list[int]:
    """Agent steps of the checkpoints that are there."""
    names = (each.name for each in (folder(runs) / "checkpoints").glob("step_*"))
    return sorted(int(name[5:14]) for name in names)


def frames(checkpoint: Any) -> torch.Tensor:
    """All frames of the replay that are of use, oldest first."""
    section = checkpoint.manifest["frames"]
    shared = checkpoint.folder.parent / "frames"
    parts = []
    for piece in section["pieces"]:
        path = (checkpoint.folder if piece["chunk"] is None else shared) / piece["file"]
        parts.append(np.load(path)[max(0, section["first_live"] - piece["start"]) :])
    return torch.from_numpy(np.concatenate(parts))


def left(runs: Path) -> dict[str, Any]:
    """All that must not depend on interruptions: the state, every table's bytes, the scores."""
    checkpoint, path = newest(runs), folder(runs)
    files = {name: (path / name).read_bytes() for name in TABLES}
    if (path / "final.json").exists():
        files["final.json"] = (path / "final.json").read_bytes()
    return {
        "step": checkpoint.step,
        **checkpoint.items,
        "frames": frames(checkpoint),
        **files,
        "tb": curves(path / "tb"),
    }


def curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's scalars as it shows them, without times."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(path), size_guidance={"scalars": 0})
    shown.Reload()
    return {
        tag: [(each.step, each.value) for each in shown.Scalars(tag)]
        for tag in sorted(shown.Tags()["scalars"])
        if not tag.startswith("time/")
    }


def forge(checkpoint: Path, name: str, change: Callable[[Any], None]) -> None:
    """Change a part of a checkpoint so that nothing shows: its checksums are right."""
    tree = storage.read_tree(checkpoint / f"{name}.pt")
    change(tree)
    (checkpoint / f"{name}.pt").unlink()
    register(checkpoint, name, storage.write_tree(checkpoint / f"{name}.pt", tree))


def register(checkpoint: Path, name: str, entry: Any) -> None:
    """Put a file's entry into the manifest."""
    manifest = storage.read_manifest(checkpoint)
    manifest["items"][name] = entry
    (checkpoint / "manifest.json").unlink()
    storage.write_manifest(checkpoint, {k: v for k, v in manifest.items() if k != "sha256"})


def differences(one: Any, other: Any, name: str = "") -> Iterator[str]:
    """Names of the leaves in which two states differ by a single bit."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in {**one, **other}:
            if key not in one or key not in other:
                yield f"{name}/{key} (only one has it)"
            else:
                yield from differences(one[key], other[key], f"{name}/{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield f"{name} ({len(one)} and {len(other)} long)"
        for number, (first, second) in enumerate(zip(one, other, strict=False)):
            yield from differences(first, second, f"{name}/{number}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        if not same or one.numpy().tobytes() != other.numpy().tobytes():
            yield name
    elif type(one) is not type(other) or one != other:
        yield name


def assert_same(runs: Path, other: Path) -> None:
    """Two runs left the same behind, bit for bit."""
    found = list(differences(left(runs), left(other)))
    assert not found, "\n".join(found)
