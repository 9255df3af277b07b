"""Randomness of a run: every seed and every stream of draws comes from its one seed."""

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

STREAM_NAMES = ("exploration", "replay", "augmentation", "masking", "objective", "noise")


def _drawn(seed: int, kind: type[np.unsignedinteger], *path: str | int) -> int:
    """A number of `kind`, halved so that signed ones hold it, for each `path` below the run's seed.

    Words enter by their CRC-32: Python's `hash` would differ by process.
    """
    words = tuple(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path)
    sequence = np.random.SeedSequence(seed, spawn_key=words)
    return int(sequence.generate_state(1, kind)[0] >> 1)


def episode_seed(seed: int, purpose: str, episode: int) -> int:
    """Seed of one episode in [0, 2^31), the range that every simulator accepts.

    It is a pure function, so an environment's random state between episodes is just a counter.
    Different purposes, `train` and `evaluation`, never share episodes. ValueError if negative.
    """
    return _drawn(seed, np.uint32, "episode", purpose, episode)


class Streams(dict[str, torch.Generator]):
    """One independent CPU generator per name: `streams["replay"]`.

    Drawing on the CPU makes noise independent of the device and of what else draws from it.
    """

    def __init__(self, seed: int) -> None:
        for name in STREAM_NAMES:
            self[name] = torch.Generator().manual_seed(_drawn(seed, np.uint64, "stream", name))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """State of each generator, uint8, by name."""
        return {name: generator.get_state() for name, generator in self.items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue every stream where `state` was taken; KeyError if one is missing."""
        for name, generator in self.items():
            generator.set_state(state[name].cpu())


@contextmanager
def initialisation(seed: int, purpose: str) -> Iterator[None]:
    """Build networks inside, on the CPU; torch's global generator is seeded and then restored.

    Parts built for different purposes do not shift each other's initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        # The default generator itself: torch.manual_seed would reseed the GPUs as well.
        torch.default_generator.manual_seed(_drawn(seed, np.uint64, "initialisation", purpose))
        yield
