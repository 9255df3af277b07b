"""Checkpoints: round trips, damage, full disks, kills in the middle of a write (R5-R7, R17, R20).

The parts that are saved are small stand-ins for networks and replay; disk faults are injected at
the operating system's calls.
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
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mlr_atari.errors import CheckpointError, NonFiniteError, StorageError
from mlr_atari.run import storage
from mlr_atari.run.checkpoint import Checkpointer
from mlr_atari.run.seeding import Streams

CAPACITY, CHUNK = 20, 4


class Part:
    """A part of a run whose tensors are a function of the step, changed in place."""

    def __init__(self, size: int = 50, device: str = "cpu") -> None:
        self.tensors = {
            "weight": torch.zeros(size, device=device),
            "indices": torch.zeros(3, dtype=torch.int64, device=device),
        }
        self.step = 0

    def advance(self, step: int) -> None:
        self.step = step
        self.tensors["weight"].copy_(torch.arange(self.tensors["weight"].numel()) * 0.5 + step)
        self.tensors["indices"].fill_(step)

    def state_dict(self) -> dict[str, Any]:
        return {"tensors": self.tensors, "step": self.step, "name": "agent", "open": (1, [2.5])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(state["tensors"][name])
        self.step = state["step"]


class Ring:
    """The last `CAPACITY` frames; frame `n` holds `n` (and `past`, so that runs can differ)."""

    def __init__(self, past: int = 0, chunk: int = CHUNK) -> None:
        self.frames = torch.zeros(CAPACITY, 3, 2, 2, dtype=torch.uint8)
        self.frames_written = 0
        self.frame_chunk_size = chunk
        self.past = past

    @property
    def first_live_frame(self) -> int:
        return max(0, self.frames_written - CAPACITY)

    def frame(self, number: int) -> Tensor:
        frame = torch.full((3, 2, 2), number % 251, dtype=torch.uint8)
        frame[0] = self.past
        return frame

    def grow_to(self, count: int) -> None:
        for number in range(self.frames_written, count):
            self.frames[number % CAPACITY] = self.frame(number)
        self.frames_written = max(count, self.frames_written)

    def read_frames(self, start: int, stop: int) -> Tensor:
        assert self.first_live_frame <= start < stop <= self.frames_written
        return self.frames[torch.arange(start, stop) % CAPACITY]

    def write_frames(self, start: int, frames: Tensor) -> None:
        self.frames[torch.arange(start, start + len(frames)) % CAPACITY] = frames

    def state_dict(self) -> dict[str, Any]:
        return {"written": self.frames_written}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.frames_written = state["written"]


class Run:
    """Everything of a small run, `frames_a_step` frames a step."""

    def __init__(self, folder: Path, past: int = 0, frames_a_step: int = 1) -> None:
        self.part, self.ring, self.streams = Part(), Ring(past), Streams(1)
        self.state = {"agent": self.part, "replay": self.ring, "streams": self.streams}
        self.checkpointer = Checkpointer(folder)
        self.frames_a_step = frames_a_step

    def advance(self, step: int) -> None:
        self.part.advance(step)
        self.ring.grow_to(step * self.frames_a_step)
        torch.rand(step, generator=self.streams["replay"])

    def save(self, step: int, **options: Any) -> Path | None:
        self.advance(step)
        return self.checkpointer.save(step, self.state, self.ring, **options)

    def load(self) -> int | None:
        return self.checkpointer.load(self.state, self.ring)

    def numbers(self) -> list[Tensor]:
        draws = [torch.rand(5, generator=self.streams[name]) for name in ("replay", "noise")]
        return [*self.part.tensors.values(), self.ring.frames, *draws]


def same(one: Run, two: Run) -> bool:
    return one.part.step == two.part.step and all(
        torch.equal(first, second)
        for first, second in zip(one.numbers(), two.numbers(), strict=True)
    )


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in (folder / "checkpoints").glob("step_*"))


def leftovers(folder: Path) -> list[Path]:
    return list((folder / "checkpoints").glob(".*"))


def tree(folder: Path) -> dict[str, bytes]:
    files = (each for each in folder.rglob("*") if each.is_file())
    return {str(each.relative_to(folder)): each.read_bytes() for each in files}


# --- round trips --------------------------------------------------------------------------------


def test_nothing_to_restore(tmp_path: Path) -> None:
    assert Run(tmp_path).load() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("frames_a_step", "every"), [(1, 2), (3, 1), (7, 3)])
def test_a_restored_run_goes_on_as_the_saved_one(
    tmp_path: Path, frames_a_step: int, every: int
) -> None:
    run = Run(tmp_path, frames_a_step=frames_a_step)
    for step in range(1, 16):
        if step % every:
            run.advance(step)
            continue
        run.save(step)
        restored = Run(tmp_path, frames_a_step=frames_a_step)
        assert restored.load() == step
        assert restored.ring.frames_written == step * frames_a_step
        reference = Run(tmp_path / "unsaved", frames_a_step=frames_a_step)
        for past in range(1, step + 1):
            reference.advance(past)
        assert same(restored, reference)  # also: saving had no effect


def test_saving_and_loading_use_no_global_randomness(tmp_path: Path) -> None:
    def generators() -> list[Any]:
        numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002
        return [random.getstate(), numpy_state, torch.get_rng_state().tolist()]

    before = generators()
    crc = torch.serialization.get_crc32_options()
    run = Run(tmp_path)
    run.save(3)
    run.load()
    assert generators() == before
    assert torch.serialization.get_crc32_options() == crc


def test_parts_are_restored_in_the_order_given_then_the_frames(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(3)
    order: list[str] = []

    class Listener:
        def __init__(self, name: str) -> None:
            self.name = name

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            order.append(self.name)

    class ListeningRing(Ring):
        def write_frames(self, start: int, frames: Tensor) -> None:
            order.append("frames")

    listeners = {name: Listener(name) for name in ("streams", "agent", "replay")}
    Checkpointer(tmp_path).load(listeners, ListeningRing())
    assert order == ["streams", "agent", "replay", "frames"]


def test_modules_and_optimizers_are_restored_in_place(tmp_path: Path) -> None:
    def build() -> dict[str, Any]:
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        return {"network": network, "optimizer": torch.optim.Adam(network.parameters(), lr=1e-2)}

    def train(state: dict[str, Any], batch: Tensor) -> None:
        state["network"](batch).square().mean().backward()
        state["optimizer"].step()
        state["optimizer"].zero_grad()

    torch.manual_seed(0)
    batches = torch.randn(6, 8, 3)
    one, two = build(), build()
    for batch in batches[:3]:
        train(one, batch)
    Checkpointer(tmp_path).save(3, one)
    addresses = [each.data_ptr() for each in two["network"].parameters()]
    assert Checkpointer(tmp_path).load(two) == 3
    assert [each.data_ptr() for each in two["network"].parameters()] == addresses
    for batch in batches[3:]:
        train(one, batch)
        train(two, batch)
    for first, second in zip(
        one["network"].state_dict().values(), two["network"].state_dict().values(), strict=True
    ):
        assert torch.equal(first, second)


def test_views_do_not_drag_their_memory_along(tmp_path: Path) -> None:
    part = Part()
    part.tensors["weight"] = torch.zeros(1_000_000)[10:20]
    folder = Checkpointer(tmp_path).save(1, {"agent": part})
    assert folder is not None
    assert (folder / "agent.pt").stat().st_size < 10_000


@pytest.mark.parametrize(
    "value", [np.float64(1), np.zeros(2), Path("x"), {1, 2}, {(1, 2): 3}, object()]
)
def test_only_tensors_and_plain_values_are_accepted(tmp_path: Path, value: Any) -> None:
    part = Part()
    part.tensors["weight"] = {"inner": [value]}  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"agent\.tensors\.weight\.inner\.0"):
        Checkpointer(tmp_path).save(1, {"agent": part})


def test_plain_values_come_back_equal(tmp_path: Path) -> None:
    value = {
        "int": 2**127,
        "float": float("-inf"),
        "bool": True,
        "str": "ü",
        "bytes": b"\0\xff",
        "none": None,
        "nested": [(1, [2]), {"a": {3: ()}}],
        "generator": np.random.default_rng(3).bit_generator.state,
    }

    class Values:
        def state_dict(self) -> dict[str, Any]:
            return value

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            self.state = state

    values = Values()
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"values": values})
    checkpointer.load({"values": values})
    assert values.state == value


@pytest.mark.cuda
def test_a_checkpoint_moves_between_devices(tmp_path: Path) -> None:
    for source, target in itertools.permutations(("cuda", "cpu")):
        one, two = Part(device=source), Part(device=target)
        one.advance(3)
        Checkpointer(tmp_path / source).save(3, {"agent": one})
        Checkpointer(tmp_path / source).load({"agent": two})
        assert two.tensors["weight"].device.type == target
        assert torch.equal(two.tensors["weight"].cpu(), one.tensors["weight"].cpu())


# --- what does not fit --------------------------------------------------------------------------


def test_other_parts_shapes_or_frames_are_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(9)
    checkpointer = Checkpointer(tmp_path)
    with pytest.raises(CheckpointError, match="objective"):
        checkpointer.load({**run.state, "objective": Part()}, run.ring)
    with pytest.raises(CheckpointError, match="agent does not fit"):
        checkpointer.load({**run.state, "agent": Part(size=51)}, run.ring)
    with pytest.raises(CheckpointError, match="frames"):
        checkpointer.load(run.state)
    with pytest.raises(CheckpointError, match="chunks of 4 frames, this run has 5"):
        checkpointer.load(run.state, Ring(chunk=5))


# --- frames on disk -----------------------------------------------------------------------------


def chunk_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Name, inode and time of change of every chunk."""
    return {
        each.name: (each.stat().st_ino, each.stat().st_mtime_ns)
        for each in (folder / "checkpoints" / "frames").iterdir()
    }


