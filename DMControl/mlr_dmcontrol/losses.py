"""The losses of SAC as pure functions of tensors (Haarnoja et al. 2018).

Shapes: B transitions, A action dimensions, V augmented views of each (DrQ; otherwise 1).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def squashed_gaussian(
    mean: Tensor, log_std: Tensor, noise: Tensor, exact: bool = False
) -> tuple[Tensor, Tensor]:
    """Sample of tanh(N(mean, std)) and its log-probability: (*, A) -> (*, A), (*).

    Args: `exact`: log tanh' = 2 (log 2 - x - softplus(-2x)), as in DrQ, instead of MLR's published
    form log(1 - tanh² + 1e-6).
    """
    sample = mean + log_std.exp() * noise
    action = torch.tanh(sample)
    log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    if exact:
        correction = 2 * (math.log(2) - sample - F.softplus(-2 * sample))
    else:
        correction = torch.log(F.relu(1 - action.square()) + 1e-6)
    return action, (log_prob - correction).sum(-1)


def soft_target(
    next_values: Tensor,
    next_log_prob: Tensor,
    temperature: Tensor,
    reward: Tensor,
    terminated: Tensor,
    discount: float,
) -> Tensor:
    """Critic target r + γ (1 - terminated) (min_j Q_j - α log π), (B,); the mean over views.

    Args: `next_values` (2, V, B), `next_log_prob` (V, B), `temperature` 0-d; the rest (B,).
    """
    soft_value = next_values.amin(dim=0) - temperature * next_log_prob
    return reward + discount * (1 - terminated) * soft_value.mean(dim=0)


def critic_loss(values: Tensor, target: Tensor) -> Tensor:
    """Σ_j Σ_v mean_b (Q_j - y)²; `values` (2, V, B), `target` (B,), the same for all views."""
    return (values - target).square().mean(dim=-1).sum()


def actor_loss(values: Tensor, log_prob: Tensor, temperature: Tensor) -> Tensor:
    """mean_b (α log π - min_j Q_j); `values` (2, B), `log_prob` (B,), `temperature` detached."""
    return (temperature * log_prob - values.amin(dim=0)).mean()


def temperature_loss(log_temperature: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """α · mean_b (-log π - target entropy), with gradient for the temperature only."""
    return log_temperature.exp() * (-log_prob.detach() - target_entropy).mean()
