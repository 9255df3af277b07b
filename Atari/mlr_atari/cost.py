"""What an update costs in arithmetic, from which the hours of a run follow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from .batch import Batch
from .device import to_device
from .frames import FrameStacks
from .rainbow import Rainbow
from .run.seeding import Streams


def update_flops(agent: Rainbow) -> float:
    """Floating-point operations of an update: matrix products, convolutions and attention.

    They are counted in a dry run, in which tensors have shapes but no numbers: it takes a second
    at any size, and changes nothing. Adam and element-wise work are not counted.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch = _batch(agent)
        noise = to_device(agent.draw_noise(Streams(0)), agent.device)
        with FlopCounterMode(display=False) as counter:
            loss = agent.rl_loss(batch, noise)[0]
            if agent.objective is not None:
                own, _ = agent.objective.loss(agent.encoder, batch, noise.objective)
                loss = loss + agent.objective_weight * own
            torch.autograd.grad(loss, agent.optimizer.parameters, allow_unused=True)
    return float(counter.get_total_flops())


def _batch(agent: Rainbow) -> Batch:
    """A batch in the shapes that the agent wants."""
    device, side = agent.device, agent.augmentation.image_size
    depth = agent.network.encoder.convs[0].get_parameter("weight").shape[1]
    size, length = agent.settings.batch_size, agent.settings.sequence_length
    frames = torch.zeros((depth, 1, side, side), dtype=torch.uint8, device=device)

    def stacks(*lead: int) -> FrameStacks:
        return FrameStacks(frames, torch.zeros((*lead, depth), dtype=torch.int64, device=device))

    def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return Batch(
        obs=stacks(length, size),
        n_step_obs=stacks(size),
        action=numbers(length, size, dtype=torch.int64),
        n_step_return=numbers(size),
        bootstrap_discount=numbers(size),
        ends=numbers(length, size, dtype=torch.bool),
        importance_weights=numbers(size),
    )
