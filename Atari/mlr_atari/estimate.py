"""What a configured run will cost: hours, memory, disk; nothing of it is started."""

from __future__ import annotations

from functools import cache

import torch

from .build import build_agent
from .cost import update_flops
from .machine import matmul_rate
from .protocol import plan
from .run.sweep import Estimate
from .settings import AgentSettings, Config

STEP_SECONDS = 0.0008  # an agent step of the emulator: four frames and the resized picture
_ACTIONS = 18  # the largest set; it hardly matters here
_GAME_STEPS = 2000  # agent steps of an evaluation's game, about
_PROCESS = 0.6e9  # bytes: Python, PyTorch and the emulator before anything is allocated
_GRAPH = 3  # tensors kept of each image's activations: outputs, before the ReLU, gradients
_IMAGE = 4.0 * 31_000  # bytes of one image's activations in the published encoder, forward
_COPIES = 5  # of each parameter in memory: itself, its gradient, two moments, a target
_SAVED = 4  # of them in a checkpoint


def estimate(cfg: Config, step_seconds: float | None = None) -> Estimate:
    """Cost of the whole run on the device that it would use.

    Args:
        cfg: a checked configuration.
        step_seconds: an agent step of the emulator, with its picture; None: a usual one.
    """
    step_seconds = step_seconds or STEP_SECONDS
    numbers, environment = plan(cfg), cfg.environment
    device = torch.device("cuda" if _uses_gpu(cfg) else "cpu")
    games = cfg.evaluation.episodes * len(numbers.evaluations) + cfg.evaluation.final_episodes
    steps = numbers.agent_steps + games * min(_GAME_STEPS, numbers.agent_steps)
    rate = _rate(device.type)
    parameters, flops = agent_cost(cfg)
    replay = float(numbers.capacity * environment.image_size**2)
    images = cfg.agent.batch_size * cfg.agent.sequence_length
    return Estimate(
        hours=(numbers.updates * flops / rate + steps * step_seconds) / 3600,
        memory=_PROCESS + replay + 4.0 * _COPIES * parameters + images * _IMAGE * _GRAPH,
        disk=replay + (cfg.checkpoint.keep + 1) * 4.0 * _SAVED * parameters + 2e7,
        basis=f"{rate / 1e9:,.0f} billion operations a second on the {device.type} (a matrix "
        f"product) and {1000 * step_seconds:.1f} ms a step",
    )


def agent_cost(cfg: Config) -> tuple[int, float]:
    """Trained parameters of the configured agent, and operations of one of its updates."""
    environment = cfg.environment
    return _agent_cost(cfg.agent, environment.frame_stack, environment.image_size)


def _uses_gpu(cfg: Config) -> bool:
    return cfg.device != "cpu" and torch.cuda.is_available()


@cache
def _rate(device: str) -> float:
    return matmul_rate(torch.device(device))


@cache
def _agent_cost(agent: AgentSettings, stack: int, image_size: int) -> tuple[int, float]:
    built = build_agent(
        agent,
        obs_shape=(stack, image_size, image_size),
        num_actions=_ACTIONS,
        device=torch.device("cpu"),
        seed=0,
    )
    return built.num_parameters, update_flops(built)
