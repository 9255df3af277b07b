"""Latent dynamics of SPR and PlayVirtual, forwards or backwards in time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TransitionModel(nn.Module):
    """W₂ ReLU(LN(W₁ [z; a])): the latent one action later, or earlier. No residual."""

    def __init__(self, latent_dim: int, action_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(latent_dim + action_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.second = nn.Linear(hidden_dim, latent_dim)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """(*, Z), (*, A) -> (*, Z)."""
        return self.second(F.relu(self.norm(self.first(torch.cat([latent, action], dim=-1)))))


def rollout(model: Callable[[Tensor, Tensor], Tensor], start: Tensor, actions: Tensor) -> Tensor:
    """Latents after each of the actions: (*, Z), (K, *, A) -> (K, *, Z)."""
    latents = []
    for action in actions:
        start = model(start, action)
        latents.append(start)
    return torch.stack(latents)


def cycle(
    forward: Callable[[Tensor, Tensor], Tensor],
    backward: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    actions: Tensor,
) -> Tensor:
    """Where `backward` arrives that takes back, last first, the actions that led on from `start`.

    (*, Z), (C, *, A) -> (*, Z).
    """
    end = rollout(forward, start, actions)[-1]
    return rollout(backward, end, actions.flip(0))[-1]
