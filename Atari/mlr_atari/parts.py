"""The parts of a run, put together from its checked config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .build import build_agent
from .environment import GameEnv, make_environment
from .machine import hardware
from .protocol import Plan, plan
from .rainbow import Rainbow
from .replay import SequenceReplay
from .run.evaluation import EvaluationEnvs
from .run.seeding import episode_seed
from .settings import Config


@dataclass(frozen=True)
class Parts:
    """What a run is made of; evaluation has games of its own."""

    plan: Plan
    env: GameEnv
    evaluation_envs: EvaluationEnvs
    agent: Rainbow
    replay: SequenceReplay

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
            "actions": env.num_actions,
            "parameters": agent.num_parameters,
            "replay": f"{self.replay.nbytes / 1e6:,.0f} MB for {plan.capacity:,} transitions",
            "device": str(agent.device),
            "precision": cfg.precision,
            "hardware": hardware(agent.device),
        }

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers and close the games."""
        self.env.close()
        self.evaluation_envs.close()


def build_parts(cfg: Config, device: torch.device) -> Parts:
    """Everything with its initial state, which the seed fixes.

    Raises:
        ConfigError: settings that do not fit each other, missing ROM or emulator.
    """
    settings = cfg.environment
    env = make_environment(
        cfg.game.name,
        settings,
        training=True,
        seed=cfg.seed,
        episode_seed=partial(episode_seed, cfg.seed, "train"),
    )
    stack, height, width = env.obs_shape
    agent = agent_for(cfg, env, device)
    numbers = plan(cfg)
    replay = SequenceReplay(
        numbers.capacity,
        cfg.agent,
        frame_stack=stack,
        frame_shape=(1, height, width),
        device=device,
    )
    evaluation = cfg.evaluation
    places = max(evaluation.episodes, evaluation.final_episodes)
    evaluation_envs = EvaluationEnvs(evaluation_factory(cfg), places, evaluation.processes)
    return Parts(numbers, env, evaluation_envs, agent, replay)


def evaluation_factory(cfg: Config) -> Callable[[], GameEnv]:
    """Makes environments of the run's game to evaluate in: whole games, raw rewards.

    It can be sent to processes.
    """
    settings = cfg.environment
    return partial(make_environment, cfg.game.name, settings, training=False, seed=cfg.seed)


def agent_for(cfg: Config, env: GameEnv, device: torch.device) -> Rainbow:
    """The run's agent, with its initial weights.

    Raises:
        ConfigError: settings that do not fit each other or the observations.
    """
    return build_agent(
        cfg.agent,
        obs_shape=env.obs_shape,
        num_actions=env.num_actions,
        device=device,
        seed=cfg.seed,
        precision=cfg.precision,
    )
