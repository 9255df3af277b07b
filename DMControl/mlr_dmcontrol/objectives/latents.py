"""What objectives on latents share: distance, signs of a collapse, pictures."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from ..frames import FrameStacks

_MIN_LENGTH = 1e-3  # shorter vectors are not blown up to unit length (published)


def distance(prediction: Tensor, target: Tensor) -> Tensor:
    """|n(y) - n(ȳ)|², n(v) = v / max(|v|, 1e-3): (*, Z) -> (*); 2 - 2 cos for all but tiny ones."""
    prediction = F.normalize(prediction, dim=-1, eps=_MIN_LENGTH)
    target = F.normalize(target, dim=-1, eps=_MIN_LENGTH)
    return (prediction - target).square().sum(-1)


def health_names(name: str) -> tuple[str, ...]:
    """Keys of `health` for an objective called `name`."""
    values = ("cosine_similarity", "prediction_norm", "projection_std", "effective_rank")
    return tuple(f"{name}/{value}" for value in values)


@torch.no_grad()
def health(name: str, prediction: Tensor, target: Tensor, latents: Tensor) -> dict[str, float]:
    """Similarity and collapse watch; synchronises.

    `projection_std` is 1 for targets spread evenly on the sphere, and `effective_rank` counts the
    directions that latents use; in a collapse they fall to 0 and 1. Args: `prediction`, `target`:
    (*, D), what the loss compares. `latents`: (*, Z), of the encoder that targets come from.
    """
    unit = F.normalize(target.flatten(0, -2), dim=-1)
    values = (
        F.cosine_similarity(prediction, target, dim=-1).mean(),
        prediction.norm(dim=-1).mean(),
        unit.std(dim=0).square().sum().sqrt(),
        effective_rank(latents.flatten(0, -2)),
    )
    return {key: value.item() for key, value in zip(health_names(name), values, strict=True)}


def effective_rank(vectors: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values of the centred `vectors` (N, Z); 0-d."""
    centred = (vectors - vectors.mean(dim=0)).double()
    if len(vectors) < vectors.shape[1]:  # the Gram matrix is smaller, and has the same spectrum
        values = torch.linalg.eigvalsh(centred @ centred.t()).clamp_min(0).sqrt()
    else:
        values = torch.linalg.svdvals(centred)
    share = values / values.sum().clamp_min(1e-12)
    return torch.special.entr(share).sum().exp()


def picture(obs: FrameStacks, views: Sequence[Tensor]) -> Tensor:
    """The middle of T stacks in a row, and below it views of them: uint8 RGB (3, rows * H, T * W).

    Of each stack only the newest frame is shown. Args: `views`: (T, S*C, H, W), in 0..1.
    """
    colours, side, images = obs.frames.shape[1], views[0].shape[-1], obs.dense().flatten(0, -4)
    first = (images.shape[-1] - side) // 2
    whole = images[..., first : first + side, first : first + side] / 255.0
    rows = [torch.cat(list(row[:, -colours:]), dim=-1) for row in (whole, *views)]
    shown = (torch.cat(rows, dim=-2) * 255.0).round_().clamp_(0, 255).to(torch.uint8)
    return shown.cpu().expand(3, -1, -1)


def check_divides(key: str, value: int, whole: int, what: str) -> None:
    """Raises: ConfigError: `whole`, the size of `what`, is no multiple of the agent's key."""
    if whole % value:
        divisors = ", ".join(str(n) for n in range(1, whole + 1) if whole % n == 0)
        raise ConfigError(
            f"agent.{key}={value}: does not divide {what} {whole}; use one of {divisors}"
        )
