"""SPR: predict the latents of the next observations (Schwarzer et al. 2021)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..augmentation import EFFECTS, PLACES, Augmentation, AugmentationNoise
from ..batch import Batch, SequenceBatch
from ..momentum import MomentumTarget
from ..networks import Encoder, Networks, mlp
from ..run.schema import bounded, choice
from ..run.seeding import Streams
from .interface import Metrics, Objective, windows_of
from .latents import distance, health, health_names, picture


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """Keys that SPR and PlayVirtual share."""

    sequence_length: int = bounded(2, 1024)
    sequence_batch_size: int = bounded(1, 65536)
    objective_augmentation: tuple[str, ...] = choice(*PLACES, *EFFECTS)
    transition_hidden_dim: int = bounded(1)
    projection_dim: int = bounded(1)
    target_ema_tau: float = bounded(0, 1)
    redraw_target_projection: bool
    objective_encoder_learning_rate_scale: float = bounded(above=0)
    objective_learning_rate_scale: float = bounded(above=0)
    max_gradient_norm: float | None = bounded(above=0)


@dataclass(frozen=True, kw_only=True)
class Settings(PredictionSettings):
    """Keys of configs/agent/spr.yaml, which says what each one is."""

    spr_weight: float = bounded(0)


@dataclass(frozen=True)
class PredictionNoise:
    """Augmentation of o_0 as an input, lead (B',), and of o_1 ... o_K as targets, lead (K, B')."""

    first: AugmentationNoise
    target: AugmentationNoise


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


def rollout(model: nn.Module, start: Tensor, actions: Tensor) -> Tensor:
    """Latents after each of the actions: (*, Z), (K, *, A) -> (K, *, Z)."""
    latents = []
    for action in actions:
        start = model(start, action)
        latents.append(start)
    return torch.stack(latents)


class SPR(Objective):
    """Roll the online latent of o_0 forward, and compare with momentum latents of o_1 ... o_K.

    Windows have K + 1 = `sequence_length` observations; a_k leads from o_k to o_{k+1}.
    """

    name = "spr"
    settings_type: ClassVar[type] = Settings
    metric_names: ClassVar[tuple[str, ...]] = ("loss/spr",)
    diagnostic_names = health_names(name)

    def __init__(
        self, settings: PredictionSettings, networks: Networks, augmentation: Augmentation
    ) -> None:
        super().__init__(settings, networks, augmentation)
        latent_dim, tau = networks.encoder.latent_dim, settings.target_ema_tau
        sizes = latent_dim, networks.action_dim, settings.transition_hidden_dim
        self.dynamics = TransitionModel(*sizes)
        widths = latent_dim, settings.projection_dim, latent_dim
        self.projection, self.predictor = mlp(*widths), mlp(*widths)
        self.target_encoder = MomentumTarget(networks.encoder, tau)
        self.target_projection = MomentumTarget(self.projection, tau)
        if settings.redraw_target_projection:
            self.target_projection.target.load_state_dict(mlp(*widths).state_dict())

    def draw_noise(self, streams: Streams, views: AugmentationNoise) -> PredictionNoise:
        """Of stream `objective` first and target, in this order."""
        size, draw = self.sequence_batch_size, self.augmentation.draw
        leads = (size,), (self.sequence_length - 1, size)
        return PredictionNoise(*(draw(streams["objective"], lead) for lead in leads))

    def loss(self, encoder: Encoder, batch: Batch, noise: Any) -> tuple[Tensor, Metrics]:
        """Mean distance over the K predicted steps and B' windows; o_0 itself does not count."""
        sequence = windows_of(batch)
        loss = self.prediction_loss(self.first_latent(encoder, sequence, noise), sequence, noise)
        return loss, {"loss/spr": loss.detach()}

    def first_latent(
        self, encoder: Encoder, sequence: SequenceBatch, noise: PredictionNoise
    ) -> Tensor:
        """ẑ_0, the online latent of o_0, (B', Z)."""
        return encoder(self.augmentation(sequence.obs.select(0), noise.first))

    def prediction_loss(
        self, latent: Tensor, sequence: SequenceBatch, noise: PredictionNoise
    ) -> Tensor:
        """Mean distance of steps 1 ... K, predicted from ẑ_0 = `latent`."""
        target = self.target_projection(self.target_latents(sequence, noise))
        return distance(self.predicted(latent, sequence), target).mean()

    def predicted(self, latent: Tensor, sequence: SequenceBatch) -> Tensor:
        """y_1 ... y_K from ẑ_0 = `latent`, (K, B', Z)."""
        return self.projected(rollout(self.dynamics, latent, sequence.action[:-1]))

    def projected(self, latents: Tensor) -> Tensor:
        """y = P(q(ẑ)), (*, Z) -> (*, Z)."""
        return self.predictor(self.projection(latents))

    def target_latents(self, sequence: SequenceBatch, noise: PredictionNoise) -> Tensor:
        """Momentum latents of o_1 ... o_K, (K, B', Z); no gradient."""
        obs = sequence.obs.select(slice(1, None))
        return self.target_encoder(self.augmentation(obs, noise.target)).unflatten(0, obs.lead)

    @torch.no_grad()
    def diagnostics(self, encoder: Encoder, batch: Batch, noise: Any) -> dict[str, float]:
        """Similarity and collapse watch of the prediction."""
        sequence = windows_of(batch)
        latents = self.target_latents(sequence, noise)
        prediction = self.predicted(self.first_latent(encoder, sequence, noise), sequence)
        return health(self.name, prediction, self.target_projection(latents), latents)

    @torch.no_grad()
    def preview(self, batch: Batch, noise: Any) -> Tensor:
        """The first window in time: original; o_0 as input, then targets."""
        one = (slice(None), slice(1))
        obs = windows_of(batch).obs.select(one)
        first = self.augmentation(obs.select(0), noise.first.select(slice(1)))
        rest = self.augmentation(obs.select(slice(1, None)), noise.target.select(one))
        return picture(obs, [torch.cat([first, rest])])
