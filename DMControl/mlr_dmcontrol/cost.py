"""What a configured run costs: operations, hours, memory and disk; nothing of it is started.

An update's operations and the bytes on disk are counted. Hours are those of a matrix product of as
many operations, and memory is twice what a backward pass keeps: both within a factor of two.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .build import build_agent, replay_for
from .device import map_tensors, matmul_rate
from .environment import COLOURS
from .errors import ConfigError
from .run.doctor import memory
from .run.seeding import Streams
from .run.sweep import GIGA, Estimate
from .sac import SAC
from .settings import AgentSettings, Config

_STEP_SECONDS = 0.02  # an agent step with a software renderer; a GPU draws several times as fast
_ACTIONS = 6  # of the benchmark's largest task; it hardly matters here
_PROCESS = 0.7e9  # bytes: Python, PyTorch and MuJoCo before anything is allocated
_RECORDS = 2e7  # bytes of tables, TensorBoard and log

_rate = cache(matmul_rate)


def estimate(cfg: Config, step_seconds: float | None = None) -> Estimate:
    """Cost of the whole run on the device that it would use.

    Args: `step_seconds`: an agent step with its picture; None: a usual one.
    """
    workload, settings, seconds = cfg.workload, cfg.environment, step_seconds or _STEP_SECONDS
    device = torch.device("cuda" if cfg.uses_gpu else "cpu")
    episodes = cfg.evaluation.episodes * len(workload.evaluations) + cfg.evaluation.final_episodes
    steps = workload.agent_steps + episodes * settings.max_steps / settings.action_repeat
    replay, state = _lasting_bytes(cfg)
    _require(cfg, state, memory(of_gpu=False)[1])  # where weights are drawn
    rate, (flops, kept) = _rate(device), _update_cost(*_agent(cfg))
    return Estimate(
        hours=(workload.updates * flops / rate + steps * seconds) / 3600,
        memory=_PROCESS + replay + 4 / 3 * state + 2 * kept,  # and gradients of both
        disk=replay + (cfg.checkpoint.keep + 1) * state + _RECORDS,
        basis=f"{rate / 1e9:,.0f} billion operations a second on the {device} (a matrix product) "
        f"and {1000 * seconds:.1f} ms a step",
    )


def check_memory(cfg: Config) -> None:
    """Before any is taken. Raises: ConfigError: there is less memory than a run must hold."""
    agent = cfg.agent
    steps, windows = (getattr(agent, f"sequence_{key}", 0) for key in ("length", "batch_size"))
    windows = min(windows, getattr(agent, "sequences_at_once", windows) or 0)  # null: a few
    images = 4.0 * max(agent.batch_size, windows * (steps - 1)) * cfg.environment.frame_stack
    images *= COLOURS * agent.crop_size**2
    _require(cfg, sum(_lasting_bytes(cfg)) + images, memory(cfg.uses_gpu)[1])


def _require(cfg: Config, needed: float, total: float) -> None:
    if needed > total:
        text = f"needs {needed / GIGA:,.0f} GB of {total / GIGA:,.0f} GB of memory"
        raise ConfigError(f"agent={cfg.agent.name}: {text}; use a smaller batch, network or replay")


def _lasting_bytes(cfg: Config) -> tuple[float, float]:
    """Of the replay, and of the agent's weights and moments."""
    replay = (cfg.workload.capacity + 1) * COLOURS * cfg.environment.image_size**2
    return replay, _state_bytes(*_agent(cfg))


def _agent(cfg: Config) -> tuple[AgentSettings, int, int, str]:
    """What an agent's sizes follow from, which many runs of a sweep share."""
    agent: Any = cfg.agent
    if cfg.uses_gpu and getattr(agent, "sequences_at_once", 0) is None:  # which it holds all
        agent = replace(agent, sequences_at_once=agent.sequence_batch_size)
    return agent, cfg.environment.frame_stack, cfg.environment.image_size, cfg.precision


def _built(device: str, agent: AgentSettings, stack: int, side: int, precision: str) -> SAC:
    shape: Any = {"obs_shape": (COLOURS * stack, side, side), "action_dim": _ACTIONS}
    return build_agent(agent, **shape, device=device, seed=0, precision=precision)


@cache
def _state_bytes(*agent: Any) -> float:
    try:
        with torch.device("meta"):  # without any numbers
            state = tree_leaves(_built("meta", *agent).state_dict())
    except RuntimeError:  # a size beyond what any tensor can have
        return math.inf
    return float(sum(leaf.nbytes for leaf in state if isinstance(leaf, Tensor)))


@cache
def _update_cost(*agent: Any) -> tuple[float, float]:
    return update_cost(_built("cpu", *agent))


def update_cost(agent: SAC) -> tuple[float, float]:
    """Operations of a mean update, and bytes that the largest of its backward passes needs.

    Matrix products, convolutions and attention are counted, in a dry run whose tensors have shapes
    but no numbers: it takes a second at any size, and changes nothing.
    """
    settings, objective = agent.settings, agent.objective
    saved: dict[int, int] = {}  # bytes by storage, of the loss at hand
    kept = [0]  # their sum, of each loss

    def keep(tensor: Tensor) -> Tensor:
        storage, owner = tensor.untyped_storage(), tensor if tensor._base is None else tensor._base
        if not (owner.is_leaf and owner.requires_grad):  # a weight is there anyway
            saved[storage._cdata] = storage.nbytes()
        return tensor

    def differentiate(loss: Tensor, parameters: Sequence[Tensor]) -> None:
        kept.append(sum(saved.values()))
        saved.clear()
        torch.autograd.grad(loss, list(parameters), allow_unused=True)

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    eager = torch.compiler.set_stance("force_eager")  # compiled code cannot be counted
    with eager, fake, saved_tensors_hooks(keep, lambda tensor: tensor):
        size = objective.sequence_batch_size if objective is not None else 0
        windows = torch.zeros(size, dtype=torch.int64) if size else None
        transitions = torch.zeros(settings.batch_size, dtype=torch.int64)
        batch = replay_for(agent, capacity=1).gather(transitions, windows)
        # Not sent there: what holds no numbers cannot be pinned.
        there = partial(torch.empty_like, device=agent.device)
        noise = map_tensors(there, agent.draw_noise(Streams(0)))
        with FlopCounterMode(display=False) as always:
            if settings.rl:
                loss, _ = agent.critic_terms(batch, noise)
                differentiate(loss, agent.critic_optimizer.parameters)
            if objective is not None and agent.objective_optimizer is not None:
                for _, piece, own in objective.pieces(batch, noise.objective):
                    loss, _ = objective.loss(agent.encoder, piece, own)
                    differentiate(loss, agent.objective_optimizer.parameters)
        with FlopCounterMode(display=False) as sometimes:
            if settings.rl:
                loss = agent.actor_terms(batch, noise)[0]
                differentiate(loss, agent.actor_optimizer.parameters)
    share = 1 / settings.actor_update_every
    return always.get_total_flops() + share * sometimes.get_total_flops(), max(kept)
