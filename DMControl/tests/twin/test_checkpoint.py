"""Checkpoints: round trips, what does not fit, which ones stay."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from small_checkpoints import (
    BLOCK,
    CAPACITY,
    Part,
    Ring,
    Run,
    contents,
    files,
    forge,
    forge_part,
    leftovers,
    steps,
)
from torch import Tensor

from mlr_dmcontrol.errors import CheckpointError
from mlr_dmcontrol.run.checkpoint import Checkpointer


class Values:
    """A part whose state is what it was given."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


# --- round trips --------------------------------------------------------------------------------


def test_nothing_to_restore(tmp_path: Path) -> None:
    assert Run(tmp_path).load() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("frames_a_step", "every"), [(1, 2), (3, 1), (7, 3)])
def test_a_restored_run_goes_on_as_one_that_never_saved(
    tmp_path: Path, frames_a_step: int, every: int
) -> None:
    def generators() -> list[Any]:
        numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002
        return [random.getstate(), numpy_state, torch.get_rng_state().tolist()]

    run, before = Run(tmp_path, frames_a_step=frames_a_step), generators()
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
    assert generators() == before


def test_parts_are_restored_in_the_order_given_then_the_frames(tmp_path: Path) -> None:
    class Listener(Values):
        def load_state_dict(self, state: Any) -> None:
            order.append(self.state)

    class ListeningRing(Ring):
        def write_frames(self, start: int, frames: Tensor) -> None:
            order.append("frames")

    Run(tmp_path).save(3)
    order: list[str] = []
    names = ("streams", "agent", "replay")
    Checkpointer(tmp_path).load({name: Listener(name) for name in names}, ListeningRing())
    assert order == [*names, "frames"]


def test_plain_values_come_back_equal(tmp_path: Path) -> None:
    value = {
        "numbers": [2**127, float("-inf"), True, None],
        "text": ("ü", b"\0\xff"),
        "nested": [(1, [2]), {"a": {3: ()}}],
        "generator": np.random.default_rng(3).bit_generator.state,
    }
    Checkpointer(tmp_path).save(1, {"values": Values(value)}, Ring())
    restored = Values(None)
    Checkpointer(tmp_path).load({"values": restored}, Ring())
    assert restored.state == value


@pytest.mark.parametrize("value", [np.float64(1), np.zeros(2), Path("x"), {1, 2}, {(1, 2): 3}])
def test_only_tensors_and_plain_values_are_accepted(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"agent\.inner\.0"):
        Checkpointer(tmp_path).save(1, {"agent": Values({"inner": [value]})}, Ring())


def test_views_do_not_drag_their_memory_along(tmp_path: Path) -> None:
    view = torch.zeros(1_000_000)[10:20]
    Checkpointer(tmp_path).save(1, {"agent": Values({"weight": view})}, Ring())
    assert files(tmp_path, 1)["agent"].stat().st_size < 10_000


# --- what does not fit --------------------------------------------------------------------------


def test_other_parts_and_shapes_are_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(9)
    with pytest.raises(CheckpointError, match="objective"):
        run.checkpointer.load({**run.state, "objective": Part()}, run.ring)
    with pytest.raises(CheckpointError, match="agent does not fit"):
        run.checkpointer.load({**run.state, "agent": Part(size=51)}, run.ring)


def test_another_format_is_refused_whatever_lies_beside_it(tmp_path: Path) -> None:
    for step in (6, 11):
        Run(tmp_path).save(step)
    forge(files(tmp_path, 11)["json"], {"schema": 99})
    with pytest.raises(CheckpointError, match="schema 99, this code reads 3"):
        Run(tmp_path).load()
    old = tmp_path / "old" / "checkpoints" / "step_000000006" / "manifest.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    with pytest.raises(CheckpointError, match="none of the 1") as raised:
        Checkpointer(tmp_path / "old").newest(["agent"])
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("step", [6, 11])
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, step: int) -> None:
    for own in (6, 11):
        Run(tmp_path).save(own)
    forge(files(tmp_path, step)["json"], {"run": "that"})
    before = contents(tmp_path)
    for names in (None, ["agent"]):
        with pytest.raises(CheckpointError, match=f"{step}.json: is of a run with another"):
            Run(tmp_path).checkpointer.newest(names)
    assert Checkpointer(tmp_path).newest(["agent"]) is not None  # nobody asked whose it is
    late = Run(tmp_path)
    late.save(12)  # it came while the run went on
    assert contents(tmp_path).items() >= before.items()


