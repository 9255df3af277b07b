"""PlayVirtual: SPR, and imagined actions taken back must lead home (Yu et al. 2021)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch, SequenceBatch
from ..frames import FrameStacks
from ..networks import Encoder, Networks
from ..optimization import ClipGroup
from ..run.schema import bounded
from ..run.seeding import Streams
from .interface import Metrics, windows_of
from .latents import distance, health_names
from .spr import SPR, PredictionNoise, PredictionSettings, TransitionModel, rollout


@dataclass(frozen=True, kw_only=True)
class Settings(PredictionSettings):
    """Keys of configs/agent/playvirtual.yaml, which says what each one is."""

    playvirtual_weight: float = bounded(0)
    prediction_weight: float = bounded(0)
    cycle_weight: float = bounded(0)
    backward_weight: float = bounded(0)
    real_cycle_weight: float = bounded(0)
    num_cycles: int = bounded(1, 64)
    cycle_steps: int = bounded(1, 1024)
    cycle_ramp_env_steps: int = bounded(0)
    cycle_ramp_action_repeat: int = bounded(1)


@dataclass(frozen=True)
class PlayVirtualNoise(PredictionNoise):
    """Random numbers of one update, besides those of the prediction."""

    virtual_actions: Tensor  # float32 (C, M, B', A), uniform in [-1, 1]
    home: AugmentationNoise  # of o_0 as the cycles' target, lead (M, B')
    real: AugmentationNoise  # off by default: of o_0 as target, o_K as input, lead (2, B')


def cycle_ramp(env_step: int, ramp: int) -> float:
    """ω: exp(-5 (1 - (t + 1) / ramp)²) until t = `ramp`, then 1."""
    return math.exp(-5 * (1 - (env_step + 1) / ramp) ** 2) if env_step < ramp else 1.0


class PlayVirtual(SPR):
    """Prediction as in SPR, plus cycles of virtual actions forward and back.

    Off by default: predicting backwards from o_K, and a cycle through the real actions.
    """

    name = "playvirtual"
    settings_type = Settings
    metric_names = ("loss/playvirtual", "playvirtual/prediction", "playvirtual/cycle")
    diagnostic_names = health_names(name)
    settings: Settings
    ramp: Tensor

    def __init__(self, settings: Settings, networks: Networks, augmentation: Augmentation) -> None:
        super().__init__(settings, networks, augmentation)
        self.action_dim, latent_dim = networks.action_dim, networks.encoder.latent_dim
        sizes = latent_dim, self.action_dim, settings.transition_hidden_dim
        self.reverse_dynamics = TransitionModel(*sizes)
        self.register_buffer("ramp", torch.ones(()), persistent=False)

    def draw_noise(self, streams: Streams, views: AugmentationNoise) -> PlayVirtualNoise:
        """Of stream `objective` first, target, virtual_actions, home and real, in this order."""
        settings, stream, size = self.settings, streams["objective"], self.sequence_batch_size
        known = super().draw_noise(streams, views)
        shape = (settings.cycle_steps, settings.num_cycles, size, self.action_dim)
        actions = torch.rand(shape, generator=stream) * 2 - 1
        home, real = (self.augmentation.draw(stream, (n, size)) for n in (settings.num_cycles, 2))
        return PlayVirtualNoise(known.first, known.target, actions, home, real)

    def set_schedules(self, agent_step: int) -> None:
        """ω of the env step at which this update happens."""
        env_step = agent_step * self.settings.cycle_ramp_action_repeat
        self.ramp.fill_(cycle_ramp(env_step, self.settings.cycle_ramp_env_steps))

    def loss(self, encoder: Encoder, batch: Batch, noise: Any) -> tuple[Tensor, Metrics]:
        """Weighted sum of the prediction's and the ramped cycles' mean distances."""
        settings, sequence = self.settings, windows_of(batch)
        latent = self.first_latent(encoder, sequence, noise)
        prediction = self.prediction_loss(latent, sequence, noise)
        returned = self.cycle_loss(latent, sequence, noise)
        cycles = self.ramp * settings.cycle_weight * returned
        loss = settings.prediction_weight * prediction + cycles
        if settings.backward_weight:
            loss = loss + settings.backward_weight * self.backward_loss(encoder, sequence, noise)
        if settings.real_cycle_weight:
            real = self.real_cycle_loss(latent, sequence, noise)
            loss = loss + self.ramp * settings.real_cycle_weight * real
        values = zip(self.metric_names, (loss, prediction, returned), strict=True)
        return loss, {name: value.detach() for name, value in values}

    def cycle_loss(
        self, latent: Tensor, sequence: SequenceBatch, noise: PlayVirtualNoise
    ) -> Tensor:
        """M virtual cycles from ẑ_0 = `latent` (B', Z); only where they end is compared."""
        count = self.settings.num_cycles
        end = self.returned(latent.expand(count, *latent.shape), noise.virtual_actions)
        first = sequence.obs.select(0).repeated(count)
        return self._distance(end, self._targets(first, noise.home).view_as(end))

    def returned(self, start: Tensor, actions: Tensor) -> Tensor:
        """Where actions that led on from `start`, taken back, lead: (*, Z), (C, *, A) -> (*, Z)."""
        for action in actions:
            start = self.dynamics(start, action)
        for action in actions.flip(0):  # last first
            start = self.reverse_dynamics(start, action)
        return start

    def real_cycle_loss(
        self, latent: Tensor, sequence: SequenceBatch, noise: PlayVirtualNoise
    ) -> Tensor:
        """One cycle through the actions that were taken."""
        target = self._targets(sequence.obs.select(0), noise.real.select(0))
        return self._distance(self.returned(latent, sequence.action[:-1]), target)

    def backward_loss(
        self, encoder: Encoder, sequence: SequenceBatch, noise: PlayVirtualNoise
    ) -> Tensor:
        """Mean distance of o_{K-1} ... o_0 predicted from o_K."""
        first = self._targets(sequence.obs.select(0), noise.real.select(0))
        targets = self.target_projection(self.target_latents(sequence, noise)[:-1])
        last = encoder(self.augmentation(sequence.obs.select(-1), noise.real.select(1)))
        latents = rollout(self.reverse_dynamics, last, sequence.action[:-1].flip(0))
        return self._distance(latents.flip(0), torch.cat([first[None], targets]))

    def clip_groups(self, encoder: Encoder) -> Sequence[ClipGroup]:
        """The encoder's norm first, then the joint one (published)."""
        joint = super().clip_groups(encoder)
        alone = [ClipGroup(list(encoder.parameters()), group.max_norm) for group in joint]
        return [*alone, *joint]

    def _targets(self, obs: FrameStacks, noise: AugmentationNoise) -> Tensor:
        """ȳ of images, (N, Z)."""
        return self.target_projection(self.target_encoder(self.augmentation(obs, noise)))

    def _distance(self, latents: Tensor, target: Tensor) -> Tensor:
        return distance(self.projected(latents), target).mean()
