"""Checkpoints that are damaged or forged, and saves that go wrong: full disks, NaNs, kills.

Faults are put in at the calls of the operating system.
"""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import random
import resource
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from small_checkpoints import FailingCall, Run, contents, files, forge, forge_part, leftovers, steps

from mlr_atari.errors import CheckpointError, NonFiniteError, StorageError
from mlr_atari.run.checkpoint import Checkpointer

# --- damage -------------------------------------------------------------------------------------


def flip(path: Path, position: int, bit: int = 4) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "removed": Path.unlink,
}
FILES = ["json", "agent", "replay", "streams", "frames 8", "frames 11"]  # the last: not full yet


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_detected_and_the_previous_checkpoint_used(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (6, 11):
        Run(tmp_path).save(step)
    path = files(tmp_path, 11)[name]
    DAMAGES[damage](path)
    before, restored = contents(tmp_path), Run(tmp_path)
    removed = (damage, name) == ("removed", "json")  # that is no checkpoint
    assert restored.load() == restored.part.step == 6
    assert contents(tmp_path) == before
    messages = [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]
    assert len(messages) == (0 if removed else 1)
    assert removed or ("step_000000011" in messages[0] and path.name in messages[0])
    restored.save(7)  # the damaged one goes once a newer valid one is in place
    assert steps(tmp_path) == [6, 7]
    assert not leftovers(tmp_path)


def test_all_damaged_ends_the_run_and_changes_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (6, 11):
        run.save(step)
        flip(files(tmp_path, step)["agent"], 100)
    before, restored = contents(tmp_path), Run(tmp_path)
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints can be used") as raised:
        restored.load()
    assert raised.value.exit_code == 2
    assert contents(tmp_path) == before
    assert restored.part.step == 0


def test_every_single_bit_of_every_file_counts(tmp_path: Path) -> None:
    Run(tmp_path).save(6)
    chance = random.Random(1)
    for name, path in files(tmp_path, 6).items():
        good = path.read_bytes()
        positions = range(len(good)) if name == "json" else chance.sample(range(len(good)), 20)
        for position in positions:
            flip(path, position, chance.randrange(8))
            with pytest.raises(CheckpointError):
                Checkpointer(tmp_path).newest()
            path.write_bytes(good)
    assert Run(tmp_path).load() == 6


def test_an_evaluation_reads_only_what_it_needs(tmp_path: Path) -> None:
    Run(tmp_path).save(6)
    for name in ("replay", "frames 4"):
        files(tmp_path, 6)[name].unlink()
    checkpoint = Checkpointer(tmp_path).newest(["agent"])
    assert checkpoint is not None
    assert (checkpoint.step, list(checkpoint.items)) == (6, ["agent"])
    assert checkpoint.items["agent"]["step"] == 6
    with pytest.raises(CheckpointError):
        Checkpointer(tmp_path).newest()


# --- malice -------------------------------------------------------------------------------------


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def pickled(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_file_is_refused_and_does_not_run(tmp_path: Path, legacy: bool) -> None:
    for step in (6, 11):
        Run(tmp_path).save(step)
    marker, path = tmp_path / "marker", files(tmp_path, 11)["json"]
    content = pickled({"x": Payload(marker)}, _use_new_zipfile_serialization=not legacy)
    torch.load(io.BytesIO(content), weights_only=False)
    marker.rmdir()  # it would have run
    good = json.loads(path.read_text())["parts"]
    forge_part(path, "agent", content)
    assert Run(tmp_path).load() == 6
    bad = json.loads(path.read_text())["parts"]["agent"]
    forge(path, {"parts": good, "frames": {"4": bad}})
    with pytest.raises(CheckpointError, match="frames does not fit"):
        Run(tmp_path).load()
    assert not marker.exists()


def compressed(content: bytes) -> bytes:
    whole, small = io.BytesIO(content), io.BytesIO()
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(small, "w", 8) as target:
        for entry in source.namelist():
            target.writestr(entry, source.read(entry))
    return small.getvalue()


LISTS: list[Any] = [0]
for _ in range(40):
    LISTS = 10 * [LISTS]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (compressed(pickled({"x": torch.zeros(100_000)})), "compressed"),
        (pickled({"x": torch.zeros(1).expand(10**12)}), "a view"),
        (pickled(LISTS), "too many values"),
        (pickled({"x": torch.Size([3])}), "Size"),
        (b"", "zip"),
    ],
)
def test_a_file_that_stands_for_more_than_it_holds_is_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    Run(tmp_path).save(6)
    forge_part(files(tmp_path, 6)["json"], "agent", content)
    for names in (None, ["agent"]):
        with pytest.raises(CheckpointError, match=reason):
            Checkpointer(tmp_path).newest(names)


def test_more_than_the_memory_holds_is_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(tmp_path).save(6)
    with files(tmp_path, 6)["agent"].open("r+b") as file:
        file.truncate(2**42)  # sparse: it takes no room on the disk
    monkeypatch.setattr("hashlib.file_digest", pytest.fail)
    with pytest.raises(CheckpointError, match="larger than this machine's memory"):
        Run(tmp_path).load()


