"""Latent dynamics of SPR and PlayVirtual, forwards or backwards in time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..losses import one_hot
from ..networks import Encoder, renormalize


class TransitionModel(nn.Module):
    """Two convolutions on the latent map and the action: the latent one step later, or earlier.

    conv 3x3, ReLU, batch normalisation, conv 3x3, ReLU, and the encoder's renormalisation, if it
    has one. No residual. Batch normalisation always uses the statistics of the batch.
    """

    def __init__(self, encoder: Encoder, num_actions: int) -> None:
        super().__init__()
        channels = encoder.feature_shape[0]
        self.num_actions, self.renormalize = num_actions, encoder.renormalize
        self.first = nn.Conv2d(channels + num_actions, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels, track_running_stats=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, latents: Tensor, action: Tensor) -> Tensor:
        """(N, C, h, w), int64 (N,) -> float32 (N, C, h, w); the action is A constant planes."""
        planes = one_hot(action, self.num_actions)[..., None, None]
        inputs = torch.cat([latents, planes.expand(-1, -1, *latents.shape[2:])], dim=1)
        features = self.norm(F.relu(self.first(inputs)))
        features = F.relu(self.second(features)).float()
        return renormalize(features) if self.renormalize else features


Model = Callable[[Tensor, Tensor], Tensor]


def rollout(model: Model, start: Tensor, actions: Tensor) -> Tensor:
    """Latents after each of the actions: (N, *Z), int64 (K, N) -> (K, N, *Z)."""
    latents = []
    for action in actions:
        start = model(start, action)
        latents.append(start)
    return torch.stack(latents)


def cycle(forward: Model, backward: Model, start: Tensor, actions: Tensor) -> Tensor:
    """Where `backward` arrives that takes back, last first, the actions that led on from `start`.

    (N, *Z), int64 (C, N) -> (N, *Z).
    """
    end = start
    for action in actions:
        end = forward(end, action)
    for action in actions.flip(0):
        end = backward(end, action)
    return end
