"""What an update is given, as plain tensors: data from the replay, and all random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .augmentation import AugmentationNoise
from .frames import FrameStacks


@dataclass(frozen=True)
class SequenceBatch:
    """B' windows of K consecutive steps that never cross an episode's end.

    Attributes:
        obs: lead (K, B'). action: float32 (K, B', A), in [-1, 1]; the step after `obs`.
        reward: float32 (K, B').
    """

    obs: FrameStacks
    action: Tensor
    reward: Tensor

    def select(self, some: slice) -> SequenceBatch:
        """Some of the windows."""
        key = (slice(None), some)
        return SequenceBatch(self.obs.select(key), self.action[key], self.reward[key])


@dataclass(frozen=True)
class Batch:
    """B independent transitions for the RL loss, and the objective's windows if it wants any.

    Attributes:
        obs, next_obs: lead (B,). action: float32 (B, A), in [-1, 1]. reward: float32 (B,).
        terminated: float32 (B,), 1 where the task ended; a time limit is 0 (bootstrapped through).
        sequence: the objective's windows, or None.
    """

    obs: FrameStacks
    next_obs: FrameStacks
    action: Tensor
    reward: Tensor
    terminated: Tensor
    sequence: SequenceBatch | None


@dataclass(frozen=True)
class UpdateNoise:
    """Random numbers of one update.

    Attributes:
        obs, next_obs: augmentation of (M, B) and (V, B) views: M = `num_q_augmentations`,
            V = `num_target_augmentations`.
        next_action: standard normal (V, B, A), of the critic's target.
        action: standard normal (B, A), of the actor's loss.
        objective: what the objective drew, or None.
    """

    obs: AugmentationNoise
    next_obs: AugmentationNoise
    next_action: Tensor
    action: Tensor
    objective: Any
