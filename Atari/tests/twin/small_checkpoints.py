"""A small run that can be saved: stand-ins for networks and a replay, and looks into its folder."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlr_atari.run.checkpoint import Checkpointer, sealed
from mlr_atari.run.seeding import Streams

CAPACITY, BLOCK = 20, 4


class Part(dict[str, Any]):
    """A part of a run whose tensor is a function of the step, changed in place."""

    def advance(self, step: int) -> None:
        self["step"] = step
        self["weight"].copy_(torch.arange(len(self["weight"])) * 0.5 + step)

    def state_dict(self) -> dict[str, Any]:
        return self

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self["weight"].copy_(state["weight"])
        self["step"] = state["step"]


class Ring:
    """The last `CAPACITY` frames; frame `n` holds `n` (and `past`, so that runs can differ)."""

    def __init__(self, past: int = 0) -> None:
        self.frames = torch.zeros(CAPACITY, 3, 2, 2, dtype=torch.uint8)
        self.frames_written, self.past = 0, past

    @property
    def first_live_frame(self) -> int:
        return max(0, self.frames_written - CAPACITY)

    def grow_to(self, count: int) -> None:
        for number in range(self.frames_written, count):
            self.frames[number % CAPACITY] = number % 251
            self.frames[number % CAPACITY, 0] = self.past
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

    def __init__(self, folder: Path, past: int = 0, frames_a_step: int = 1, size: int = 50) -> None:
        self.part = Part(weight=torch.zeros(size), step=0)
        self.ring, self.streams = Ring(past), Streams(1)
        self.state = {"agent": self.part, "replay": self.ring, "streams": self.streams}
        self.checkpointer = Checkpointer(folder, run="this", block_size=BLOCK)
        self.frames_a_step = frames_a_step

    def advance(self, step: int) -> None:
        self.part.advance(step)
        self.ring.grow_to(step * self.frames_a_step)
        torch.rand(step, generator=self.streams["replay"])

    def save(self, step: int, **options: Any) -> None:
        self.advance(step)
        self.checkpointer.save(step, self.state, self.ring, **options)

    def load(self) -> int | None:
        return self.checkpointer.load(self.state, self.ring)

    def numbers(self) -> list[Any]:
        draws = torch.rand(5, generator=self.streams["replay"])
        tensors = (self.part["weight"], self.ring.frames, draws)
        return [self.part["step"], *(tensor.tolist() for tensor in tensors)]


class FailingCall:
    """The `number`-th call of a system function fails (-1: all), or kills (`code` 0)."""

    def __init__(self, name: str, number: int, code: int, owner: Any = os) -> None:
        self.real, self.number, self.code, self.count = getattr(owner, name), number, code, 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        if self.number in (self.count, -1):
            if not self.code:
                os._exit(9)
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*arguments, **options)


def steps(folder: Path) -> list[int]:
    """The checkpoints that are there."""
    return sorted(int(path.stem[5:]) for path in (folder / "checkpoints").glob("step_*.json"))


def files(folder: Path, step: int) -> dict[str, Path]:
    """The files of a checkpoint: its JSON, its parts by name, frames by where they end."""
    path = folder / "checkpoints" / f"step_{step:09d}.json"
    record = json.loads(path.read_text())
    named = record["parts"] | {f"frames {stop}": file for stop, file in record["frames"].items()}
    return {"json": path, **{name: path.parent / "files" / named[name] for name in named}}


def leftovers(folder: Path) -> list[Path]:
    """Files that belong to no checkpoint."""
    known = {path for step in steps(folder) for path in files(folder, step).values()}
    paths = (folder / "checkpoints").rglob("*")
    return sorted(path for path in paths if path.is_file() and path not in known)


def forge(path: Path, changes: Mapping[str, Any]) -> None:
    """Change a checkpoint's JSON so that nothing shows: its checksum is right."""
    path.write_text(sealed({**json.loads(path.read_text()), **changes}))


def forge_part(path: Path, part: str, content: bytes) -> None:
    """Let a part of a checkpoint be `content`; all checksums are right."""
    name = hashlib.sha256(content).hexdigest()
    (path.parent / "files" / name).write_bytes(content)
    forge(path, {"parts": {**json.loads(path.read_text())["parts"], part: name}})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder but the lock."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
