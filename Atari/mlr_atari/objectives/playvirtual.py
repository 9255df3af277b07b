"""PlayVirtual: SPR, and imagined actions taken back must lead home (Yu et al. 2021)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch
from ..networks import Encoder, QNetwork
from ..optimization import ClipGroup
from ..run.schema import bounded
from ..run.seeding import Streams
from .interface import Metrics
from .latents import distance, health_names
from .spr import SPR, PredictionNoise, PredictionSettings, TransitionModel


@dataclass(frozen=True, kw_only=True)
class Settings(PredictionSettings):
    """Keys of configs/agent/playvirtual.yaml, which says what each one is."""

    playvirtual_weight: float = bounded(0)
    prediction_weight: float = bounded(0)
    cycle_weight: float = bounded(0)
    cycle_steps: int = bounded(1, 1024)
    cycle_ramp_agent_steps: int = bounded(1)
    virtual_per_action: int = bounded(1, 64)


@dataclass(frozen=True)
class PlayVirtualNoise(PredictionNoise):
    """Random numbers of one update, besides those of the prediction."""

    virtual_actions: Tensor  # int64 (C, M, B); M = actions of the game times `virtual_per_action`
    home: AugmentationNoise  # of o_0 as the cycles' target, lead (M, B)


def cycle_ramp(step: int, steps: int) -> float:
    """ω(t) = exp(-5 (1 - (t+1)/T)²) for t < T, then 1: how much of the cycle loss counts."""
    return math.exp(-5 * (1 - (step + 1) / steps) ** 2) if step < steps else 1.0


class PlayVirtual(SPR):
    """Prediction as in SPR, plus cycles of virtual actions forward and back."""

    name = "playvirtual"
    settings_type = Settings
    metric_names = ("loss/playvirtual", "playvirtual/prediction", "playvirtual/cycle")
    diagnostic_names = (*health_names(name), "playvirtual/ramp")
    ramp: Tensor

    def __init__(self, settings: Settings, network: QNetwork, augmentation: Augmentation) -> None:
        super().__init__(settings, network, augmentation)
        self.reverse_dynamics = TransitionModel(network.encoder, self.num_actions)
        # Follows from the step, so it is no part of the state.
        self.register_buffer("ramp", torch.ones(()), persistent=False)

    def draw_noise(self, streams: Streams, views: AugmentationNoise) -> PlayVirtualNoise:
        """Of stream `objective` target, virtual_actions and home, in this order."""
        known, stream = super().draw_noise(streams, views), streams["objective"]
        lead = (self.settings.virtual_per_action * self.num_actions, self.batch_size)
        shape = (self.settings.cycle_steps, *lead)
        actions = torch.randint(self.num_actions, shape, generator=stream)
        home = self.augmentation.draw(stream, lead)
        return PlayVirtualNoise(known.first, known.target, actions, home)

    def set_schedules(self, agent_step: int) -> None:
        """ω of the agent step at which this update happens."""
        self.ramp.fill_(cycle_ramp(agent_step, self.settings.cycle_ramp_agent_steps))

    def loss(self, encoder: Encoder, batch: Batch, noise: Any) -> tuple[Tensor, Metrics]:
        """Weighted sum of prediction and ramped cycle, each a mean by importance weight."""
        latent, cycle_weight = self.first_latent(encoder, batch, noise), self.settings.cycle_weight
        predicted = self.prediction_losses(encoder, latent, batch, noise)
        returned = self.cycle_losses(encoder, latent, batch, noise)

        def total(predicted: Tensor, returned: Tensor) -> Tensor:
            cycles = cycle_weight * self.ramp * returned
            return self.settings.prediction_weight * predicted + cycles

        weights = batch.importance_weights
        means = predicted.detach().mean(), returned.detach().mean()
        metrics = dict(zip(self.metric_names, (total(*means), *means), strict=True))
        return total((predicted * weights).mean(), (returned * weights).mean()), metrics

    def cycle_losses(
        self, encoder: Encoder, latent: Tensor, batch: Batch, noise: PlayVirtualNoise
    ) -> Tensor:
        """ℓ_cyc (B,) of M cycles from ẑ_0 = `latent`; only where they end is compared.

        0 where the first real action ends the episode.
        """
        count, size = noise.virtual_actions.shape[1:]
        end = latent.expand(count, *latent.shape).flatten(0, 1)  # sequence by sequence: m * B + b
        with encoder.autocast():
            for action in noise.virtual_actions.flatten(1):
                end = self.dynamics(end, action)
            for action in noise.virtual_actions.flatten(1).flip(0):  # back, last first
                end = self.reverse_dynamics(end, action)
        # o_0 is seen anew for each imagined sequence.
        images = self.augmentation(batch.obs.select(0).repeated(count), noise.home)
        target = self.target_projection(self.target_encoder(images).flatten(1))
        distances = distance(self.projected(end), target)
        return distances.view(count, size).mean(dim=0) * (~batch.ends[0])

    def clip_groups(self) -> Sequence[ClipGroup]:
        """Both dynamics, each by itself."""
        reverse = ClipGroup("reverse_dynamics", list(self.reverse_dynamics.parameters()))
        return [*super().clip_groups(), reverse]

    def diagnostics(self, encoder: Encoder, batch: Batch, noise: Any) -> dict[str, float]:
        """Those of the prediction, and ω."""
        ramp = {"playvirtual/ramp": self.ramp.item()}
        return super().diagnostics(encoder, batch, noise) | ramp