@pytest.mark.parametrize(
    "changes",
    [
        {"parts": {"agent": "../../outside"}},
        {"parts": {"agent": None}},
        {"parts": []},
        {"parts": {}},
        {"frames": {"4": "/etc/passwd"}},
        {"frames": {"x": 64 * "0"}},
        {"run": ["that"]},
        {"frames": 3},
        {"step": 7},
        pytest.param("[" * 1_000_000, id="deep"),
        pytest.param(" " * 2**25, id="large"),
        "3",
    ],
)
def test_a_forged_json_is_refused_before_it_is_believed(tmp_path: Path, changes: Any) -> None:
    Run(tmp_path).save(6)
    path = files(tmp_path, 6)["json"]
    if isinstance(changes, str):
        path.write_text(changes)
    else:
        forge(path, changes)
    with pytest.raises(CheckpointError) as raised:
        Checkpointer(tmp_path, run="this").newest(["agent", "replay"])
    assert str(raised.value).isprintable()


# --- faults while writing -----------------------------------------------------------------------


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Writing to a file stops at that byte, as on a disk that is full there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save_with(fault: Any, run: Run, folder: Path) -> bool:
    """Whether a save with a fault succeeds; at most that one is lost, and the next is whole."""
    step = steps(folder)[-1] + 1
    with fault:
        saved = run.save(step) is not None
    newest = Checkpointer(folder).newest()
    assert newest is not None
    assert newest.step in ((step,) if saved else (step - 1, step))  # it may be there, unannounced
    assert saved or not leftovers(folder)
    assert run.save(step + 1) is not None
    assert len(steps(folder)) == 2
    assert not leftovers(folder)
    restored = Run(folder, size=len(run.part.tensors["weight"]))
    assert restored.load() == restored.part.step == step + 1
    return saved


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_fault_at_any_call_costs_one_checkpoint(tmp_path: Path, name: str) -> None:
    run, saved = Run(tmp_path), []
    run.save(6)
    for number in itertools.count(1):
        fault = FailingCall(name, number, errno.ENOSPC)
        saved.append(save_with(patch.object(os, name, fault), run, tmp_path))
        if fault.count < number:
            break
    assert saved.count(False) >= 2
    assert saved[-1]


def test_a_disk_that_is_full_at_any_byte_costs_one_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, size=100_000)
    run.save(6)
    for size in (0, 1, 1_000, 200_000, files(tmp_path, 6)["agent"].stat().st_size - 1):
        assert not save_with(no_file_beyond(size), run, tmp_path)


def test_three_failures_in_a_row_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path)
    run.save(6)
    with patch.object(os, "fsync", FailingCall("fsync", 1, errno.ENOSPC)):
        assert run.save(7) is None
    assert run.save(8) is not None  # the count starts again
    monkeypatch.setattr(os, "fsync", FailingCall("fsync", -1, errno.ENOSPC))
    assert run.save(9) is None
    assert run.save(10) is None
    assert "step 10 could not be saved" in caplog.records[-1].getMessage()
    with pytest.raises(StorageError, match="last good step: 8") as raised:
        run.save(11)
    assert raised.value.exit_code == 3
    run.checkpointer = Run(tmp_path).checkpointer
    run.load()
    with pytest.raises(StorageError, match="last good step: 8"):  # or a single one
        run.save(12, required=True)
    assert Run(tmp_path).load() == 8
    assert not leftovers(tmp_path)


# --- non-finite numbers -------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_state_is_never_saved(tmp_path: Path, bad: float) -> None:
    run = Run(tmp_path)
    run.save(6)
    before = contents(tmp_path)
    run.part.tensors["weight"][3] = bad
    with pytest.raises(NonFiniteError, match=r"agent\.tensors\.weight .* at step 7 .*: 6"):
        run.checkpointer.save(7, run.state, run.ring)
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    assert report == {"step": 7, "not_finite": "agent.tensors.weight"}
    (tmp_path / "nonfinite.json").unlink()
    assert contents(tmp_path) == before


# --- kills --------------------------------------------------------------------------------------


def save_for_ever(folder: Path) -> None:
    """Resume, then save every step, each wait for the disk being longer; never returns."""
    real = os.fsync
    os.fsync = lambda descriptor: time.sleep(0.002) or real(descriptor)
    run = Run(folder)
    step = run.load() or 0
    while True:
        step += 1
        run.save(step)
        (folder / "reached").write_text(str(step))


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.soak)])
def test_kills_during_saves_lose_only_that_save(tmp_path: Path, kills: int) -> None:
    chance, torn, reached = random.Random(3), 0, tmp_path / "reached"
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            try:
                save_for_ever(tmp_path)
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0.05, 0.4))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        torn += bool(leftovers(tmp_path))
        run, reference = Run(tmp_path), Run(tmp_path)
        step = run.load()
        if step is not None:
            assert step >= int((reached.exists() and reached.read_text()) or 0)
            reference.advance(step)
            assert run.part.tensors["weight"].equal(reference.part.tensors["weight"])
            assert run.ring.frames.equal(reference.ring.frames)
    assert torn >= kills // 4  # many must have hit a save
    run.save((step or 0) + 1)
    assert len(steps(tmp_path)) == 2
    assert not leftovers(tmp_path)
