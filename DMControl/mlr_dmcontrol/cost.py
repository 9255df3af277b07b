"""What an update costs in arithmetic, from which hours and shares of a machine's limit follow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

_KERNEL = 9  # weights of a 3x3 filter
_PROBE = (1024, 2048, 4096)  # rows, inner and columns of the matrix product that is timed


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


def matmul_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations per second of a matrix product, best of three."""
    rows, inner, columns = _PROBE
    left = torch.ones(rows, inner, device=device, dtype=dtype)
    right = torch.ones(inner, columns, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * rows * inner * columns / best
