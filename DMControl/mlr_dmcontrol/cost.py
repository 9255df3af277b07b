"""What an update costs in arithmetic, from which hours and shares of a machine's limit follow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from .batch import Batch, SequenceBatch
from .device import to_device
from .environment import COLOURS
from .frames import FrameStacks
from .run.seeding import Streams
from .sac import SAC


def update_flops(agent: SAC) -> float:
    """Floating-point operations of a mean update: matrix products, convolutions and attention.

    They are counted in a dry run, in which tensors have shapes but no numbers: it takes a second
    at any size, and changes nothing. Optimisers and element-wise work are not counted.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch = _batch(agent)
        noise = to_device(agent.draw_noise(Streams(0)), agent.device)
        with FlopCounterMode(display=False) as always:
            if agent.settings.rl:
                loss, _ = agent.critic_terms(batch, noise)
                _differentiate(loss, agent.critic_optimizer.parameters)
            if agent.objective is not None and agent.objective_optimizer is not None:
                for _, piece, own in agent.objective.pieces(batch, noise.objective):
                    loss, _ = agent.objective.loss(agent.encoder, piece, own)
                    _differentiate(loss, agent.objective_optimizer.parameters)
        with FlopCounterMode(display=False) as sometimes:
            if agent.settings.rl:
                loss = agent.actor_terms(batch, noise)[0]
                _differentiate(loss, agent.actor_optimizer.parameters)
    interval = agent.settings.actor_update_every
    return float(always.get_total_flops() + sometimes.get_total_flops() / interval)


def _differentiate(loss: Tensor, parameters: Sequence[Tensor]) -> None:
    """As `Optimizer.accumulate`, but no gradient is kept."""
    torch.autograd.grad(loss, list(parameters), allow_unused=True)


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
