"""Random streams: every draw of a run comes from a named generator spawned from one seed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from ..errors import CheckpointError
from ..seeds import episode_seed, spawned

__all__ = ["STREAM_NAMES", "Streams", "episode_seed", "initialisation", "make_deterministic"]

STREAM_NAMES = ("exploration", "replay", "augmentation", "masking", "objective", "noise")


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
        """Continue every stream where `state` was taken.

        Raises:
            CheckpointError: the names differ from `STREAM_NAMES`.
        """
        if set(state) != set(self._generators):
            raise CheckpointError(
                f"random streams {sorted(state)} were saved, {sorted(self._generators)} are needed"
            )
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


def make_deterministic(enabled: bool) -> None:
    """Choose between bit-identical kernels and the fastest ones; call before CUDA starts.

    On the CPU runs are bit-identical either way at a fixed number of threads.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(enabled)
    # Filling fresh memory guards against reading it, costs a kernel each, and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = enabled
    torch.backends.cudnn.benchmark = not enabled


def _torch_seed(seed: int, *path: str) -> int:
    return int(spawned(seed, *path).generate_state(1, np.uint64)[0] >> 1)
