"""Randomness of a run: every seed and every stream of draws comes from its one seed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

STREAM_NAMES = ("exploration", "replay", "augmentation", "masking", "objective", "noise")


def spawned(seed: int, *path: str | int) -> np.random.SeedSequence:
    """The independent seed sequence at `path` below the run's seed; ValueError if one is negative.

    Words enter by their CRC-32: Python's `hash` would differ by process.
    """
    words = tuple(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path)
    return np.random.SeedSequence(seed, spawn_key=words)


def episode_seed(seed: int, purpose: str, episode: int) -> int:
    """Seed of one episode in [0, 2^31), the range that every simulator accepts.

    It is a pure function, so an environment's random state between episodes is just a counter.
    Different purposes, `train` and `evaluation`, never share episodes.
    """
    return int(spawned(seed, "episode", purpose, episode).generate_state(1, np.uint32)[0] >> 1)


class Streams:
    """One independent CPU generator per name: `streams["replay"]`.

    Drawing on the CPU makes noise independent of the device and of what else draws from it.
    """

    def __init__(self, seed: int) -> None:
        self._generators = {
            name: torch.Generator().manual_seed(_torch_seed(seed, "stream", name))
            for name in STREAM_NAMES
        }

    def __getitem__(self, name: str) -> torch.Generator:
        return self._generators[name]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """State of each generator, uint8, by name."""
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue every stream where `state` was taken; KeyError if one is missing."""
        for name, generator in self._generators.items():
            generator.set_state(state[name].cpu())


@contextmanager
def initialisation(seed: int, purpose: str) -> Iterator[None]:
    """Build networks inside, on the CPU; torch's global generator is seeded and then restored.

    Parts built for different purposes do not shift each other's initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        # The default generator itself: torch.manual_seed would reseed the GPUs as well.
        torch.default_generator.manual_seed(_torch_seed(seed, "initialisation", purpose))
        yield


def _torch_seed(seed: int, *path: str) -> int:
    return int(spawned(seed, *path).generate_state(1, np.uint64)[0] >> 1)
