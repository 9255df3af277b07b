"""Rainbow for few samples: the RL agent that objectives are added to (the published code)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .augmentation import NAMES as AUGMENTATIONS
from .augmentation import Augmentation, AugmentationNoise
from .batch import ActionNoise, Batch, UpdateNoise, evaluation_noise
from .device import to_device
from .errors import ConfigError
from .frames import FrameStacks
from .losses import ActionValues
from .momentum import MomentumTarget
from .networks import PolicySettings, QNetwork
from .objectives.interface import Metrics, Objective
from .optimization import ClipGroup, Optimizer
from .run.schema import bounded, choice
from .run.seeding import Streams

_METRICS = ("loss/rl", "rl/q", "rl/priority")


@dataclass(frozen=True, kw_only=True)
class RainbowSettings(PolicySettings):
    """Keys of configs/agent/rainbow.yaml, which says what each one is."""

    rl: bool

    augmentation: tuple[str, ...] = choice(*AUGMENTATIONS)
    shift_pad: int = bounded(1, 480)
    intensity_scale: float = bounded(0)
    num_q_augmentations: int = bounded(1, 64)
    num_target_augmentations: int = bounded(1, 64)
    separate_selection_draw: bool

    double_q: bool
    target_update_interval: int = bounded(1)
    redraw_target_noise: bool

    batch_size: int = bounded(1)
    sequence_length: int = bounded(1, 1024)
    learning_starts: int = bounded(0)
    updates_per_step: int = bounded(1, 4096)
    learning_rate: float = bounded(above=0)
    adam_eps: float = bounded(above=0)
    max_gradient_norm: float = bounded(above=0)

    epsilon_initial: float = bounded(0, 1)
    epsilon_final: float = bounded(0, 1)
    epsilon_decay_steps: int = bounded(1)
    redraw_noise_to_act: bool

    importance_exponent_initial: float = bounded(0, 1)
    importance_exponent_final: float = bounded(0, 1)
    importance_exponent_steps: int = bounded(1)

    def __post_init__(self) -> None:
        """Raises: ConfigError: the support of the return distribution is empty."""
        if self.v_min >= self.v_max:
            raise ConfigError(
                f"agent.v_min={self.v_min}: not below agent.v_max={self.v_max}; use a smaller one"
            )

    def epsilon(self, agent_step: int) -> float:
        """Share of random actions at `agent_step` (from 0): constant until learning starts.

        Without RL all are random.
        """
        if not self.rl:
            return 1.0
        progress = (agent_step - self.learning_starts) / self.epsilon_decay_steps
        return _between(self.epsilon_initial, self.epsilon_final, progress)

    def importance_exponent(self, agent_step: int) -> float:
        """Exponent beta of the importance weights at `agent_step`."""
        span = max(1, self.importance_exponent_steps - self.learning_starts)
        progress = (agent_step - self.learning_starts) / span
        return _between(self.importance_exponent_initial, self.importance_exponent_final, progress)


def _between(start: float, end: float, progress: float) -> float:
    return start + (end - start) * min(1.0, max(0.0, progress))


class Rainbow:
    """Double, dueling Q learning with noisy layers, n-step returns and target network.

    Attributes:
        network, target_network: the online one, whose `encoder` it is, and the one that bootstraps.
        objective: what else shapes the encoder, or None for the baseline.
        update_step: updates done.
    """

    def __init__(
        self,
        settings: RainbowSettings,
        network: QNetwork,
        values: ActionValues,
        augmentation: Augmentation,
        objective: Objective | None,
        objective_weight: float,
        device: torch.device,
    ) -> None:
        """Args: `objective`: built on `network`, which need not be on `device` yet."""
        self.settings, self.device = settings, device
        self.network, self.values = network.to(device), values.to(device)
        self.encoder = network.encoder
        self.augmentation = augmentation
        self.objective = None if objective is None else objective.to(device)
        self.objective_weight = objective_weight
        self._target = MomentumTarget(self.network, tau=1.0)
        self.target_network = self._target.target
        self.optimizer = self._make_optimizer()
        self.update_step = 0
        lasting: dict[str, Any] = {
            "network": network,
            "target": self.target_network,
            "optimizer": self.optimizer,
            "objective": objective,
        }
        self._lasting = {name: part for name, part in lasting.items() if part is not None}

    def _make_optimizer(self) -> Optimizer:
        settings, parameters = self.settings, list(self.network.parameters())
        groups = {"network": ClipGroup("network", list(parameters))}
        if self.objective is not None:
            parameters += self.objective.trained()
            groups |= {group.name: group for group in self.objective.clip_groups()}
        clip, norm = list(groups.values()), settings.max_gradient_norm
        rate, eps = settings.learning_rate, settings.adam_eps
        return Optimizer(parameters, rate, eps=eps, clip=clip, max_norm=norm)

    @property
    def num_parameters(self) -> int:
        """Trained numbers, the objective's included."""
        return sum(parameter.numel() for parameter in self.optimizer.parameters)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of all that updates report."""
        rl = _METRICS if self.settings.rl else ()
        own = () if self.objective is None else self.objective.metric_names
        return (*rl, *own, *self.optimizer.metric_names)

    def draw_action_noise(self, streams: Streams, count: int) -> ActionNoise:
        """CPU noise to act on `count` observations."""
        explore, head = streams["exploration"], self.network.head
        uniform = torch.rand(count, generator=explore)
        random_action = torch.randint(head.num_actions, (count,), generator=explore)
        redraw = self.settings.redraw_noise_to_act
        normals = torch.randn(head.noise_size, generator=streams["noise"]) if redraw else None
        return ActionNoise(uniform, random_action, normals)

    @torch.no_grad()
    def act(
        self, obs: Tensor, noise: ActionNoise, epsilon: Tensor | float, *, noisy: bool = True
    ) -> Tensor:
        """Actions int64 (N,), on the agent's device, for obs uint8 (N, S*C, H, W) as they are.

        Args: `epsilon`: share of random actions. `noisy`: with the noise of the noisy layers, the
        last draw or that of `noise`; else their mean weights.
        """
        obs, noise = to_device((obs, noise), self.device)
        if noise.head is not None and noisy:
            self.network.head.redraw(noise.head)
        greedy = self.values.q_values(self.network(obs * (1 / 255), noisy=noisy)).argmax(dim=-1)
        return torch.where(noise.uniform < epsilon, noise.random_action, greedy)

    def evaluation_policy(
        self, obs: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> np.ndarray:
        """`act` without noise, between arrays: what an evaluation scores.

        Args: `generators`: of each observation's game, for random actions now and then.
        """
        noise = evaluation_noise(generators, self.network.head.num_actions)
        epsilon = self.settings.epsilon_evaluation
        return self.act(torch.from_numpy(obs), noise, epsilon, noisy=False).cpu().numpy()

    def draw_noise(self, streams: Streams) -> UpdateNoise:
        """Everything random in one update, on the CPU.

        Of `noise` head, target_head; of `augmentation` obs, n_step_obs, selection; then the
        objective's.
        """
        settings, images, normal = self.settings, streams["augmentation"], streams["noise"]
        size, count = self.network.head.noise_size, settings.batch_size
        head = torch.randn(size, generator=normal)
        target_head = torch.randn(size, generator=normal) if settings.redraw_target_noise else None
        obs = self.augmentation.draw(images, (settings.num_q_augmentations, count))
        later = (settings.num_target_augmentations, count)
        n_step_obs, selection = self.augmentation.draw(images, later), None
        if settings.double_q and settings.separate_selection_draw:
            selection = self.augmentation.draw(images, later)
        objective = None if self.objective is None else self.objective.draw_noise(streams, obs)
        return UpdateNoise(head, target_head, obs, n_step_obs, selection, objective)

    def due(self, agent_step: int) -> dict[str, bool]:
        """Which parts an update at `agent_step` (from 0) has, as keywords of `update`."""
        # Published code counts the steps from 1, the present one included.
        return {"copy_target": (agent_step + 1) % self.settings.target_update_interval == 0}

    def set_schedules(self, agent_step: int) -> None:
        """Host side of an update: what changes over the run, written into device tensors."""
        if self.objective is not None:
            self.objective.set_schedules(agent_step)

    def update(
        self, batch: Batch, noise: UpdateNoise, *, copy_target: bool
    ) -> tuple[Metrics, Tensor]:
        """Device side of an update: one step on RL loss + weight * objective, then the targets.

        Tensors only, static shapes, no synchronisation, so it may become a CUDA graph; the host
        calls `set_schedules` before it and counts `update_step` after it.

        Args: `batch`, `noise`: on the agent's device. `copy_target`: see `due`.

        Returns:
            Metrics, detached 0-d tensors on the device; new priorities float32 (B,), of the RL
            loss alone.
        """
        self.network.head.redraw(noise.head)
        if noise.target_head is not None:
            self.target_network.head.redraw(noise.target_head)
        loss, priorities, metrics = self.rl_loss(batch, noise)
        objective = self.objective
        if objective is not None:
            objective_loss, more = objective.loss(self.encoder, batch, noise.objective)
            loss = loss + self.objective_weight * objective_loss
            metrics |= more
            if objective.targets_move == "before_step":
                objective.update_targets()
        metrics |= self.optimizer.minimise(loss)
        if objective is not None and objective.targets_move == "after_step":
            objective.update_targets()
        if copy_target:
            self.copy_target()
        return metrics, priorities

    def copy_target(self) -> None:
        """Make the target network equal to the online one, its noise included."""
        self._target.update()

    def rl_loss(self, batch: Batch, noise: UpdateNoise) -> tuple[Tensor, Tensor, Metrics]:
        """Loss weighted by importance, 0-d; new priorities (B,); metrics.

        Without RL there is nothing to learn, and all steps stay equally likely.
        """
        if not self.settings.rl:
            weights = batch.importance_weights
            return weights.new_zeros(()), torch.ones_like(weights), {}
        draws = self.settings.num_q_augmentations
        outputs = self._outputs(self.network, batch.obs.select(0), noise.obs, draws)
        target = self._regression_target(batch, noise)
        losses, priorities = self.values.loss(outputs, batch.action[0], target)  # (M, B)
        loss = (batch.importance_weights * losses.mean(dim=0)).mean()
        metrics = {
            "loss/rl": loss.detach(),
            "rl/q": self.values.q_values(outputs.detach()).amax(dim=-1).mean(),
            "rl/priority": priorities.mean(),
        }
        return loss, priorities.mean(dim=0), metrics

    @torch.no_grad()
    def _regression_target(self, batch: Batch, noise: UpdateNoise) -> Tensor:
        """Regression target (B, N), the mean over the V draws of the n-step observation."""
        draws, stacks = self.settings.num_target_augmentations, batch.n_step_obs
        bootstrap = self._outputs(self.target_network, stacks, noise.n_step_obs, draws)
        chooser = bootstrap
        if self.settings.double_q:
            seen = noise.n_step_obs if noise.selection is None else noise.selection
            chooser = self._outputs(self.network, stacks, seen, draws)
        action = self.values.q_values(chooser).argmax(dim=-1)  # (V, B)
        returns = batch.n_step_return.expand_as(action).flatten()
        discounts = batch.bootstrap_discount.expand_as(action).flatten()
        targets = self.values.target(bootstrap.flatten(0, 1), action.flatten(), returns, discounts)
        return targets.unflatten(0, action.shape).mean(dim=0)

    def _outputs(
        self, network: QNetwork, stacks: FrameStacks, noise: AugmentationNoise, draws: int
    ) -> Tensor:
        """Head outputs (draws, B, A, N) of as many augmentations of the stacks (B,)."""
        images = self.augmentation(stacks.repeated(draws), noise)
        return network(images, noisy=True).unflatten(0, (draws, -1))

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