def test_chunks_are_written_once_and_removed_when_no_longer_needed(tmp_path: Path) -> None:
    run = Run(tmp_path, frames_a_step=CHUNK)
    before: dict[str, tuple[int, int]] = {}
    for step in range(1, 20):
        run.save(step)
        now = chunk_files(tmp_path)
        assert all(now[name] == each for name, each in before.items() if name in now)
        # live chunks of the last two checkpoints: full ring, and one more that fell out since
        assert len(now) == min(step, CAPACITY // CHUNK + (1 if step > CAPACITY // CHUNK else 0))
        before = now


def test_the_head_is_written_with_each_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in range(1, 4):
        folder = run.save(step)
        assert folder is not None
        head = np.load(folder / "frames_head.npy", allow_pickle=False)
        assert head.shape == (step, 3, 2, 2)
    folder = run.save(4)
    assert folder is not None
    assert not (folder / "frames_head.npy").exists()


def test_another_past_does_not_overwrite_chunks(tmp_path: Path) -> None:
    """On a GPU a run that falls back a checkpoint may not see the same frames again."""
    run = Run(tmp_path, past=1)
    run.save(6)
    run.save(13)
    damage_newest(tmp_path)
    other = Run(tmp_path, past=2)
    assert other.load() == 6
    other.save(12)
    frames = Run(tmp_path)
    assert frames.load() == 12
    assert frames.ring.frames[:6, 0, 0, 0].tolist() == [1] * 6
    assert frames.ring.frames[6:12, 0, 0, 0].tolist() == [2] * 6


def damage_newest(folder: Path) -> None:
    path = folder / "checkpoints" / names(folder)[-1] / "agent.pt"
    path.write_bytes(path.read_bytes()[:-1])


# --- retention ----------------------------------------------------------------------------------


def test_the_last_two_and_the_final_ones_stay(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in range(1, 11):
        run.save(step, final=step == 5)
    assert names(tmp_path) == ["step_000000005", "step_000000009", "step_000000010"]
    for step in range(11, 14):
        run = Run(tmp_path)  # a resumed process keeps to it
        run.load()
        run.save(step)
    assert names(tmp_path) == ["step_000000005", "step_000000012", "step_000000013"]
    run.save(14, final=True)
    assert names(tmp_path) == ["step_000000005", "step_000000013", "step_000000014"]


def test_at_every_instant_there_is_a_valid_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is looked at before and after every call that moves or removes something."""
    run = Run(tmp_path)
    run.save(1)
    looks, calls = 0, ["replace", "unlink", "rmdir"]

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal looks
            for moment in ("before", "after"):
                if moment == "after":
                    result = function(*arguments, **options)
                found = Checkpointer(tmp_path).newest()
                assert found is not None
                assert found.step >= step - 1
                looks += 1
            return result

        return call

    for name in calls:
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    for step in range(2, 12):
        run.save(step)
    monkeypatch.undo()
    assert looks > 100
    assert len(names(tmp_path)) == 2


def test_a_step_can_be_saved_again(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for _ in range(11):
        run.save(3)
        run.ring.past += 1  # something that changes within a step, such as an evaluation
        run.part.tensors["weight"] += 1
    assert names(tmp_path) == ["step_000000003-10", "step_000000003-11"]
    restored = Run(tmp_path)
    assert restored.load() == 3
    newest = restored.checkpointer.newest()
    assert newest is not None
    assert newest.folder.name == "step_000000003-11"
    run.save(4)
    assert names(tmp_path) == ["step_000000003-11", "step_000000004"]


def test_fewer_than_two_are_not_enough(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        Checkpointer(tmp_path, keep=1)


# --- damage -------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [truncate, empty, extend, flip, remove, make_folder]
FILES = ["agent.pt", "replay.pt", "streams.pt", "frames_head.npy", "manifest.json", "chunk"]


def file_of(folder: Path, name: str) -> Path:
    """A file of the newest checkpoint that the one before does not need."""
    if name == "chunk":
        return max((folder / "checkpoints" / "frames").iterdir())
    return folder / "checkpoints" / names(folder)[-1] / name


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_detected_and_the_previous_checkpoint_used(
    tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path)
    run.save(6)
    run.save(11)
    path = file_of(tmp_path, name)
    damage(path)
    before = tree(tmp_path)
    restored = Run(tmp_path)
    assert restored.load() == 6
    assert restored.part.step == 6
    assert tree(tmp_path) == before
    (message,) = (each.getMessage() for each in caplog.records if each.levelname == "WARNING")
    assert "step_000000011" in message
    assert path.name in message
    restored.save(7)  # the damaged one goes once a newer valid one is in place
    assert names(tmp_path) == ["step_000000006", "step_000000007"]


@pytest.mark.parametrize("name", [*FILES, "folder"])
def test_all_damaged_ends_the_run_and_changes_nothing(tmp_path: Path, name: str) -> None:
    run = Run(tmp_path)
    run.save(6)
    run.save(11)
    for folder in (tmp_path / "checkpoints").glob("step_*"):
        if name == "folder":
            shutil.rmtree(folder)
            folder.mkdir()
        elif name == "chunk":
            for path in (tmp_path / "checkpoints" / "frames").iterdir():
                flip(path)
            break
        else:
            flip(folder / name)
    before = tree(tmp_path)
    restored = Run(tmp_path)
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints can be used") as raised:
        restored.load()
    assert raised.value.exit_code == 2
    assert tree(tmp_path) == before
    assert restored.part.step == 0


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.soak)])
def test_every_single_bit_of_the_manifest_counts(tmp_path: Path, bits: int) -> None:
    folder = Run(tmp_path).save(5)
    assert folder is not None
    path = folder / "manifest.json"
    good = path.read_bytes()
    json.loads(good)
    for position in range(len(good)):
        for bit in range(bits):
            bad = bytearray(good)
            bad[position] ^= 1 << (position + bit) % 8
            path.write_bytes(bad)
            with pytest.raises(storage.Damaged):
                storage.read_manifest(folder)


def test_another_schema_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(tmp_path).save(5)
    monkeypatch.setattr(storage, "SCHEMA", 99)
    with pytest.raises(CheckpointError, match="schema 1, this code reads 99"):
        Run(tmp_path).load()


def test_an_evaluation_reads_only_what_it_needs(tmp_path: Path) -> None:
    Run(tmp_path).save(9)
    shutil.rmtree(tmp_path / "checkpoints" / "frames")
    checkpoint = Checkpointer(tmp_path).newest(["agent"])
    assert checkpoint is not None
    assert checkpoint.step == 9
    assert list(checkpoint.items) == ["agent"]
    assert checkpoint.items["agent"]["step"] == 9
    flip(checkpoint.folder / "agent.pt")
    with pytest.raises(CheckpointError):
        Checkpointer(tmp_path).newest(["agent"])


# --- malice -------------------------------------------------------------------------------------


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def forge(folder: Path, name: str, entry: storage.Entry) -> None:
    """Replace a file's entry in the manifest, with a right checksum."""
    manifest = storage.read_manifest(folder)
    manifest["items"][name] = entry
    (folder / "manifest.json").unlink()
    storage.write_manifest(folder, {k: v for k, v in manifest.items() if k != "sha256"})


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_file_is_refused_and_does_not_run(tmp_path: Path, legacy: bool) -> None:
    run = Run(tmp_path)
    run.save(6)
    folder = run.save(11)
    assert folder is not None
    marker = tmp_path / "marker"
    path = folder / "agent.pt"
    torch.save({"x": Payload(marker)}, path, _use_new_zipfile_serialization=not legacy)
    torch.load(path, weights_only=False)
    marker.rmdir()  # it would have run
    with storage.HashedFile(folder / "copy.pt") as file:
        file.write(path.read_bytes())
    forge(folder, "agent", {**file.entry(), "file": "agent.pt"})
    restored = Run(tmp_path)
    assert restored.load() == 6
    assert not marker.exists()
    shutil.rmtree(tmp_path / "checkpoints" / "step_000000006")
    with pytest.raises(CheckpointError, match=r"agent\.pt is no file of tensors"):
        Run(tmp_path).load()
    assert not marker.exists()


def test_a_malicious_array_is_refused_and_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "frames.npy"
    np.save(path, np.array([Payload(marker)], dtype=object), allow_pickle=True)
    with pytest.raises(storage.Damaged, match="no file of frames"):
        storage.open_frames(path, 1)
    assert not marker.exists()


def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    folder = Run(tmp_path).save(5)
    assert folder is not None
    entry = storage.write_tree(tmp_path / "outside.pt", {})
    forge(folder, "agent", {**entry, "file": "../../outside.pt"})
    with pytest.raises(CheckpointError, match="outside"):
        Run(tmp_path).load()


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


def test_no_module_loads_anything_else(tmp_path: Path) -> None:
    """Also without this package `weights_only` is enough to read every file."""
    folder = Run(tmp_path).save(5)
    code = (
        "import sys, torch; from pathlib import Path;"
        "[torch.load(p, weights_only=True) for p in Path(sys.argv[1]).glob('*.pt')]"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=tmp_path)
