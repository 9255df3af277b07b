"""PlayVirtual (Yu et al. 2021): SPR, and imagined action sequences must lead back to the start."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch
from ..frames import FrameStacks
from ..networks import ConvEncoder, QNetwork
from ..ranges import bounded
from .heads import distance, health_names
from .interface import Metrics, Objective, Streams
from .prediction import LatentPrediction, PredictionNoise
from .transition import TransitionModel, cycle


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Keys of configs/agent/playvirtual.yaml, which says what each one is."""

    playvirtual_weight: float = bounded(0)
    prediction_weight: float = bounded(0)
    cycle_weight: float = bounded(0)
    cycle_steps: int = bounded(1)
    cycle_ramp_agent_steps: int = bounded(1)
    virtual_per_action: int = bounded(1)
    sequence_length: int = bounded(2)
    target_ema_tau: float = bounded(0, 1)
    strict_end_mask: bool


@dataclass(frozen=True)
class PlayVirtualNoise:
    """Random numbers of one update; M imagined sequences of C steps for each sample."""

    prediction: PredictionNoise
    virtual_actions: Tensor  # int64 (C, M, B)
    home: AugmentationNoise  # (M, B), of o_0, once for each imagined sequence


def ramp(step: int, steps: int) -> float:
    """ω(t) = exp(-5 (1 - (t+1)/T)²) for t < T, then 1: how much of the cycle loss counts."""
    return math.exp(-5 * (1 - (step + 1) / steps) ** 2) if step < steps else 1.0


class PlayVirtual(Objective):
    """Latent prediction, and a cycle: forwards by imagined actions, backwards by the same ones.

    Only the end of the way back is compared, with the projection of o_0. Targets follow before the
    optimiser's step, and the predictor is unclipped, as in SPR.
    """

    settings_type = Settings
    metric_names = ("loss/playvirtual", "playvirtual/prediction", "playvirtual/cycle")
    diagnostic_names = (*health_names("playvirtual"), "playvirtual/ramp")
    targets_move = "before_step"
    ramp: Tensor

    def __init__(
        self, settings: Settings, network: QNetwork, augmentation: Augmentation, batch_size: int
    ) -> None:
        super().__init__(settings, network, augmentation, batch_size)
        self.settings, self.augmentation = settings, augmentation
        self.lead = (settings.sequence_length - 1, batch_size)
        self.num_actions = network.head.num_actions
        self.prediction = LatentPrediction(
            network, augmentation, settings.target_ema_tau, settings.strict_end_mask
        )
        self.reverse_dynamics = TransitionModel(network.encoder, self.num_actions)
        # Follows from the step, so it is no part of the state.
        self.register_buffer("ramp", torch.zeros(()), persistent=False)
        self.set_schedules(0)

    def set_schedules(self, agent_step: int) -> None:
        self.ramp.fill_(ramp(agent_step, self.settings.cycle_ramp_agent_steps))

    def draw_noise(self, streams: Streams, rl_view: AugmentationNoise) -> PlayVirtualNoise:
        prediction = self.prediction.draw_noise(streams, rl_view, self.lead)
        lead = (self.settings.virtual_per_action * self.num_actions, self.lead[1])
        shape, generator = (self.settings.cycle_steps, *lead), streams["objective"]
        actions = torch.randint(self.num_actions, shape, generator=generator)
        return PlayVirtualNoise(prediction, actions, self.augmentation.draw(generator, lead))

    def loss(
        self, encoder: ConvEncoder, batch: Batch, noise: PlayVirtualNoise
    ) -> tuple[Tensor, Metrics]:
        """Prediction and cycle, each a mean over the batch by importance weight."""
        chosen, part = self.settings, self.prediction
        target = part.target_projection(part.target_latents(batch, noise.prediction))
        start = part.encode(encoder, batch, noise.prediction)
        predictions = part.predictions(encoder, start, batch.action)
        predicted = part.losses(predictions, target, batch.ends)
        returned = self.cycle_losses(encoder, start, batch, noise)
        cycle_weight = chosen.cycle_weight * self.ramp

        def weighted(predicted: Tensor, returned: Tensor) -> Tensor:
            return chosen.prediction_weight * predicted + cycle_weight * returned

        weights = batch.importance_weights
        loss = weighted((predicted * weights).mean(), (returned * weights).mean())
        means = predicted.detach().mean(), returned.detach().mean()
        return loss, dict(zip(self.metric_names, (weighted(*means), *means), strict=True))

    def cycle_losses(
        self, encoder: ConvEncoder, start: Tensor, batch: Batch, noise: PlayVirtualNoise
    ) -> Tensor:
        """ℓ_cyc (B,) from `start` (B, C, h, w); 0 where the first real action ends the episode."""
        count, size = noise.virtual_actions.shape[1:]
        starts = start.expand(count, *start.shape).flatten(0, 1)  # sequence by sequence: m * B + b
        with encoder.autocast():
            dynamics, back = self.prediction.dynamics, self.reverse_dynamics
            ends = cycle(dynamics, back, starts, noise.virtual_actions.flatten(1))
        predictions = self.prediction.predict(ends)
        distances = distance(predictions, self.cycle_targets(batch, noise))
        return distances.view(count, size).mean(dim=0) * (~batch.ends[0])

    @torch.no_grad()
    def cycle_targets(self, batch: Batch, noise: PlayVirtualNoise) -> Tensor:
        """Momentum projections of o_0, seen anew for each imagined sequence, (M*B, P)."""
        index = batch.obs.index[0].expand(noise.virtual_actions.shape[1], -1, -1)
        images = self.augmentation(FrameStacks(batch.obs.frames, index), noise.home)
        latents = self.prediction.target_encoder(images.flatten(0, 1))
        target: Tensor = self.prediction.target_projection(latents.flatten(1))
        return target

    def update_targets(self) -> None:
        self.prediction.update_targets()

    def clip_groups(self) -> dict[str, list[nn.Parameter]]:
        return {
            "dynamics": list(self.prediction.dynamics.parameters()),
            "reverse_dynamics": list(self.reverse_dynamics.parameters()),
        }

    def diagnostics(
        self, encoder: ConvEncoder, batch: Batch, noise: PlayVirtualNoise
    ) -> dict[str, float]:
        values = self.prediction.health("playvirtual", encoder, batch, noise.prediction)
        return {**values, "playvirtual/ramp": self.ramp.item()}

    def preview(self, batch: Batch, noise: PlayVirtualNoise) -> Tensor:
        return self.prediction.preview(batch, noise.prediction)
