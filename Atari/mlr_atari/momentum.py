"""Targets of a loss: a frozen network that follows another one, or that one without gradient."""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import nn

ModuleType = TypeVar("ModuleType", bound=nn.Module)


class MomentumTarget(nn.Module, Generic[ModuleType]):
    """Copy of a network with `target <- (1 - tau) * target + tau * online`.

    The online network is held without being registered: parameters, state and device of this
    module are the copy's alone. Buffers are copied as they are. tau = 1 copies exactly.
    """

    def __init__(self, online: ModuleType, tau: float) -> None:
        """Args: `tau`: weight of the online network in each update, in [0, 1]."""
        super().__init__()
        if not 0.0 <= tau <= 1.0:
            raise ValueError(f"tau={tau} must lie in [0, 1]")
        self.tau = tau
        self.target: ModuleType = copy.deepcopy(online).requires_grad_(False)
        # A tuple hides the network from nn.Module's registration.
        self._online = (online,)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Output of the copy; never part of a gradient graph."""
        return self.target(*args, **kwargs)

    @torch.no_grad()
    def update(self) -> None:
        """Move the copy one step towards the online network, in place."""
        (online,) = self._online
        torch._foreach_lerp_(list(self.target.parameters()), list(online.parameters()), self.tau)
        buffers = list(self.target.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(online.buffers()))


class OnlineTarget(nn.Module, Generic[ModuleType]):
    """A network as its own target, without gradient: what is left of a target without momentum.

    It is held without being registered, and there is nothing to move or to save.
    """

    def __init__(self, online: ModuleType) -> None:
        super().__init__()
        self._online = (online,)

    @property
    def target(self) -> ModuleType:
        """The online network."""
        return self._online[0]

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Output of the network; never part of a gradient graph."""
        return self.target(*args, **kwargs)


def make_target(
    online: ModuleType, tau: float | None
) -> MomentumTarget[ModuleType] | OnlineTarget[ModuleType]:
    """The momentum copy of a network, or without `tau`, or for one that has no weights, itself."""
    if tau is None or not any(True for _ in online.parameters()):
        return OnlineTarget(online)
    return MomentumTarget(online, tau)