# --- frames on disk -----------------------------------------------------------------------------


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


def test_another_past_does_not_overwrite_frames(tmp_path: Path) -> None:
    """On a GPU a run that falls back a checkpoint may not see the same frames again."""
    for step in (6, 13):
        Run(tmp_path, past=1).save(step)
    files(tmp_path, 13)["agent"].unlink()
    other = Run(tmp_path, past=2)
    assert other.load() == 6
    other.save(12)
    restored = Run(tmp_path)
    assert restored.load() == 12
    assert restored.ring.frames[:12, 0, 0, 0].tolist() == [1] * 6 + [2] * 6


# --- retention ----------------------------------------------------------------------------------


def test_the_last_two_and_the_final_ones_stay(tmp_path: Path) -> None:
    run = Run(tmp_path)
    others = [tmp_path / "checkpoints" / "notes", tmp_path / "checkpoints" / "files" / "notes"]
    for step in range(1, 11):
        run.save(step, final=step == 5)
        for path in others:
            path.write_text("not ours to remove")
    assert steps(tmp_path) == [5, 9, 10]
    for step in range(11, 14):
        run = Run(tmp_path)  # a resumed process keeps to it
        run.load()
        run.save(step)
    assert steps(tmp_path) == [5, 12, 13]
    run.save(14, final=True)
    assert steps(tmp_path) == [5, 13, 14]
    assert leftovers(tmp_path) == sorted(others)
    with pytest.raises(ValueError):
        Checkpointer(tmp_path, keep=1)


def test_a_step_that_is_saved_again_replaces_the_first_and_stays_final(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(1)
    run.save(3, final=True)
    for _ in range(3):
        run.part.tensors["weight"] += 1  # something that changes within a step
        run.checkpointer.save(3, run.state, run.ring)
    assert steps(tmp_path) == [1, 3]
    restored = Run(tmp_path)
    assert restored.load() == 3
    assert torch.equal(restored.part.tensors["weight"], run.part.tensors["weight"])
    for step in (4, 5):
        run.save(step)
    assert steps(tmp_path) == [3, 4, 5]
    assert not leftovers(tmp_path)
    run.checkpointer.save(5, run.state, run.ring, final=True)
    restored.load()  # killed after it, before it said so
    with patch.object(os, "replace", pytest.fail):
        assert restored.checkpointer.save(5, restored.state, restored.ring, final=True)


def test_a_past_that_was_left_behind_is_removed(tmp_path: Path) -> None:
    for step in (6, 11):
        Run(tmp_path).save(step)
    forge_part(files(tmp_path, 11)["json"], "agent", b"")
    restored = Run(tmp_path)
    assert restored.load() == 6
    restored.save(15)
    assert steps(tmp_path) == [6, 15]
    assert not leftovers(tmp_path)


def test_at_every_instant_there_is_a_valid_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is looked at before and after every call that moves or removes something."""
    run, seen = Run(tmp_path), []
    run.save(1)

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.append(Checkpointer(tmp_path).newest())
            result = function(*arguments, **options)
            seen.append(Checkpointer(tmp_path).newest())
            return result

        return call

    for name in ("replace", "unlink"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    for step in range(2, 9):
        seen.clear()
        run.save(step)
        assert len(seen) >= 10
        assert {checkpoint and checkpoint.step for checkpoint in seen} == {step - 1, step}
