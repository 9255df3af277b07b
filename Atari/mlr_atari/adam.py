"""Adam as this code uses it: fused, its rate a tensor, its state loaded in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def fused_adam(
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    device: torch.device,
    eps: float = 1e-8,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Adam:
    """Adam with fused kernels.

    The rate is a 0-d tensor on `device`, to be changed in place: a captured graph reads it anew
    at every replay, where it would keep a number for ever.
    """
    rate = torch.tensor(learning_rate, device=device)
    capturable = device.type == "cuda"
    return torch.optim.Adam(
        parameters, lr=rate, betas=betas, eps=eps, fused=True, capturable=capturable
    )


@torch.no_grad()
def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a `state_dict` of the same optimiser into the tensors that exist already."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for index, parameter in enumerate(parameters):
        saved: Mapping[str, Tensor] = state["state"].get(index, {})
        current = optimizer.state[parameter]
        for name, value in saved.items():
            if name in current:
                current[name].copy_(value)
            else:
                current[name] = value.to(parameter.device, copy=True)
        for name in set(current) - set(saved):
            current[name].zero_()  # Adam's state before its first step
    for group, saved_group in zip(optimizer.param_groups, state["param_groups"], strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].copy_(torch.as_tensor(saved_group["lr"]))
