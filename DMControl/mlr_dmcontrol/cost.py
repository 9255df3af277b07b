"""What a configured run costs: operations, hours, memory and disk; nothing of it is started.

An update's operations and the bytes on disk are counted. Hours are those of a matrix product of as
many operations, and memory is twice what a backward pass keeps: both within a factor of two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .batch import Batch, SequenceBatch
from .build import build_agent
from .device import matmul_rate, to_device
from .environment import COLOURS
from .errors import ConfigError
from .frames import FrameStacks
from .protocol import plan
from .run.doctor import memory
from .run.seeding import Streams
from .run.sweep import GIGA, Estimate
from .sac import SAC
from .settings import AgentSettings, Config

_STEP_SECONDS = 0.02  # an agent step with a software renderer; a GPU draws several times as fast
_ACTIONS = 6  # of the benchmark's largest task; it hardly matters here
_PROCESS = 0.7e9  # bytes: Python, PyTorch and MuJoCo before anything is allocated
_RECORDS = 2e7  # bytes of tables, TensorBoard and log

_Sizes = tuple[int, int, str]  # frames of a stack, their side in pixels, precision

_rate = cache(matmul_rate)


def estimate(cfg: Config, step_seconds: float | None = None) -> Estimate:
    """Cost of the whole run on the device that it would use.

    Args: `step_seconds`: an agent step with its picture; None: a usual one.
    """
    numbers, settings, seconds = plan(cfg), cfg.environment, step_seconds or _STEP_SECONDS
    device, side = torch.device("cuda" if cfg.uses_gpu else "cpu"), settings.image_size
    episodes = cfg.evaluation.episodes * len(numbers.evaluations) + cfg.evaluation.final_episodes
    steps = numbers.agent_steps + episodes * settings.max_steps / settings.action_repeat
    flops, kept, state = _agent_cost(cfg.agent, (settings.frame_stack, side, cfg.precision))
    rate, replay = _rate(device), (numbers.capacity + 1) * COLOURS * side**2
    return Estimate(
        hours=(numbers.updates * flops / rate + steps * seconds) / 3600,
        memory=_PROCESS + replay + 4 / 3 * state + 2 * kept,  # and gradients of both
        disk=replay + (cfg.checkpoint.keep + 1) * state + _RECORDS,
        basis=f"{rate / 1e9:,.0f} billion operations a second on the {device} (a matrix product) "
        f"and {1000 * seconds:.1f} ms a step",
    )


def check_memory(cfg: Config) -> None:
    """Before any is taken. Raises: ConfigError: there is less memory than a run must hold."""
    stack, side = cfg.environment.frame_stack, cfg.environment.image_size
    images = 4.0 * cfg.agent.batch_size * stack * COLOURS * cfg.agent.crop_size**2
    replay = (plan(cfg).capacity + 1) * COLOURS * side**2
    state = _state_bytes(cfg.agent, (stack, side, cfg.precision))
    _require(cfg.agent, state + images + replay, memory(cfg.uses_gpu)[1])


@cache
def _agent_cost(agent: AgentSettings, sizes: _Sizes) -> tuple[float, float, float]:
    """Of such an agent: `update_cost`, and the bytes of its weights and moments."""
    state = _state_bytes(agent, sizes)
    _require(agent, state, memory(of_gpu=False)[1])
    return *update_cost(_built(agent, sizes)), state


def _built(agent: AgentSettings, sizes: _Sizes, device: str = "cpu") -> SAC:
    stack, side, precision = sizes
    shape: Any = {"obs_shape": (COLOURS * stack, side, side), "action_dim": _ACTIONS}
    return build_agent(agent, **shape, device=device, seed=0, precision=precision)


def _state_bytes(agent: AgentSettings, sizes: _Sizes) -> float:
    """Bytes of an agent's weights and moments; it is built without any numbers."""
    try:
        with torch.device("meta"):
            built = _built(agent, sizes, "meta")
    except RuntimeError:  # a size beyond what any tensor can have
        return math.inf
    state = [leaf for leaf in tree_leaves(built.state_dict()) if isinstance(leaf, Tensor)]
    return float(sum(tensor.nbytes for tensor in state))


def _require(agent: AgentSettings, needed: float, total: float) -> None:
    if needed > total:
        text = f"needs {needed / GIGA:,.0f} GB of {total / GIGA:,.0f} GB of memory"
        raise ConfigError(f"agent={agent.name}: {text}; use a smaller batch, network or replay")


def update_cost(agent: SAC) -> tuple[float, float]:
    """Operations of a mean update, and bytes that the largest of its backward passes needs.

    Matrix products, convolutions and attention are counted, in a dry run whose tensors have shapes
    but no numbers: it takes a second at any size, and changes nothing.
    """
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
    with fake, saved_tensors_hooks(keep, lambda tensor: tensor):
        batch = _batch(agent)
        noise = to_device(agent.draw_noise(Streams(0)), agent.device)
        with FlopCounterMode(display=False) as always:
            if agent.settings.rl:
                loss, _ = agent.critic_terms(batch, noise)
                differentiate(loss, agent.critic_optimizer.parameters)
            if agent.objective is not None and agent.objective_optimizer is not None:
                for _, piece, own in agent.objective.pieces(batch, noise.objective):
                    loss, _ = agent.objective.loss(agent.encoder, piece, own)
                    differentiate(loss, agent.objective_optimizer.parameters)
        with FlopCounterMode(display=False) as sometimes:
            if agent.settings.rl:
                loss = agent.actor_terms(batch, noise)[0]
                differentiate(loss, agent.actor_optimizer.parameters)
    share = 1 / agent.settings.actor_update_every
    return always.get_total_flops() + share * sometimes.get_total_flops(), max(kept)


def _batch(agent: SAC) -> Batch:
    """A batch in the shapes that the agent wants."""
    device, side = agent.device, agent.augmentation.image_size
    depth, actions = agent.networks.encoder.channels // COLOURS, agent.networks.action_dim
    frames = torch.zeros((depth, COLOURS, side, side), dtype=torch.uint8, device=device)

    def stacks(*lead: int) -> FrameStacks:
        return FrameStacks(frames, torch.zeros((*lead, depth), dtype=torch.int64, device=device))

    def numbers(*shape: int) -> Tensor:
        return torch.zeros(shape, device=device)

    size, objective, sequence = agent.settings.batch_size, agent.objective, None
    if objective is not None and objective.sequence_batch_size:
        lead = objective.sequence_length, objective.sequence_batch_size
        sequence = SequenceBatch(stacks(*lead), numbers(*lead, actions), numbers(*lead))
    values = numbers(size, actions), numbers(size), numbers(size)
    return Batch(stacks(size), stacks(size), *values, sequence)
