"""SPR: predict the latents of the next observations (Schwarzer et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch
from ..momentum import MomentumTarget
from ..networks import Encoder, Projection, QNetwork
from ..optimization import ClipGroup
from ..run.schema import bounded
from .heads import distance, health, health_names, picture
from .interface import Metrics, Objective, Streams
from .transition import TransitionModel, rollout


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """Keys that SPR and PlayVirtual share."""

    sequence_length: int = bounded(2, 1024)
    target_ema_tau: float = bounded(0, 1)
    strict_end_mask: bool


@dataclass(frozen=True, kw_only=True)
class Settings(PredictionSettings):
    """Keys of configs/agent/spr.yaml, which says what each one is."""

    spr_weight: float = bounded(0)


@dataclass(frozen=True)
class PredictionNoise:
    """Augmentation of o_0 as an input, lead (B,), and of o_1 ... o_K as targets, lead (K, B)."""

    first: AugmentationNoise
    target: AugmentationNoise


def real_targets(ends: Tensor, strict: bool) -> Tensor:
    """m_k: whether o_k lies in the same episode as o_0, bool (K+1, B) -> float32 (K, B).

    Args: `strict`: the published mask, which also drops the o_k in which the end is decided.
    """
    goes_on = (~ends).float().cumprod(dim=0)  # an end at i leaves 0 from i on
    return goes_on[1:] if strict else goes_on[:-1]


def masked_losses(predictions: Tensor, targets: Tensor, ends: Tensor, strict: bool) -> Tensor:
    """ℓ (B,): mean distance over K, terms beyond an end are 0; (K, B, P) twice, bool (K+1, B)."""
    return (real_targets(ends, strict) * distance(predictions, targets)).mean(dim=0)


class SPR(Objective):
    """Roll the online latent of o_0 forward, and compare with momentum latents of o_1 ... o_K.

    Sequences have K + 1 = `sequence_length` observations; a_k leads from o_k to o_{k+1}. The
    projection q is the head's. As published, momentum targets follow before the optimiser's step,
    and the predictor is unclipped.
    """

    name = "spr"
    settings_type: ClassVar[type] = Settings
    metric_names: ClassVar[tuple[str, ...]] = ("loss/spr",)
    diagnostic_names: ClassVar[tuple[str, ...]] = health_names(name)
    targets_move = "before_step"

    def __init__(
        self, settings: PredictionSettings, network: QNetwork, augmentation: Augmentation
    ) -> None:
        super().__init__(settings, network, augmentation)
        self.num_actions = network.head.num_actions
        self.dynamics = TransitionModel(network.encoder, self.num_actions)
        projection = Projection(network.head)
        self.predictor = nn.Linear(projection.out_features, projection.out_features)
        self.target_encoder = MomentumTarget(network.encoder, settings.target_ema_tau)
        self.target_projection = MomentumTarget(projection, settings.target_ema_tau)
        # A tuple, because the projection's layers belong to the head and not to this module.
        self._projection = (projection,)

    def draw_noise(self, streams: Streams, views: AugmentationNoise) -> PredictionNoise:
        """Of stream `objective` target; o_0 is seen as the RL loss sees it."""
        lead = (self.sequence_length - 1, self.batch_size)
        return PredictionNoise(views.select(0), self.augmentation.draw(streams["objective"], lead))

    def loss(self, encoder: Encoder, batch: Batch, noise: Any) -> tuple[Tensor, Metrics]:
        """Mean over K predictions, and over the batch by importance weight."""
        latent = self.first_latent(encoder, batch, noise)
        losses = self.prediction_losses(encoder, latent, batch, noise)
        return (losses * batch.importance_weights).mean(), {"loss/spr": losses.detach().mean()}

    def first_latent(self, encoder: Encoder, batch: Batch, noise: PredictionNoise) -> Tensor:
        """ẑ_0, the online latent of the image that the RL loss sees, (B, C, h, w)."""
        latents: Tensor = encoder(self.augmentation(batch.obs.select(0), noise.first))
        return latents

    def prediction_losses(
        self, encoder: Encoder, latent: Tensor, batch: Batch, noise: PredictionNoise
    ) -> Tensor:
        """ℓ (B,) of y_1 ... y_K, predicted from ẑ_0 = `latent`."""
        target = self.target_projection(self.target_latents(batch, noise))
        predicted = self.predicted(encoder, latent, batch)
        return masked_losses(predicted, target, batch.ends, self.settings.strict_end_mask)

    def predicted(self, encoder: Encoder, latent: Tensor, batch: Batch) -> Tensor:
        """y_1 ... y_K from ẑ_0 = `latent` and the first K of the K + 1 actions, (K, B, P)."""
        with encoder.autocast():
            latents = rollout(self.dynamics, latent, batch.action[:-1])
        return self.projected(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])

    def projected(self, latents: Tensor) -> Tensor:
        """y = P(q(ẑ)): (N, C, h, w) -> (N, P)."""
        (projection,) = self._projection
        prediction: Tensor = self.predictor(projection(latents.flatten(1)))
        return prediction

    def target_latents(self, batch: Batch, noise: PredictionNoise) -> Tensor:
        """Momentum latents of o_1 ... o_K, (K, B, Z); no gradient."""
        obs = batch.obs.select(slice(1, None))
        images = self.augmentation(obs, noise.target)
        return self.target_encoder(images).flatten(1).unflatten(0, obs.lead)

    def clip_groups(self) -> Sequence[ClipGroup]:
        """The dynamics."""
        return [ClipGroup("dynamics", list(self.dynamics.parameters()))]

    @torch.no_grad()
    def diagnostics(self, encoder: Encoder, batch: Batch, noise: Any) -> dict[str, float]:
        """Similarity and collapse watch of the predictions, whether masked or not."""
        latents = self.target_latents(batch, noise)
        predicted = self.predicted(encoder, self.first_latent(encoder, batch, noise), batch)
        return health(self.name, predicted, self.target_projection(latents), latents)

    @torch.no_grad()
    def preview(self, batch: Batch, noise: Any) -> Tensor:
        """Newest frames of o_1 ... o_K of the first sequence: originals and targets, in rows."""
        some = (slice(None), slice(1))
        obs = batch.obs.select((slice(1, None), slice(1)))
        targets = self.augmentation(obs, noise.target.select(some), scale=1.0)
        return picture([obs.dense()[:, 0], targets])
