"""What an update costs in arithmetic, from which hours and shares of a machine's limit follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KERNEL = 9  # weights of a 3x3 filter


def encoder_flops(agent: Mapping[str, Any], channels: int) -> float:
    """Floating-point operations of one image through the encoder, forward.

    Args: `agent`: section `agent` of the config. `channels`: of a stacked observation.
    """
    side, flops, incoming = agent["crop_size"], 0.0, channels
    for stride in agent["conv_strides"]:
        side = (side - 3) // stride + 1
        flops += 2.0 * side * side * incoming * agent["num_filters"] * _KERNEL
        incoming = agent["num_filters"]
    return flops + 2.0 * side * side * incoming * agent["latent_dim"]


def update_flops(agent: Mapping[str, Any], channels: int) -> float:
    """Operations of a mean update in the encoder, where all but a percent of them are.

    Backward costs twice the forward pass. SAC's batch goes forward through the critic and its
    target, backward through the critic, and forward once more for the actor's update. An
    objective with sequences encodes each image online, with gradient, and by its momentum copy.
    """
    batch, views = agent["batch_size"], agent["num_target_augmentations"]
    passes = batch * (3.0 * agent["num_q_augmentations"] + 2.0 * views)
    passes += batch / agent["actor_update_every"]
    if agent["objective"] is not None:
        images = agent.get("sequence_length", 1) * agent.get("sequence_batch_size", batch)
        passes += 4.0 * images
    return passes * encoder_flops(agent, channels)
