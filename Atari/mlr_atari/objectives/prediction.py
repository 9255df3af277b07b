"""Prediction of later latents, which SPR is (Schwarzer et al. 2021) and PlayVirtual builds on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch
from ..momentum import MomentumTarget
from ..networks import ConvEncoder, Projection, QNetwork
from .heads import distance, health, picture
from .interface import Streams
from .transition import TransitionModel, rollout


@dataclass(frozen=True)
class PredictionNoise:
    """Augmentation of o_0 as the RL loss sees it, lead (B,), and of o_1 ... o_K, lead (K, B)."""

    first: AugmentationNoise
    target: AugmentationNoise


def real_targets(ends: Tensor, strict: bool) -> Tensor:
    """m_k: whether o_k lies in the same episode as o_0, bool (K+1, B) -> float32 (K, B).

    Args: `strict`: the published mask, which also drops the o_k in which the end is decided.
    """
    goes_on = (~ends).float().cumprod(dim=0)  # an end at i leaves 0 from i on
    return goes_on[1:] if strict else goes_on[:-1]


class LatentPrediction(nn.Module):
    """Predicts projections of later latents from the first one: SPR's loss, PlayVirtual's half.

    It registers the dynamics h, the predictor P, and the momentum copies; the projection q is the
    head's. Shapes: sequences of K+1 observations, so K predictions.
    """

    def __init__(
        self, network: QNetwork, augmentation: Augmentation, tau: float, strict: bool
    ) -> None:
        super().__init__()
        self.augmentation, self.strict = augmentation, strict
        self.dynamics = TransitionModel(network.encoder, network.head.num_actions)
        projection = Projection(network.head)
        self.predictor = nn.Linear(projection.out_features, projection.out_features)
        self.target_encoder = MomentumTarget(network.encoder, tau)
        self.target_projection = MomentumTarget(projection, tau)
        # A tuple, because the projection's layers belong to the head and not to this module.
        self._projection = (projection,)

    def draw_noise(
        self, streams: Streams, rl_view: AugmentationNoise, lead: tuple[int, int]
    ) -> PredictionNoise:
        """Args: `lead`: (K, B)."""
        target = self.augmentation.draw(streams["objective"], lead)
        return PredictionNoise(rl_view.select(0), target)

    def encode(self, encoder: ConvEncoder, batch: Batch, noise: PredictionNoise) -> Tensor:
        """ẑ_0 of the image that the RL loss sees, (B, C, h, w)."""
        latents: Tensor = encoder(self.augmentation(batch.obs.select(0), noise.first))
        return latents

    def predict(self, latents: Tensor) -> Tensor:
        """y = P(q(ẑ)): (N, C, h, w) -> (N, P)."""
        (projection,) = self._projection
        prediction: Tensor = self.predictor(projection(latents.flatten(1)))
        return prediction

    def predictions(self, encoder: ConvEncoder, start: Tensor, action: Tensor) -> Tensor:
        """y_1 .. y_K after the first K of the actions (K+1, B) from `start`, (K, B, P)."""
        with encoder.autocast():
            latents = rollout(self.dynamics, start, action[:-1])
        return self.predict(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])

    @torch.no_grad()
    def target_latents(self, batch: Batch, noise: PredictionNoise) -> Tensor:
        """Momentum latents of o_1 .. o_K, (K, B, Z)."""
        stacks = batch.obs.select(slice(1, None))
        images = self.augmentation(stacks, noise.target)
        return self.target_encoder(images.flatten(0, 1)).flatten(1).unflatten(0, stacks.lead)

    def losses(self, predictions: Tensor, targets: Tensor, ends: Tensor) -> Tensor:
        """ℓ (B,): mean over K, terms beyond an end are 0; (K, B, P) twice, bool (K+1, B)."""
        real = real_targets(ends, self.strict)
        return (real * distance(predictions, targets)).mean(dim=0)

    def update_targets(self) -> None:
        """Move both momentum copies."""
        self.target_encoder.update()
        self.target_projection.update()

    @torch.no_grad()
    def health(
        self, name: str, encoder: ConvEncoder, batch: Batch, noise: PredictionNoise
    ) -> dict[str, float]:
        """`heads.health` of the predictions, whether masked or not."""
        latents = self.target_latents(batch, noise)
        target = self.target_projection(latents)
        start = self.encode(encoder, batch, noise)
        return health(name, self.predictions(encoder, start, batch.action), target, latents)

    @torch.no_grad()
    def preview(self, batch: Batch, noise: PredictionNoise) -> Tensor:
        """Newest frames of o_1 .. o_K of the first sequence: originals and targets, in rows."""
        stacks = batch.obs.select(slice(1, None))
        targets = self.augmentation(stacks, noise.target, scale=1.0)
        return picture([stacks.dense()[:, 0], targets[:, 0]])
