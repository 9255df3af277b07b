"""The parts of a run, put together from its checked config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .build import build_agent
from .environment import COLOURS, PixelControlEnv
from .machine import hardware
from .protocol import Plan, plan
from .replay import UniformReplay
from .run.evaluation import EvaluationEnvs
from .run.seeding import episode_seed
from .sac import SAC
from .settings import Config


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

    def facts(self, cfg: Config) -> dict[str, Any]:
        """What `run.json` and the banner say of a run beside its status, versions and times."""
        plan, env, agent = self.plan, self.env, self.agent
        return {
            "method": cfg.agent.name,
            **env.identity(),
            "seed": cfg.seed,
            "preset": cfg.preset,
            "budget": cfg.budget,
            "agent_steps": plan.agent_steps,
            "env_steps": plan.env_steps,
            "updates": plan.updates,
            "evaluations": len(plan.evaluations),
            "observation": env.obs_shape,
            "actions": env.action_dim,
            "parameters": agent.num_parameters,
            "replay": f"{self.replay.nbytes / 1e6:,.0f} MB for {plan.capacity:,} transitions",
            "device": str(agent.device),
            "precision": cfg.precision,
            "hardware": hardware(agent.device),
        }

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        """Free the simulators and end the workers."""
        self.env.close()
        self.evaluation_envs.close()


def build_parts(cfg: Config, device: torch.device) -> Parts:
    """Everything with its initial state, which the seed fixes.

    Raises:
        ConfigError: settings that do not fit each other.
    """
    settings = cfg.environment
    env = PixelControlEnv(cfg.task.name, settings, partial(episode_seed, cfg.seed, "train"))
    _, height, width = env.obs_shape
    agent = agent_for(cfg, env, device)
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
    evaluation = cfg.evaluation
    evaluation_envs = EvaluationEnvs(
        evaluation_factory(cfg), evaluation.episodes, evaluation.processes, full_batches=True
    )
    return Parts(numbers, env, evaluation_envs, agent, replay)


def evaluation_factory(cfg: Config) -> Callable[[], PixelControlEnv]:
    """Makes environments of the run's task to evaluate in; can be sent to processes."""
    settings = cfg.environment
    return partial(PixelControlEnv, cfg.task.name, settings)


def agent_for(cfg: Config, env: PixelControlEnv, device: torch.device) -> SAC:
    """The run's agent, with its initial weights.

    Raises:
        ConfigError: settings that do not fit each other or the observations.
    """
    return build_agent(
        cfg.agent,
        obs_shape=env.obs_shape,
        action_dim=env.action_dim,
        device=device,
        seed=cfg.seed,
        precision=cfg.precision,
    )
