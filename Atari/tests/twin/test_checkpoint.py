"""Checkpoints: round trips, which ones stay, damage and forgery, full disks, NaNs, kills.

Faults are put in at the calls of the operating system.
"""

import errno
import io
import itertools
import json
import os
import random
import resource
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from small_checkpoints import (
    BLOCK,
    CAPACITY,
    FailingCall,
    Run,
    contents,
    files,
    forge,
    forge_part,
    leftovers,
    steps,
)

from mlr_atari.errors import CheckpointError, NonFiniteError, StorageError
from mlr_atari.run.checkpoint import Checkpointer


def newest_step(folder: Path) -> int | None:
    checkpoint = Checkpointer(folder).newest()
    return checkpoint and checkpoint.step


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The folder of a run with checkpoints of steps 6 and 11, by two processes."""
    for step in (6, 11):
        Run(tmp_path).save(step)
    return tmp_path


# --- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames_a_step", "every"), [(1, 2), (3, 1), (7, 3)])
def test_a_restored_run_goes_on_as_one_that_never_saved(
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
        reference = Run(tmp_path / "unsaved", frames_a_step=frames_a_step)
        for past in range(1, step + 1):
            reference.advance(past)
        assert restored.numbers() == reference.numbers()


def test_tensors_and_plain_values_come_back_and_nothing_else_is_saved(tmp_path: Path) -> None:
    run = Run(tmp_path)
    value = {
        "numbers": [2**127, float("-inf"), True, None],
        "text": ("ü", b"\0\xff"),
        "nested": [(1, [2]), {"a": {3: ()}}],
        "generator": np.random.default_rng(3).bit_generator.state,
    }
    view = torch.zeros(1_000_000)[10:20]  # the file holds only these
    run.part |= {"more": value, "view": view}
    run.save(1)
    checkpoint = Checkpointer(tmp_path).newest(["agent"])
    assert checkpoint is not None
    assert checkpoint.items["agent"]["more"] == value
    assert files(tmp_path, 1)["agent"].stat().st_size < 10_000
    for other in (np.float64(1), np.zeros(2), Path("x"), {1, 2}, {(1, 2): 3}):
        run.part["more"] = [other]
        with pytest.raises(TypeError, match=r"agent\.more\.0"):
            run.save(2)


# --- what does not fit --------------------------------------------------------------------------


def test_other_parts_and_shapes_are_refused(saved: Path) -> None:
    run = Run(saved)
    with pytest.raises(CheckpointError, match="objective does not fit"):
        run.checkpointer.load({**run.state, "objective": run.part}, run.ring)
    with pytest.raises(CheckpointError, match="agent does not fit"):
        Run(saved, size=51).load()


def test_another_format_is_refused_whatever_lies_beside_it(saved: Path) -> None:
    forge(files(saved, 11)["json"], {"schema": 99})
    with pytest.raises(CheckpointError, match="schema 99, this code reads 3"):
        Run(saved).load()
    (saved / "old" / "checkpoints" / "step_000000006").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="none of the 1"):
        Checkpointer(saved / "old").newest(["agent"])


@pytest.mark.parametrize("step", [6, 11])
def test_a_checkpoint_of_another_run_is_refused_and_stays(saved: Path, step: int) -> None:
    forge(files(saved, step)["json"], {"run": "that"})
    before = contents(saved)
    for names in (None, ["agent"]):
        with pytest.raises(CheckpointError, match=f"{step}.json: is of a run with another"):
            Run(saved).checkpointer.newest(names)
    Run(saved).save(12)  # it came while the run went on
    assert contents(saved).items() >= before.items()


# --- frames and checkpoints that stay -----------------------------------------------------------


def test_frames_are_written_once_and_removed_when_no_longer_needed(tmp_path: Path) -> None:
    run = Run(tmp_path, frames_a_step=3)
    before: dict[str, tuple[int, int]] = {}
    for step in range(1, 20):
        run.save(step)
        blocks = {name: path for name, path in files(tmp_path, step).items() if "frames" in name}
        assert len(blocks) <= CAPACITY // BLOCK + 1
        full = [path for name, path in blocks.items() if int(name.split()[1]) % BLOCK == 0]
        now = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in full}
        assert all(now[name] == was for name, was in before.items() if name in now)
        assert step < 3 or before.keys() & now.keys()
        assert not leftovers(tmp_path)
        before = now
    for path in (tmp_path / "checkpoints" / "files").iterdir():
        path.unlink()  # by somebody else, to make room
    run.save(20)
    assert Run(tmp_path).load() == 20


def test_another_past_is_removed_and_its_frames_are_not_used(tmp_path: Path) -> None:
    """On a GPU a run that falls back a checkpoint may not see the same frames again."""
    for step in (6, 13):
        Run(tmp_path, past=1).save(step)
    forge_part(files(tmp_path, 13)["json"], "agent", b"")
    other = Run(tmp_path, past=2)
    assert other.load() == 6
    other.save(14)
    restored = Run(tmp_path)
    assert restored.load() == 14
    assert restored.ring.frames[:14, 0, 0, 0].tolist() == [1] * 6 + [2] * 8
    assert steps(tmp_path) == [6, 14]
    assert not leftovers(tmp_path)


def test_the_last_two_and_the_final_ones_stay(tmp_path: Path) -> None:
    run = Run(tmp_path)
    others = [tmp_path / "checkpoints" / "files" / "notes", tmp_path / "checkpoints" / "notes"]
    for step in range(1, 6):
        run.save(step, final=step == 3)
        for path in others:
            path.write_text("not ours to remove")
    assert steps(tmp_path) == [3, 4, 5]
    for step in range(6, 9):
        run = Run(tmp_path)  # a resumed process keeps to it
        run.load()
        run.save(step, final=step == 8)
    for _ in range(2):
        run.part["weight"] += 1  # something that changes within a step
        run.checkpointer.save(8, run.state, run.ring)  # it stays final
    restored = Run(tmp_path)
    restored.load()
    assert torch.equal(restored.part["weight"], run.part["weight"])
    for step in (9, 10):
        restored.save(step)
    assert steps(tmp_path) == [3, 8, 9, 10]
    assert leftovers(tmp_path) == others


# --- damage -------------------------------------------------------------------------------------


def flip(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "removed": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["json", "agent", "frames 8", "frames 11"])
def test_a_damaged_file_is_detected_and_the_previous_checkpoint_used(
    saved: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = files(saved, 11)[name]
    DAMAGES[damage](path)
    before, restored = contents(saved), Run(saved)
    assert restored.load() == restored.part["step"] == 6
    assert contents(saved) == before
    if (damage, name) != ("removed", "json"):  # that is no checkpoint
        (message,) = (line.getMessage() for line in caplog.records if line.levelname == "WARNING")
        assert "step_000000011" in message
        assert path.name in message
    restored.save(7)  # the damaged one goes once a newer valid one is in place
    assert steps(saved) == [6, 7]
    assert not leftovers(saved)


def test_every_single_bit_of_every_file_counts(tmp_path: Path) -> None:
    Run(tmp_path).save(6)
    chance = random.Random(1)
    for name, path in files(tmp_path, 6).items():
        good = path.read_bytes()
        positions = range(len(good)) if name == "json" else chance.sample(range(len(good)), 20)
        for position in positions:
            flip(path, position, chance.randrange(8))
            before, restored = contents(tmp_path), Run(tmp_path)
            with pytest.raises(CheckpointError, match="none of the 1 checkpoints can be used"):
                restored.load()
            assert (contents(tmp_path), restored.part["step"]) == (before, 0)
            path.write_bytes(good)
    assert Run(tmp_path).load() == 6


def test_an_evaluation_reads_only_what_it_needs(saved: Path) -> None:
    for name in ("replay", "frames 4"):
        files(saved, 11)[name].unlink()
    checkpoint = Checkpointer(saved).newest(["agent"])
    assert checkpoint is not None
    assert (checkpoint.step, list(checkpoint.items)) == (11, ["agent"])


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
def test_a_malicious_file_is_refused_and_does_not_run(saved: Path, legacy: bool) -> None:
    marker, path = saved / "marker", files(saved, 11)["json"]
    content = pickled({"x": Payload(marker)}, _use_new_zipfile_serialization=not legacy)
    torch.load(io.BytesIO(content), weights_only=False)
    marker.rmdir()  # it would have run
    good = json.loads(path.read_text())["parts"]
    forge_part(path, "agent", content)
    assert Run(saved).load() == 6
    bad = json.loads(path.read_text())["parts"]["agent"]
    forge(path, {"parts": good, "frames": {"4": bad}})
    with pytest.raises(CheckpointError, match="frames does not fit"):
        Run(saved).load()
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
    "content",
    [
        compressed(pickled({"x": torch.zeros(100_000)})),
        pickled({"x": torch.zeros(1).expand(10**12)}),
        pickled(LISTS),
        pickled({"x": {1, 2}}),
        b"",
        2**42,  # bytes, more than the memory holds; sparse, it takes no room on the disk
    ],
)
def test_a_file_that_stands_for_more_than_it_holds_is_refused(
    tmp_path: Path, content: bytes | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(tmp_path).save(6)
    if isinstance(content, int):
        os.truncate(files(tmp_path, 6)["agent"], content)
        monkeypatch.setattr("hashlib.file_digest", pytest.fail)  # it is not even read
    else:
        forge_part(files(tmp_path, 6)["json"], "agent", content)
    for names in (None, ["agent"]):
        with pytest.raises(CheckpointError):
            Checkpointer(tmp_path).newest(names)


@pytest.mark.parametrize(
    "changes",
    [
        {"parts": {"agent": "../../outside"}},
        {"parts": []},
        {"parts": {}},
        {"frames": {"x": 64 * "0"}},
        {"run": ["that"]},
        {"step": 7},
        pytest.param("[" * 1_000_000, id="deep"),
        pytest.param(" " * 2**25, id="large"),
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
        run.save(step)
    done = newest_step(folder) == step
    assert done or newest_step(folder) == step - 1
    assert not leftovers(folder)
    run.save(step + 1)
    assert len(steps(folder)) == 2
    assert not leftovers(folder)
    restored = Run(folder, size=len(run.part["weight"]))
    assert restored.load() == restored.part["step"] == step + 1
    return done


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_fault_at_any_call_costs_one_checkpoint(tmp_path: Path, name: str) -> None:
    run, done = Run(tmp_path), []
    run.save(6)
    for number in itertools.count(1):
        fault = FailingCall(name, number, errno.ENOSPC)
        done.append(save_with(patch.object(os, name, fault), run, tmp_path))
        if fault.count < number:
            break
    assert done.count(False) >= 2
    assert done[-1]


@pytest.mark.parametrize("name", ["fsync", "replace", "unlink"])
def test_a_kill_at_any_call_costs_at_most_that_save(saved: Path, name: str) -> None:
    for number in itertools.count(1):
        before, child = steps(saved)[-1], os.fork()
        if not child:
            try:
                run = Run(saved)
                run.load()
                with patch.object(os, name, FailingCall(name, number, 0)):
                    run.save(before + 1)
                os._exit(0)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        restored, reference = Run(saved), Run(saved)
        step = restored.load() or 0
        assert (step, code) in ((before, 9), (before + 1, 9), (before + 1, 0))
        reference.advance(step)
        assert restored.part["weight"].equal(reference.part["weight"])
        assert restored.ring.frames.equal(reference.ring.frames)
        if not code:
            break
    assert number > 3
    assert len(steps(saved)) == 2
    assert not leftovers(saved)


def test_a_disk_that_is_full_at_any_byte_costs_one_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, size=100_000)
    run.save(6)
    for size in (0, 1_000, 200_000, files(tmp_path, 6)["agent"].stat().st_size - 1):
        assert not save_with(no_file_beyond(size), run, tmp_path)


def test_three_failures_in_a_row_end_the_run(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(saved)
    run.load()
    with patch.object(os, "fsync", FailingCall("fsync", 1, errno.ENOSPC)):
        run.save(12)
    run.save(13)  # the count starts again
    monkeypatch.setattr(os, "fsync", FailingCall("fsync", -1, errno.ENOSPC))
    for step in (14, 15):
        run.save(step)
    with pytest.raises(StorageError, match="last good step: 13"):
        run.save(16)
    run = Run(saved)
    run.load()
    with pytest.raises(StorageError, match="last good step: 13"):  # or a single one
        run.save(17, required=True)
    assert Run(saved).load() == 13
    assert not leftovers(saved)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_non_finite_state_is_never_saved(tmp_path: Path, bad: float, dtype: torch.dtype) -> None:
    run = Run(tmp_path)
    run.part["state"] = {0: (torch.zeros(2), [torch.ones(3, dtype=dtype)])}
    run.save(6)
    before = contents(tmp_path)
    run.part["state"][0][1][0][2] = bad
    with pytest.raises(NonFiniteError, match=r"agent\.state\.0\.1\.0 .* at step 7 .*: 6"):
        run.save(7)
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    assert (report["step"], report["not_finite"].split()[0]) == (7, "agent.state.0.1.0")
    (tmp_path / "nonfinite.json").unlink()
    assert contents(tmp_path) == before
