"""The parts of a run, put together from its checked config."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from omegaconf import DictConfig
from torch import Tensor

from .batch import Batch
from .build import build_agent, settings_from
from .environment import COLOURS, EnvironmentSettings, PixelControlEnv
from .protocol import Plan, plan
from .replay import UniformReplay
from .run.guard import NonFiniteGuard
from .run.workers import EvaluationEnvs
from .sac import SAC
from .seeds import episode_seed


@dataclass(frozen=True)
class Parts:
    """What a run is made of; evaluation has environments of its own."""

    plan: Plan
    env: PixelControlEnv
    evaluation_envs: EvaluationEnvs
    agent: SAC
    replay: UniformReplay

    @property
    def num_windows(self) -> int:
        """Sequences that the agent's objective wants of each draw; 0 without one."""
        objective = self.agent.objective
        return 0 if objective is None else objective.sequence_batch_size

    def indices(self, batch: Batch) -> dict[str, Tensor]:
        """What was drawn, by name, for the report of a non-finite update."""
        windows = {} if batch.sequence is None else {"windows": batch.sequence.indices}
        return {"transitions": batch.indices, **windows}

    def guard(self) -> NonFiniteGuard:
        """Watches the losses and gradient norms that the agent reports."""
        names, device = self.agent.metric_names, self.agent.device
        indices = {"transitions": torch.zeros(self.agent.settings.batch_size, dtype=torch.int64)}
        if self.num_windows:
            indices["windows"] = torch.zeros(self.num_windows, dtype=torch.int64)
        return NonFiniteGuard(
            [name for name in names if name.startswith("loss/")],
            [name for name in names if name.startswith("gradient_norm/")],
            {name: each.to(device) for name, each in indices.items()},
            device,
        )

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        """Free the simulators and end the workers."""
        self.env.close()
        self.evaluation_envs.close()


def build_parts(cfg: DictConfig, device: torch.device) -> Parts:
    """Everything with its initial state, which the seed fixes.

    Raises:
        ConfigError: settings that do not fit each other.
    """
    settings = settings_from(EnvironmentSettings, cfg.environment)
    env = PixelControlEnv(cfg.task.name, settings, partial(episode_seed, cfg.seed, "train"))
    _, height, width = env.obs_shape
    agent = build_agent(
        cfg.agent,
        obs_shape=env.obs_shape,
        action_dim=env.action_dim,
        device=device,
        seed=cfg.seed,
        precision=cfg.precision,
    )
    numbers, objective = plan(cfg), agent.objective
    length = objective.sequence_length if objective and objective.sequence_batch_size else None
    replay = UniformReplay(
        numbers.capacity,
        frame_shape=(COLOURS, height, width),
        action_dim=env.action_dim,
        frame_stack=settings.frame_stack,
        sequence_length=length,
        device=device,
    )
    evaluation_envs = EvaluationEnvs(
        cfg.task.name, settings, cfg.evaluation.episodes, cfg.evaluation.processes
    )
    return Parts(numbers, env, evaluation_envs, agent, replay)
