"""A small run that can be saved: stand-ins for networks and a replay, and looks into its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlr_dmcontrol.run.checkpoint import Checkpointer
from mlr_dmcontrol.run.seeding import Streams

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


def damage_newest(folder: Path) -> None:
    path = folder / "checkpoints" / names(folder)[-1] / "agent.pt"
    path.write_bytes(path.read_bytes()[:-1])
