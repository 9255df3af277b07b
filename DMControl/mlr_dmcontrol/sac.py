"""Soft actor-critic from pixels, and the order of one update.

The convolutions are shared: the critic's loss and the objective's train them, the actor's does
not. Two Adams with moments of their own step the encoder in turn (published code).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .augmentation import EFFECTS, PLACES, Augmentation, center_crop, to_float
from .batch import Batch, UpdateNoise
from .device import to_device
from .errors import ConfigError
from .losses import actor_loss, critic_loss, soft_target, squashed_gaussian, temperature_loss
from .networks import Networks, NetworkSettings
from .objectives.interface import Metrics, Objective
from .optimization import Optimizer, ParameterGroup
from .run.schema import bounded, choice
from .run.seeding import Streams

_METRICS = (
    "loss/critic", "loss/actor", "loss/temperature", "rl/q", "rl/temperature", "rl/entropy",
    "gradient_norm/critic", "gradient_norm/actor",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SACSettings(NetworkSettings):
    """Keys of configs/agent/sac.yaml, which says what each one is."""

    rl: bool
    augmentation: tuple[str, ...] = choice(*PLACES, *EFFECTS)
    shift_pad: int = bounded(0, 480)
    intensity_scale: float = bounded(0)
    skip_last_crop_offset: bool
    num_target_augmentations: int = bounded(1, 64)
    num_q_augmentations: int = bounded(1, 64)
    exact_log_prob: bool
    batch_size: int = bounded(1)
    learning_starts: int = bounded(1)
    discount: float = bounded(0, 1)
    critic_learning_rate: float = bounded(above=0)
    actor_learning_rate: float = bounded(above=0)
    temperature_learning_rate: float = bounded(above=0)
    temperature_beta1: float = bounded(0, below=1)
    actor_update_every: int = bounded(1)
    target_update_every: int = bounded(1)

    def __post_init__(self) -> None:
        """Raises: ConfigError: the bounds of the policy's deviation are crossed."""
        if self.log_std_min > self.log_std_max:
            raise ConfigError(
                f"agent.log_std_min={self.log_std_min}: above agent.log_std_max="
                f"{self.log_std_max}; use a smaller one"
            )


