"""Checkpoints: round trips, what does not fit, frames on disk, which ones stay."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_checkpoints import CAPACITY, CHUNK, Part, Ring, Run, damage_newest, names, same
from torch import Tensor, nn

from mlr_dmcontrol.errors import CheckpointError
from mlr_dmcontrol.run.checkpoint import Checkpointer

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
