"""Scores an encoder: R² of every variable, beside its untrained self and the pixels' components."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from ..errors import ConfigError
from . import world
from .linear import MIN_EPISODES, Floats, PrincipalComponents, constant, readout, split_by_episode
from .recording import Recording

Row = dict[str, Any]

_BATCH = 256  # images at a time
_PICTURES = 1000  # that components are computed from, and at least one more than components


@dataclass(frozen=True)
class Episodes:
    """What is played to probe on: see `probe.py --help`."""

    count: int
    steps: int
    seed: int
    folder: Path

    def __post_init__(self) -> None:
        if self.count < MIN_EPISODES or self.steps < 1:
            raise ConfigError(f"--episodes, --steps: at least {MIN_EPISODES} and 1")


class Prober:
    """Scores one encoder after another; what was computed for an equal one is used again."""

    def __init__(self, episodes: Episodes) -> None:
        self._episodes = episodes
        self._known: dict[tuple[str, ...], Floats] = {}

    def recording(self, cfg: DictConfig, env: world.Environment) -> Recording:
        """What encoders of `cfg` are scored on.

        Raises:
            ConfigError: nothing changes in these episodes.
        """
        chosen = self._episodes
        found = world.record(cfg, env, chosen.count, chosen.steps, chosen.seed, chosen.folder)
        if constant(found.labels[split_by_episode(found.episodes).train]).all():
            raise ConfigError(
                f"--episodes={chosen.count}, --steps={chosen.steps}: too few, in these none of "
                f"{', '.join(found.names)} changes"
            )
        return found

    def rows(self, cfg: DictConfig, agent: world.Agent, facts: Row) -> list[Row]:
        """A row for each variable: `facts`, and R² of the latents, untrained ones and pixels."""
        with closing(world.environment_of(cfg)) as env:
            recording = self.recording(cfg, env)
            untrained = world.agent_of(cfg, env)
        images = world.seen(agent, torch.from_numpy(recording.observations))
        scores = {
            "r2": self._latents(agent, recording, images),
            "untrained": self._latents(untrained, recording, images),
            "pca": self._pixels(recording, images, _width(agent, images)),
        }
        facts = facts | {"dimensions": _width(agent, images), "data": recording.key}
        return [
            facts | {"variable": name} | {key: float(each[i]) for key, each in scores.items()}
            for i, name in enumerate(recording.names)
        ]

    def _latents(self, agent: world.Agent, recording: Recording, images: Tensor) -> Floats:
        weights = world.encoder_of(agent).state_dict().values()
        content = b"".join(each.cpu().contiguous().numpy().tobytes() for each in weights)
        key = (recording.key, str(tuple(images.shape)), hashlib.sha256(content).hexdigest())
        if key not in self._known:
            found = [world.latents(agent, part) for part in images.split(_BATCH)]
            self._known[key] = _score(torch.cat(found).flatten(1).numpy(), recording)
        return self._known[key]

    def _pixels(self, recording: Recording, images: Tensor, width: int) -> Floats:
        key = (recording.key, str(tuple(images.shape)), f"pixels {width}")
        if key not in self._known:
            train = np.flatnonzero(split_by_episode(recording.episodes).train)
            count = min(max(_PICTURES, width + 1), len(train))
            few = train[np.linspace(0, len(train) - 1, count).astype(np.int64)]
            components = PrincipalComponents.of(_flat(images[torch.from_numpy(few)]), width)
            found = [components(_flat(part)) for part in images.split(_BATCH)]
            self._known[key] = _score(np.concatenate(found), recording)
        return self._known[key]


def _score(features: NDArray[np.float32], recording: Recording) -> Floats:
    return readout(features, recording.labels, split_by_episode(recording.episodes))


def _flat(images: Tensor) -> NDArray[np.float32]:
    """uint8 (N, C, H, W) -> (N, C*H*W) in 0..1."""
    return (images.flatten(1).float() / 255.0).numpy()


def _width(agent: world.Agent, images: Tensor) -> int:
    return world.latents(agent, images[:1]).numel()
