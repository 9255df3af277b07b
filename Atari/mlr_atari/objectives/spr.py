"""SPR: predict the latents of the next observations (Schwarzer et al. 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch
from ..losses import one_hot
from ..momentum import MomentumTarget
from ..networks import Encoder, Projection, QNetwork, renormalize
from ..optimization import ClipGroup
from ..run.schema import bounded
from ..run.seeding import Streams
from .interface import Metrics, Objective
from .latents import distance, health, health_names, picture


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


def masked_losses(predictions: Tensor, targets: Tensor, ends: Tensor, strict: bool) -> Tensor:
    """ℓ (B,): mean distance over K, 0 where o_k lies beyond an end of the episode of o_0.

    Args: `predictions`, `targets`: (K, B, P). `ends`: bool (K+1, B). `strict`: the published mask,
    which also drops the o_k in which the end is decided.
    """
    goes_on = (~ends).float().cumprod(dim=0)  # an end at i leaves 0 from i on
    counts = goes_on[1:] if strict else goes_on[:-1]
    return (counts * distance(predictions, targets)).mean(dim=0)


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
        return encoder(self.augmentation(batch.obs.select(0), noise.first))

    def prediction_losses(
        self, encoder: Encoder, latent: Tensor, batch: Batch, noise: PredictionNoise
    ) -> Tensor:
        """ℓ (B,) of y_1 ... y_K, predicted from ẑ_0 = `latent`."""
        target = self.target_projection(self.target_latents(batch, noise))
        predicted = self.predicted(encoder, latent, batch)
        return masked_losses(predicted, target, batch.ends, self.settings.strict_end_mask)

    def predicted(self, encoder: Encoder, latent: Tensor, batch: Batch) -> Tensor:
        """y_1 ... y_K from ẑ_0 = `latent` and the first K of the K + 1 actions, (K, B, P)."""
        latents = []
        with encoder.autocast():
            for action in batch.action[:-1]:
                latent = self.dynamics(latent, action)
                latents.append(latent)
        return self.projected(torch.cat(latents)).unflatten(0, (len(latents), -1))

    def projected(self, latents: Tensor) -> Tensor:
        """y = P(q(ẑ)): (N, C, h, w) -> (N, P)."""
        (projection,) = self._projection
        return self.predictor(projection(latents.flatten(1)))

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
        """o_1 ... o_K of the first sequence: originals and targets, in rows."""
        obs = batch.obs.select((slice(1, None), slice(1)))
        views = noise.target.select((slice(None), slice(1)))
        return picture(obs, [self.augmentation(obs, views)])
