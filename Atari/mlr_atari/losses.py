"""What a Q network predicts per action, and its loss: a return distribution (C51) or a number.

Shapes: B samples, A actions, N atoms; `outputs` of the head are (..., A, N), N = 1 for a number.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The divergence that becomes a priority stays within these (published code).
MIN_PRIORITY, MAX_PRIORITY = 1e-6, 1e6


def one_hot(action: Tensor, num_actions: int) -> Tensor:
    """int64 (...) -> float32 (..., num_actions)."""
    return (action[..., None] == torch.arange(num_actions, device=action.device)).float()


def select_action(values: Tensor, action: Tensor) -> Tensor:
    """values (..., B, A, N) at action int64 (B,) -> (..., B, N)."""
    # A sum, because the gradient of a gather is a scatter with an order of its own on GPUs.
    return (values * one_hot(action, values.shape[-2])[..., None]).sum(dim=-2)


def project_distribution(
    probabilities: Tensor, returns: Tensor, discounts: Tensor, support: Tensor
) -> Tensor:
    """Distribution of `returns + discounts * Z` on the fixed support (Bellemare et al., eq. 7).

    Args: `probabilities`: of Z, (B, N). `returns`, `discounts`: (B,). `support`: (N,), evenly
    spaced. Mass beyond its ends moves to them.
    """
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    moved = returns[:, None] + discounts[:, None] * support
    moved = moved.maximum(support[0]).minimum(support[-1])
    distance = (moved[:, None, :] - support[:, None]).abs() / spacing  # (B, to, from)
    return ((1 - distance).clamp_min(0) * probabilities[:, None, :]).sum(dim=-1)


def categorical_loss(log_probabilities: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy to a fixed target, and KL(target || prediction), clamped, as the priority.

    (..., B, N) twice -> (..., B) twice; no gradient for the priority.
    """
    losses = -(target * log_probabilities).sum(dim=-1)
    floored = target.clamp(MIN_PRIORITY, 1)
    divergence = (floored * (floored.log() - log_probabilities.detach())).sum(dim=-1)
    return losses, divergence.clamp(MIN_PRIORITY, MAX_PRIORITY)


def scalar_loss(values: Tensor, target: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """Huber loss (quadratic below `delta`), and |error| up to `delta` as the priority; (..., B)."""
    losses = F.huber_loss(values, target.expand_as(values), reduction="none", delta=delta)
    return losses, (target - values.detach()).abs().clamp(MIN_PRIORITY, delta)


class ActionValues(nn.Module, ABC):
    """How outputs of the head are read and learned. `num_atoms`: outputs per action."""

    num_atoms: int

    @abstractmethod
    def q_values(self, outputs: Tensor) -> Tensor:
        """Expected returns: (..., A, N) -> (..., A)."""

    @abstractmethod
    def target(self, outputs: Tensor, action: Tensor, returns: Tensor, discounts: Tensor) -> Tensor:
        """Regression target (B, N) of an n-step transition: R + γⁿ Z; no gradient of its own.

        Args: `outputs`: the target network's at o_{t+n}, (B, A, N). `action`: int64 (B,), the
        bootstrap action. `returns`, `discounts`: (B,); a discount of 0 bootstraps nothing.
        """

    @abstractmethod
    def loss(self, outputs: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and priorities (..., B) of what was done.

        Args: `outputs`: (..., B, A, N); `action`: int64 (B,); `target`: (B, N).
        """


class CategoricalValues(ActionValues):
    """C51: a distribution over `num_atoms` returns between `v_min` and `v_max`."""

    support: Tensor

    def __init__(self, num_atoms: int, v_min: float, v_max: float) -> None:
        super().__init__()
        self.num_atoms = num_atoms
        self.register_buffer("support", torch.linspace(v_min, v_max, num_atoms), persistent=False)

    def q_values(self, outputs: Tensor) -> Tensor:
        """Means of the distributions."""
        return outputs.softmax(dim=-1) @ self.support

    def target(self, outputs: Tensor, action: Tensor, returns: Tensor, discounts: Tensor) -> Tensor:
        """Projected probabilities."""
        probabilities = select_action(outputs, action).softmax(dim=-1)
        return project_distribution(probabilities, returns, discounts, self.support)

    def loss(self, outputs: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """`categorical_loss`."""
        return categorical_loss(select_action(outputs, action).log_softmax(dim=-1), target)


class ScalarValues(ActionValues):
    """DQN: one number per action, Huber loss."""

    num_atoms = 1

    def __init__(self, huber_delta: float) -> None:
        super().__init__()
        self.huber_delta = huber_delta

    def q_values(self, outputs: Tensor) -> Tensor:
        """The outputs themselves."""
        return outputs.squeeze(-1)

    def target(self, outputs: Tensor, action: Tensor, returns: Tensor, discounts: Tensor) -> Tensor:
        """(B, 1)."""
        return (returns + discounts * select_action(outputs, action).squeeze(-1))[:, None]

    def loss(self, outputs: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """`scalar_loss`."""
        values = select_action(outputs, action).squeeze(-1)
        return scalar_loss(values, target.squeeze(-1), self.huber_delta)
