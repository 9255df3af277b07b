"""What an update is given, as plain tensors: data from the replay, and all random numbers."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .augmentation import AugmentationNoise
from .frames import FrameStacks


@dataclass(frozen=True)
class SequenceBatch:
    """B' windows of K consecutive steps that never cross an episode's end."""

    obs: FrameStacks  # (K, B')
    action: Tensor  # float32 (K, B', A), in [-1, 1]; the step after `obs`
    reward: Tensor  # float32 (K, B')

    def select(self, some: slice) -> "SequenceBatch":
        """Some of the windows."""
        key = (slice(None), some)
        return SequenceBatch(self.obs.select(key), self.action[key], self.reward[key])


@dataclass(frozen=True)
class Batch:
    """B independent transitions for the RL loss, and the objective's windows if it wants any."""

    obs: FrameStacks  # (B,)
    next_obs: FrameStacks  # (B,)
    action: Tensor  # float32 (B, A), in [-1, 1]
    reward: Tensor  # float32 (B,)
    terminated: Tensor  # float32 (B,), 1 where the task ended; 0 at a time limit (bootstrapped)
    sequence: SequenceBatch | None


@dataclass(frozen=True)
class UpdateNoise:
    """Random numbers of one update; M = `num_q_augmentations`, V = `num_target_augmentations`."""

    obs: AugmentationNoise  # (M, B)
    next_obs: AugmentationNoise  # (V, B)
    next_action: Tensor  # standard normal (V, B, A), of the critic's target
    action: Tensor  # standard normal (B, A), of the actor's loss
    objective: Any  # what the objective drew, or None
