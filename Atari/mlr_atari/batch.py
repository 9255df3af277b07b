"""What the replay hands to the agent for one update, and the random numbers that go with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .augmentation import AugmentationNoise
from .frames import FrameStacks


@dataclass(frozen=True)
class Batch:
    """B sequences of K consecutive decisions; the RL loss sees position 0, objectives all K.

    Once an action of the sequence ends the episode or loses a life, the later observations are
    frozen at the one that action was taken in, while the actions run on into the next episode
    (published code). Frames older than the episode are blank: an all-zero slot of the ring.
    """

    obs: FrameStacks  # (K, B) stacks o_t .. o_{t+K-1}
    n_step_obs: FrameStacks  # (B,) stacks o_{t+m}, m <= n_step
    action: Tensor  # int64 (K, B), action[k] is taken in obs[k]
    n_step_return: Tensor  # float32 (B,), discounted sum of the clipped rewards up to an end
    bootstrap_discount: Tensor  # float32 (B,), discount^m, or 0 where nothing is bootstrapped
    ends: Tensor  # bool (K, B), action[k] ended the episode or lost a life
    importance_weights: Tensor  # float32 (B,), 1 where the replay is uniform


@dataclass(frozen=True)
class ActionNoise:
    """Random numbers of one call of `act` for N observations."""

    uniform: Tensor  # float32 (N,), in [0, 1): below epsilon the action is random
    random_action: Tensor  # int64 (N,)
    head: Tensor | None  # standard normals for the head, where it redraws to act


def evaluation_noise(generators: Sequence[np.random.Generator], num_actions: int) -> ActionNoise:
    """Noise to act on an observation of each game, from the game's own generator."""
    uniform = [generator.random(dtype=np.float32) for generator in generators]
    random_action = [generator.integers(num_actions) for generator in generators]
    return ActionNoise(torch.tensor(uniform), torch.tensor(random_action), head=None)


@dataclass(frozen=True)
class UpdateNoise:
    """Random numbers of one update; M = `num_q_augmentations`, V = `num_target_augmentations`."""

    head: Tensor  # standard normals (head.noise_size,)
    target_head: Tensor | None  # the same for the target; None: it keeps the noise it copied
    obs: AugmentationNoise  # (M, B), what the Q network learns from
    n_step_obs: AugmentationNoise  # (V, B), what the target network sees
    selection: AugmentationNoise | None  # (V, B), what picks the action; None: as n_step_obs
    objective: Any | None
