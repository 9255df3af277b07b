"""Checkpoints when writing goes wrong: the disk, non-finite numbers, kills (R5, R7, R17).

Disk faults are injected at the operating system's calls.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoints import CHUNK, Part, Run, leftovers, names, tree

from mlr_dmcontrol.errors import NonFiniteError, StorageError
from mlr_dmcontrol.run import storage
from mlr_dmcontrol.run.checkpoint import Checkpointer

# --- faults while writing -----------------------------------------------------------------------


class FailingCall:
    """The `number`-th call of an `os` function fails, after half of what it was given."""

    def __init__(self, name: str, number: int, code: int) -> None:
        self.real, self.name, self.number, self.code = getattr(os, name), name, number, code
        self.count = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        if self.count == self.number:
            if self.name == "write":
                self.real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*arguments, **options)


def count_calls(folder: Path, name: str) -> int:
    """How often a save calls the `os` function."""
    counter = FailingCall(name, 0, 0)
    run = Run(folder)
    run.save(6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, counter)
        run.save(7)
    return counter.count


def check_faults(folder: Path, name: str, code: int, numbers: Iterable[int]) -> None:
    """Whichever call fails, at most that checkpoint is lost, and nothing is left behind."""
    run = Run(folder)
    run.save(6)
    steps, failed = itertools.count(7), 0
    for number in numbers:
        fault = FailingCall(name, number, code)
        step = next(steps)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, name, fault)
            result = run.save(step)
        found = Checkpointer(folder).newest()
        assert found is not None
        assert found.step >= step - 1
        if result is None:
            failed += 1
            assert not leftovers(folder)
        else:  # removing old ones failed, or no such call was made: no loss
            assert found.step == step
        assert run.save(next(steps)) is not None  # training goes on, and so does saving
        assert len(names(folder)) == 2
        restored = Run(folder)
        restored.load()
        assert restored.part.step == run.part.step
    assert failed >= 1


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("open", errno.ENOSPC),
        ("write", errno.ENOSPC),
        ("write", errno.EIO),
        ("fsync", errno.EIO),
        ("replace", errno.EIO),
        ("mkdir", errno.ENOSPC),
    ],
)
def test_a_fault_at_the_first_middle_or_last_call_costs_one_checkpoint(
    tmp_path: Path, name: str, code: int
) -> None:
    count = count_calls(tmp_path / "count", name)
    numbers = {1, count // 4, count // 2, 3 * count // 4, count} - {0}
    check_faults(tmp_path / "run", name, code, sorted(numbers))


@pytest.mark.soak
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace", "mkdir"])
def test_a_fault_at_any_call_costs_one_checkpoint(tmp_path: Path, name: str, code: int) -> None:
    count = count_calls(tmp_path / "count", name)
    check_faults(tmp_path / "run", name, code, range(1, count + 1))


def test_three_failures_in_a_row_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path)
    run.save(6)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FailingCall("fsync", 1, errno.EIO))
        assert run.save(7) is None
    assert run.save(8) is not None  # the count starts again
    monkeypatch.setattr(storage.os, "fsync", always_full)
    assert run.save(9) is None
    assert run.save(10) is None
    assert "step 10 could not be saved" in caplog.records[-1].getMessage()
    with pytest.raises(StorageError, match="step 11 .*last good step: 8; make room") as raised:
        run.save(11)
    assert raised.value.exit_code == 3
    assert Run(tmp_path).load() == 8
    assert not leftovers(tmp_path)


def always_full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_required_save_ends_the_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", always_full)
    with pytest.raises(StorageError, match="last good step: none"):
        Run(tmp_path).save(3, required=True)


def test_room_is_checked_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path, frames_a_step=CHUNK)
    run.save(2)
    new = Part().tensors["weight"].nbytes + 3 * 8 + sum(
        each.nbytes for each in run.streams.state_dict().values()
    )  # fmt: skip
    new += 1 * CHUNK * 12  # one more chunk of frames, the other two are on disk
    wanted = new * 3 // 2

    def free(room: int) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(free=room)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    free(wanted - 1)
    monkeypatch.setattr(storage, "write_tree", pytest.fail)
    assert run.save(3) is None
    assert "MB wanted" in caplog.records[-1].getMessage()
    monkeypatch.undo()
    free(wanted + 1)
    assert run.save(3) is not None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("honest", [True, False])
def test_a_disk_that_is_really_full(
    small_disk: Path, honest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(small_disk)
    if not honest:  # another program takes the room after it was checked
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    run = Run(small_disk)
    run.save(1)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 30_000 if honest else 1_900_000))
    if not honest:
        run.part.tensors["weight"] = torch.zeros(200_000)
    assert run.save(2) is None
    assert run.save(3) is None
    assert not leftovers(small_disk)
    assert Checkpointer(small_disk).newest(["agent"]).step == 1  # type: ignore[union-attr]
    ballast.unlink()
    assert run.save(4) is not None
    assert Checkpointer(small_disk).newest().step == 4  # type: ignore[union-attr]


# --- non-finite numbers -------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_state_is_never_saved(tmp_path: Path, bad: float) -> None:
    run = Run(tmp_path)
    run.save(6)
    before = tree(tmp_path)
    run.advance(7)
    run.part.tensors["weight"][3] = bad
    with pytest.raises(NonFiniteError, match=r"agent\.tensors\.weight .* at step 7 .*_000000006"):
        run.checkpointer.save(7, run.state, run.ring)
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    assert report == {"step": 7, "not_finite": "agent.tensors.weight"}
    (tmp_path / "nonfinite.json").unlink()
    assert tree(tmp_path) == before


# --- kills --------------------------------------------------------------------------------------


def endless(folder: Path, seconds: float) -> None:
    """Resume, then save every step, each write being slowed; never returns."""
    real = os.write

    def slow(descriptor: int, data: Any) -> int:
        time.sleep(seconds)
        return real(descriptor, data[: max(1, len(data) // 2)])

    run = Run(folder)
    step = run.load() or 0
    os.write = slow  # type: ignore[assignment]
    while True:
        step += 1
        run.save(step)
        (folder / "reached").write_text(str(step))


def kill_and_resume(folder: Path, kills: int) -> None:
    """Every resume must find all but the interrupted save, whole."""
    chance = random.Random(3)
    resumed_inside = 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            try:
                endless(folder, 0.0003)
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0.05, 0.5))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        resumed_inside += bool(leftovers(folder))
        reached = folder / "reached"
        saved = int(reached.read_text() or 0) if reached.exists() else 0
        run = Run(folder)
        step = run.load() or 0
        # What was announced is never lost; a kill before the note leaves it behind, several in
        # a row by several steps.
        assert step >= saved
        reference = Run(folder)
        reference.part.advance(step)
        reference.ring.grow_to(step)
        assert torch.equal(run.ring.frames, reference.ring.frames)
        if step:
            assert torch.equal(run.part.tensors["weight"], reference.part.tensors["weight"])
    assert resumed_inside >= kills // 2  # most kills must have hit a save
    run.save(step + 1)
    assert not leftovers(folder)
    assert len(names(folder)) <= 2


def test_kills_during_saves(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, 10)


@pytest.mark.soak
def test_many_kills_during_saves(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, 200)


@pytest.mark.parametrize("number", [1, 9, 30])
def test_an_interrupt_during_a_save_loses_only_that_save(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    run.save(6)
    numbers = itertools.count(1)
    real = os.write

    def write(descriptor: int, data: Any) -> int:
        if next(numbers) == number:
            raise KeyboardInterrupt
        return real(descriptor, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "write", write)
        run.save(7)
    assert Run(tmp_path).load() == 6
    assert run.save(8) is not None
    assert not leftovers(tmp_path)