class SAC:
    """The agent: acts, and improves itself from a batch and given noise.

    Attributes:
        networks: all trained and averaged networks. encoder: the one that is shared.
        objective: what else shapes the encoder, or None: then it is plain SAC.
        update_step: updates done.
    """

    def __init__(
        self,
        settings: SACSettings,
        networks: Networks,
        augmentation: Augmentation,
        objective: Objective | None = None,
        objective_weight: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        """Args: `augmentation`: of the SAC batch. `objective`: on `networks`' encoder."""
        self.settings, self.augmentation = settings, augmentation
        self.device = torch.device(device)
        self.networks, self.encoder = networks.to(self.device), networks.encoder
        self.objective = None if objective is None else objective.to(self.device)
        self.objective_weight = objective_weight
        self.target_entropy = -float(networks.action_dim)
        self.update_step = 0
        self._make_optimizers()

    @property
    def num_parameters(self) -> int:
        """Trained numbers, the objective's included."""
        modules = [self.networks] if self.objective is None else [self.networks, self.objective]
        parameters = itertools.chain(*(module.parameters() for module in modules))
        return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of all that updates ever report."""
        names = _METRICS if self.settings.rl else ()
        if self.objective is None:
            return names
        return (*names, *self.objective.metric_names, "gradient_norm/objective")

    def _make_optimizers(self) -> None:
        settings, networks, objective = self.settings, self.networks, self.objective
        critic = ParameterGroup([*networks.encoder.parameters(), *networks.critic.parameters()])
        actor = ParameterGroup(list(networks.actor.parameters()))
        temperature = ParameterGroup([networks.log_temperature])
        betas, rate = (settings.temperature_beta1, 0.999), settings.temperature_learning_rate
        self.critic_optimizer = Optimizer([critic], settings.critic_learning_rate)
        self.actor_optimizer = Optimizer([actor], settings.actor_learning_rate)
        self.temperature_optimizer = Optimizer([temperature], rate, betas=betas)
        self.objective_optimizer = None
        if objective is not None:
            self.objective_optimizer = Optimizer(
                objective.parameter_groups(networks.encoder),
                settings.critic_learning_rate,
                clip=objective.clip_groups(networks.encoder),
            )
        lasting: dict[str, Any] = {
            "networks": networks,
            "objective": objective,
            "critic_optimizer": self.critic_optimizer,
            "actor_optimizer": self.actor_optimizer,
            "temperature_optimizer": self.temperature_optimizer,
            "objective_optimizer": self.objective_optimizer,
        }
        self._lasting = {name: part for name, part in lasting.items() if part is not None}

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions float32 (N, A) in [-1, 1], on the device: the mean, or with noise a sample.

        Args: `obs`: uint8 (N, S*C, H, W) as rendered; its centre is used. `noise`: normal (N, A).
        """
        obs, noise = to_device((obs, noise), self.device)
        images = to_float(center_crop(obs, self.settings.crop_size))
        mean, log_std = self.networks.actor(self.networks.encoder.features(images))
        return mean.tanh() if noise is None else squashed_gaussian(mean, log_std, noise)[0]

    def evaluation_policy(self, obs: np.ndarray, generators: object = None) -> np.ndarray:
        """`act` without exploration, between arrays: what an evaluation scores; draws nothing."""
        return self.act(torch.from_numpy(obs)).cpu().numpy()

    def draw_noise(self, streams: Streams) -> UpdateNoise:
        """Everything random in one update, on the CPU.

        Of `augmentation` obs, next_obs; of `noise` next_action, action; then the objective's.
        """
        settings, images, normal = self.settings, streams["augmentation"], streams["noise"]
        actions = (settings.batch_size, self.networks.action_dim)
        views, q_views = settings.num_target_augmentations, settings.num_q_augmentations
        obs = self.augmentation.draw(images, (q_views, settings.batch_size))
        return UpdateNoise(
            obs,
            self.augmentation.draw(images, (views, settings.batch_size)),
            torch.randn(views, *actions, generator=normal),
            torch.randn(actions, generator=normal),
            None if self.objective is None else self.objective.draw_noise(streams, obs),
        )

    def due(self, agent_step: int) -> dict[str, bool]:
        """Which parts an update at `agent_step` has, as keywords of `update`."""
        settings = self.settings
        return {
            "actor_step": settings.rl and agent_step % settings.actor_update_every == 0,
            "target_step": agent_step % settings.target_update_every == 0,
        }

    def set_schedules(self, agent_step: int) -> None:
        """Host side of an update: what changes over the run, written into device tensors."""
        if self.objective is not None and self.objective_optimizer is not None:
            factor = self.objective.learning_rate_factor(self.update_step)
            self.objective_optimizer.set_schedule(factor)
            self.objective.set_schedules(agent_step)

    def update(
        self, batch: Batch, noise: UpdateNoise, *, actor_step: bool, target_step: bool
    ) -> Metrics:
        """Device side of an update: critic, objective, actor and temperature, momentum targets.

        Tensors only, static shapes, no synchronisation, so it may become a CUDA graph; the host
        calls `set_schedules` before it and counts `update_step` after it.

        Args: `batch`, `noise`: on the agent's device. `actor_step`, `target_step`: see `due`.

        Returns: Detached 0-d tensors on the device.
        """
        targets_first = self.objective is not None and self.objective.targets_move == "before_step"
        metrics = self.update_critic(batch, noise) if self.settings.rl else {}
        if not targets_first:
            metrics |= self.update_objective(batch, noise)
        if actor_step:
            metrics |= self.update_actor(batch, noise)
        if target_step:
            self.update_targets()
        return metrics | self.update_objective(batch, noise) if targets_first else metrics

    def update_critic(self, batch: Batch, noise: UpdateNoise) -> Metrics:
        """Step the critic and its encoder."""
        loss, metrics = self.critic_terms(batch, noise)
        return metrics | {"gradient_norm/critic": self.critic_optimizer.minimise(loss)}

    def critic_terms(self, batch: Batch, noise: UpdateNoise) -> tuple[Tensor, Metrics]:
        """Loss of the critic and its encoder."""
        networks, target = self.networks, self.critic_target(batch, noise)
        count = self.settings.num_q_augmentations
        views = self.augmentation(batch.obs.repeated(count), noise.obs)
        values = networks.critic(networks.encoder(views), batch.action.repeat(count, 1))
        loss = critic_loss(values.unflatten(1, (count, -1)), target)
        return loss, {"loss/critic": loss.detach(), "rl/q": values.detach().mean()}

    @torch.no_grad()
    def critic_target(self, batch: Batch, noise: UpdateNoise) -> Tensor:
        """y (B,): the actor's view of the next observations, the target networks' values."""
        networks, count = self.networks, self.settings.num_target_augmentations
        views = self.augmentation(batch.next_obs.repeated(count), noise.next_obs)
        mean, log_std = networks.actor(networks.encoder.features(views))
        exact, normal = self.settings.exact_log_prob, noise.next_action.flatten(0, 1)
        action, log_prob = squashed_gaussian(mean, log_std, normal, exact)
        values = networks.critic_target(networks.encoder_target(views), action)
        return soft_target(
            values.unflatten(1, (count, -1)),
            log_prob.unflatten(0, (count, -1)),
            networks.log_temperature.exp(),
            batch.reward,
            batch.terminated,
            self.settings.discount,
        )

    def update_objective(self, batch: Batch, noise: UpdateNoise) -> Metrics:
        """Step the encoder and the objective's own parameters; nothing without an objective."""
        if self.objective is None or self.objective_optimizer is None:
            return {}
        metrics: Metrics = {}
        for share, piece, piece_noise in self.objective.pieces(batch, noise.objective):
            loss, values = self.objective.loss(self.encoder, piece, piece_noise)
            self.objective_optimizer.accumulate(self.objective_weight * share * loss)
            for name, value in values.items():
                metrics[name] = metrics.get(name, 0.0) + share * value
        return metrics | {"gradient_norm/objective": self.objective_optimizer.step()}

    def update_actor(self, batch: Batch, noise: UpdateNoise) -> Metrics:
        """Step the actor and the temperature."""
        loss, log_prob, metrics = self.actor_terms(batch, noise)
        term = temperature_loss(self.networks.log_temperature, log_prob, self.target_entropy)
        self.temperature_optimizer.minimise(term)
        norm = self.actor_optimizer.minimise(loss)
        return metrics | {"loss/temperature": term.detach(), "gradient_norm/actor": norm}

    def actor_terms(self, batch: Batch, noise: UpdateNoise) -> tuple[Tensor, Tensor, Metrics]:
        """Loss of the actor and log-probabilities (B,), on the first view of the observations."""
        networks = self.networks
        with torch.no_grad():
            view = self.augmentation(batch.obs, noise.obs.select(0))
            features = networks.encoder.features(view)
            latent = networks.encoder.latent(features)
        mean, log_std = networks.actor(features)
        exact = self.settings.exact_log_prob
        action, log_prob = squashed_gaussian(mean, log_std, noise.action, exact)
        temperature = networks.log_temperature.exp().detach()
        loss = actor_loss(networks.critic(latent, action), log_prob, temperature)
        log_prob = log_prob.detach()
        metrics = {"loss/actor": loss.detach(), "rl/temperature": temperature}
        return loss, log_prob, metrics | {"rl/entropy": -log_prob.mean()}

    def update_targets(self) -> None:
        """Move all momentum targets one step."""
        self.networks.critic_target.update()
        self.networks.encoder_target.update()
        if self.objective is not None:
            self.objective.update_targets()

    def state_dict(self) -> dict[str, Any]:
        """All weights, moments and counters; nothing else outlives an update."""
        state = {name: part.state_dict() for name, part in self._lasting.items()}
        return state | {"update_step": self.update_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken, in place; RuntimeError, ValueError or KeyError if it
        belongs to another agent.
        """
        for name, part in self._lasting.items():
            part.load_state_dict(state[name])
        self.update_step = state["update_step"]
