"""What a configured run costs: operations, hours, memory and disk; nothing of it is started.

An update's operations and the bytes on disk are counted. Hours are those of a matrix product of as
many operations, and memory is twice what a backward pass keeps: both within a factor of two.
"""

import math
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
from .errors import ConfigError
from .rainbow import Rainbow
from .run.doctor import memory
from .run.seeding import Streams
from .run.sweep import GIGA, Estimate
from .settings import AgentSettings, Config

_STEP_SECONDS = 0.0008  # an agent step of the emulator: four frames and the resized picture
_ACTIONS = 18  # the largest set; it hardly matters here
_GAME_STEPS = 2000  # agent steps of an evaluation's game, about
_PROCESS = 0.6e9  # bytes: Python, PyTorch and the emulator before anything is allocated
_RECORDS = 2e7  # bytes of tables, TensorBoard and log

_rate = cache(matmul_rate)


def estimate(cfg: Config, step_seconds: float | None = None) -> Estimate:
    """Cost of the whole run on the device that it would use.

    Args: `step_seconds`: an agent step with its picture; None: a usual one.
    """
    workload, seconds = cfg.workload, step_seconds or _STEP_SECONDS
    device = torch.device("cuda" if cfg.uses_gpu else "cpu")
    games = cfg.evaluation.episodes * len(workload.evaluations) + cfg.evaluation.final_episodes
    steps = workload.agent_steps + games * min(_GAME_STEPS, workload.agent_steps)
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
    images = 4.0 * cfg.agent.batch_size * cfg.agent.sequence_length * cfg.environment.frame_stack
    images *= cfg.environment.image_size**2
    _require(cfg, sum(_lasting_bytes(cfg)) + images, memory(cfg.uses_gpu)[1])


def _require(cfg: Config, needed: float, total: float) -> None:
    if needed > total:
        text = f"needs {needed / GIGA:,.0f} GB of {total / GIGA:,.0f} GB of memory"
        raise ConfigError(f"agent={cfg.agent.name}: {text}; use a smaller batch, network or replay")


def _lasting_bytes(cfg: Config) -> tuple[float, float]:
    """Of the replay, and of the agent's weights and moments."""
    return cfg.workload.capacity * cfg.environment.image_size**2, _state_bytes(*_agent(cfg))


def _agent(cfg: Config) -> tuple[AgentSettings, int, int, str]:
    """What an agent's sizes follow from, which many runs of a sweep share."""
    return cfg.agent, cfg.environment.frame_stack, cfg.environment.image_size, cfg.precision


def _built(device: str, agent: AgentSettings, stack: int, side: int, precision: str) -> Rainbow:
    shape: Any = {"obs_shape": (stack, side, side), "num_actions": _ACTIONS}
    return build_agent(agent, **shape, device=torch.device(device), seed=0, precision=precision)


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


def update_cost(agent: Rainbow) -> tuple[float, float]:
    """Operations of an update, and the bytes that its backward pass needs.

    Matrix products, convolutions and attention are counted, in a dry run whose tensors have shapes
    but no numbers: it takes a second at any size, and changes nothing.
    """
    saved: dict[int, int] = {}  # bytes by storage

    def keep(tensor: Tensor) -> Tensor:
        storage, owner = tensor.untyped_storage(), tensor if tensor._base is None else tensor._base
        if not (owner.is_leaf and owner.requires_grad):  # a weight is there anyway
            saved[storage._cdata] = storage.nbytes()
        return tensor

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    eager = torch.compiler.set_stance("force_eager")  # compiled code cannot be counted
    with eager, fake, saved_tensors_hooks(keep, lambda tensor: tensor):
        slots = torch.zeros(agent.settings.batch_size, dtype=torch.int64, device=agent.device)
        exponent = torch.ones((), device=agent.device)
        batch = replay_for(agent, capacity=10_000).gather(slots, exponent)
        # Not sent there: what holds no numbers cannot be pinned.
        there = partial(torch.empty_like, device=agent.device)
        noise = map_tensors(there, agent.draw_noise(Streams(0)))
        with FlopCounterMode(display=False) as counter:
            loss = agent.rl_loss(batch, noise)[0]
            if agent.objective is not None:
                own, _ = agent.objective.loss(agent.encoder, batch, noise.objective)
                loss = loss + agent.objective_weight * own
            torch.autograd.grad(loss, agent.optimizer.parameters, allow_unused=True)
    return float(counter.get_total_flops()), sum(saved.values())
