"""What a configured run will cost: hours, memory, disk; nothing of it is started."""

from __future__ import annotations

from functools import cache

import torch

from .build import build_agent
from .cost import update_flops
from .environment import COLOURS, EPISODE_LENGTH
from .machine import matmul_rate
from .protocol import plan
from .run.sweep import Estimate
from .settings import AgentSettings, Config

STEP_SECONDS = 0.02  # an agent step with a software renderer; a GPU draws several times as fast
_ACTION_DIM = 6  # of the benchmark's largest; it hardly matters here
_PROCESS = 0.7e9  # bytes: Python, PyTorch and MuJoCo before anything is allocated
_GRAPH = 3  # tensors kept of each convolution's output: itself, before the ReLU, its gradient
_COPIES = 5  # of each parameter in memory: itself, its gradient, two moments, a momentum copy
_SAVED = 4  # of them in a checkpoint


def estimate(cfg: Config, step_seconds: float | None = None) -> Estimate:
    """Cost of the whole run on the device that it would use.

    Args:
        cfg: a checked configuration.
        step_seconds: an agent step of the simulator, with its picture; None: a usual one.
    """
    step_seconds = step_seconds or STEP_SECONDS
    numbers = plan(cfg)
    device = torch.device("cuda" if _uses_gpu(cfg) else "cpu")
    episodes = cfg.evaluation.episodes * len(numbers.evaluations) + cfg.evaluation.final_episodes
    steps = numbers.agent_steps + episodes * EPISODE_LENGTH / cfg.environment.action_repeat
    rate = _rate(device.type)
    count, flops = agent_cost(cfg)
    updates, parameters = numbers.updates * flops / rate, 4.0 * count
    replay = (numbers.capacity + 1) * COLOURS * cfg.environment.image_size**2
    return Estimate(
        hours=(updates + steps * step_seconds) / 3600,
        memory=_PROCESS + replay + _COPIES * parameters + _activations(cfg),
        disk=replay + (cfg.checkpoint.keep + 1) * _SAVED * parameters + 2e7,
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
        obs_shape=(COLOURS * stack, image_size, image_size),
        action_dim=_ACTION_DIM,
        device=torch.device("cpu"),
        seed=0,
    )
    return built.num_parameters, update_flops(built)


def _activations(cfg: Config) -> float:
    """Bytes of what the largest backward pass keeps."""
    agent, side, per_image = cfg.agent, cfg.agent.crop_size, 0.0
    for stride in agent.conv_strides:
        side = (side - 3) // stride + 1
        per_image += 4.0 * side * side * agent.num_filters * _GRAPH
    images = agent.batch_size
    if agent.objective is not None:
        together = getattr(agent, "sequences_at_once", getattr(agent, "sequence_batch_size", 0))
        images = max(images, together * getattr(agent, "sequence_length", 1))
    return images * per_image
