"""What objectives on latents share: distance, signs of a collapse, pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Vectors shorter than this are not blown up to unit length (published).
MIN_LENGTH = 1e-3


def normalise(vectors: Tensor) -> Tensor:
    """n(v) = v / max(|v|, 1e-3) along the last dimension."""
    return F.normalize(vectors, dim=-1, eps=MIN_LENGTH)


def distance(prediction: Tensor, target: Tensor) -> Tensor:
    """|n(y) - n(ȳ)|², (*, P) -> (*); 2 - 2 cos for all but tiny vectors."""
    return (normalise(prediction) - normalise(target)).square().sum(dim=-1)


def health_names(name: str) -> tuple[str, ...]:
    """Keys of `health` for an objective called `name`."""
    values = ("cosine_similarity", "prediction_norm", "projection_std", "effective_rank")
    return tuple(f"{name}/{value}" for value in values)


@torch.no_grad()
def health(name: str, prediction: Tensor, target: Tensor, latents: Tensor) -> dict[str, float]:
    """Similarity and collapse watch; synchronises.

    `projection_std` is 1 for targets spread evenly on the sphere, and `effective_rank` counts the
    directions that latents use; both fall towards 0 and 1 in a collapse.

    Args:
        prediction, target: (*, P), what the loss compares.
        latents: (*, Z), of the encoder that the targets come from.
    """
    unit = F.normalize(target.flatten(0, -2), dim=-1)
    values = (
        F.cosine_similarity(prediction, target, dim=-1).mean(),
        prediction.norm(dim=-1).mean(),
        unit.std(dim=0).square().sum().sqrt(),
        effective_rank(latents.flatten(0, -2)),
    )
    return {key: each.item() for key, each in zip(health_names(name), values, strict=True)}


def effective_rank(vectors: Tensor) -> Tensor:
    """exp of the entropy of the normalised spectrum of the centred `vectors` (N, Z); 0-d."""
    centred = (vectors - vectors.mean(dim=0)).double()
    # N is far below Z, and the Gram matrix has the same non-zero spectrum.
    spectrum = torch.linalg.eigvalsh(centred @ centred.t()).clamp_min(0).sqrt()
    share = spectrum / spectrum.sum().clamp_min(1e-12)
    return torch.special.entr(share).sum().exp()


def picture(rows: Sequence[Tensor]) -> Tensor:
    """Rows of images (T, S*C, H, W) in 0..255 as uint8 RGB (3, rows * H, T * W).

    Of each stack only the newest frame is shown.
    """
    strip = torch.cat([torch.cat(list(images[:, -1].float()), dim=1) for images in rows])
    return strip.round().clamp(0, 255).to(torch.uint8).cpu().expand(3, -1, -1)
