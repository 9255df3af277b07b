"""What objectives on latents share: distance, projection heads, windows, signs of a collapse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batch import Batch, SequenceBatch

# Vectors shorter than this are not blown up to unit length (published).
MIN_LENGTH = 1e-3


def normalise(vectors: Tensor) -> Tensor:
    """n(v) = v / max(|v|, 1e-3) along the last dimension."""
    return F.normalize(vectors, dim=-1, eps=MIN_LENGTH)


def distance(prediction: Tensor, target: Tensor) -> Tensor:
    """|n(y) - n(ȳ)|², (*, Z) -> (*); 2 - 2 cos for all but tiny vectors."""
    return (normalise(prediction) - normalise(target)).square().sum(-1)


def projection_head(latent_dim: int, hidden: int | None) -> nn.Sequential:
    """Projection or predictor, (*, Z) -> (*, Z), one hidden layer; `hidden=None`: no layer."""
    if hidden is None:
        return nn.Sequential()
    return nn.Sequential(
        nn.Linear(latent_dim, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, latent_dim)
    )


def windows_of(batch: Batch) -> SequenceBatch:
    """The batch's windows. Raises: ValueError: it has none."""
    if batch.sequence is None:
        raise ValueError("the batch has no windows; draw some from the replay for the objective")
    return batch.sequence


def health_names(name: str) -> tuple[str, ...]:
    """Keys of `health` for an objective called `name`."""
    values = ("cosine_similarity", "prediction_norm", "projection_std", "effective_rank")
    return tuple(f"{name}/{value}" for value in values)


@torch.no_grad()
def health(name: str, prediction: Tensor, target: Tensor, latents: Tensor) -> dict[str, float]:
    """Similarity and collapse watch; synchronises.

    `projection_std` is 1 for targets spread evenly on the sphere, and `effective_rank` counts the
    directions that latents use; in a collapse they fall to 0 and 1.

    Args: `prediction`, `target`: (*, D), what the loss compares. `latents`: (*, Z), of the encoder
    that targets come from.
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
    """exp of the entropy of the normalised singular values of the centred `vectors` (N, Z)."""
    values = torch.linalg.svdvals((vectors - vectors.mean(dim=0)).double())
    share = values / values.sum().clamp_min(1e-12)
    return torch.special.entr(share).sum().exp()


def picture(rows: Sequence[Tensor]) -> Tensor:
    """Rows of images, each float (T, S*C, H, W) in 0..1, as uint8 RGB (3, rows * H, T * W).

    Of each stack only the newest frame is shown.
    """
    strips = [torch.cat(list(images[:, -3:]), dim=-1) for images in rows]
    return (torch.cat(strips, dim=-2) * 255.0).round_().clamp_(0, 255).to(torch.uint8).cpu()
