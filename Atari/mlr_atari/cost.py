"""What an update costs in arithmetic, from which the hours of a run follow."""

from __future__ import annotations

from torch import nn

from .rainbow import Rainbow

_TOKENS = 2  # per image, in a decoder: a state and an action


def update_flops(agent: Rainbow) -> float:
    """Floating-point operations of an update, about: encoder and the objective's linear maps.

    Backward costs twice the forward pass. The RL loss encodes its batch once with gradient and
    twice without; an objective encodes each image of its sequences online, with gradient, and by
    its momentum copy.
    """
    batch, flops = agent.settings.batch_size, _encoder_flops(agent)
    passes, own = 5.0 * batch, 0.0
    if agent.objective is not None:
        images = batch * agent.settings.sequence_length
        passes += 4.0 * images
        trained = (each for each in agent.objective.parameters() if each.requires_grad)
        own = 3.0 * images * _TOKENS * sum(2.0 * each.numel() for each in trained)
    return passes * flops + own


def _encoder_flops(agent: Rainbow) -> float:
    """Operations of one image through the encoder, forward."""
    side, flops = agent.augmentation.image_size, 0.0
    for each in agent.network.encoder.modules():
        if isinstance(each, nn.Conv2d):
            padding, kernel, stride = int(each.padding[0]), each.kernel_size[0], each.stride[0]
            side = (side + 2 * padding - kernel) // stride + 1
            flops += 2.0 * side * side * each.weight.numel()
    return flops
