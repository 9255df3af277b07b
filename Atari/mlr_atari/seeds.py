"""Seeds derived from the run's one seed; needs no torch, so that environment workers can use it."""

from __future__ import annotations

import zlib

import numpy as np


def spawned(seed: int, *path: str | int) -> np.random.SeedSequence:
    """The independent seed sequence at `path` below the run's seed.

    Words enter by their CRC-32, so that neither the process (as Python's `hash` would) nor the
    order in which names were added changes what a name yields.

    Raises:
        ValueError: `seed` or a number in `path` is negative.
    """
    words = tuple(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path)
    return np.random.SeedSequence(seed, spawn_key=words)


def episode_seed(seed: int, purpose: str, episode: int) -> int:
    """Seed of one episode in [0, 2^31), the range that every simulator accepts.

    It is a pure function, so an environment's random state between episodes is just a counter.

    Args:
        seed: the run's seed, >= 0.
        purpose: `train` or `evaluation`; different purposes never share episodes.
        episode: the episode's number, >= 0.
    """
    return int(spawned(seed, "episode", purpose, episode).generate_state(1, np.uint32)[0] >> 1)
