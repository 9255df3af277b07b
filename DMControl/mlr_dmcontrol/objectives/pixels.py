"""Pixels from latents, for the ablation that reconstructs images instead of latents."""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn

from ..networks import Encoder

_DOUBLINGS = 3


class PixelDecoder(nn.Module):
    """A linear map to a small feature map, then transposed convolutions that double its side."""

    def __init__(self, encoder: Encoder, image_size: int) -> None:
        """Args: `encoder`: decides latents, filters and channels. `image_size`: side in pixels."""
        super().__init__()
        filters, side = encoder.map_shape[0], math.ceil(image_size / 2**_DOUBLINGS)
        channels = [filters] * _DOUBLINGS + [encoder.channels]
        layers: list[nn.Module] = [
            nn.Linear(encoder.latent_dim, filters * side * side),
            nn.Unflatten(1, (filters, side, side)),
        ]
        for incoming, outgoing in itertools.pairwise(channels):
            layers += [nn.ReLU(), nn.ConvTranspose2d(incoming, outgoing, 4, 2, padding=1)]
        self.layers = nn.Sequential(*layers)
        self.image_size = image_size

    def forward(self, latents: Tensor) -> Tensor:
        """(N, Z) -> float32 (N, S*C, H, W)."""
        return self.layers(latents)[..., : self.image_size, : self.image_size]


def pixel_errors(images: Tensor, target: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Mean squared error of each image: (N, C, H, W) twice -> (N).

    Args: `hidden`: bool (N, 1, H, W), the pixels that count; None: all.
    """
    errors = (images - target).square().mean(dim=1)
    if hidden is None:
        return errors.mean(dim=(1, 2))
    counts = hidden.squeeze(1)
    return (errors * counts).sum(dim=(1, 2)) / counts.sum(dim=(1, 2)).clamp_min(1)
