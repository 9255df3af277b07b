"""Targets of a loss: networks without gradient that follow others."""

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import nn

ModuleType = TypeVar("ModuleType", bound=nn.Module)


class MomentumTarget(nn.Module, Generic[ModuleType]):
    """Copy of a network with `target <- (1 - tau) * target + tau * online`.

    The online network is held without being registered: parameters, state and device of this
    module are the copy's alone. Buffers are copied as they are. tau = 1 copies exactly.

    Attributes:
        target: the copy; without `tau`, or where there are no weights, the online network itself.
    """

    target: ModuleType

    def __init__(self, online: ModuleType, tau: float | None) -> None:
        """Args: `tau`: weight of the online network in each update, in [0, 1]."""
        super().__init__()
        self.tau = tau
        self._online = (online,)  # a tuple hides it from registration
        if tau is None or not list(online.parameters()):
            self.__dict__["target"] = online  # which hides it, too
        else:
            self.target = copy.deepcopy(online).requires_grad_(False)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Output of the target; never part of a gradient graph."""
        return self.target(*args, **kwargs)

    @torch.no_grad()
    def update(self) -> None:
        """Move the copy, if it is one, a step towards the online network, in place."""
        (online,) = self._online
        if self.tau is None or self.target is online:
            return
        torch._foreach_lerp_(list(self.target.parameters()), list(online.parameters()), self.tau)
        for copied, buffer in zip(self.target.buffers(), online.buffers(), strict=True):
            copied.copy_(buffer)
