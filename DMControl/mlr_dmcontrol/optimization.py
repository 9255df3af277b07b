"""Adam as every loss here uses it: fused, rates that can change inside a graph, exact state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with the learning rate `scale` times that of their optimiser."""

    parameters: Sequence[nn.Parameter]
    scale: float = 1.0


@dataclass(frozen=True)
class ClipGroup:
    """Parameters whose joint gradient norm is cut to `max_norm`."""

    parameters: Sequence[nn.Parameter]
    max_norm: float


class Optimizer:
    """Steps its own parameters, and only those, down the gradient of a loss.

    Learning rates are 0-d tensors on the parameters' device, moments exist from the start, and
    loading copies in place: a captured graph keeps seeing the same memory.
    """

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        learning_rate: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        clip: Sequence[ClipGroup] = (),
    ) -> None:
        """Args: `clip`: applied in this order before each step."""
        self.learning_rate, self.clip = learning_rate, clip
        self.parameters = [parameter for group in groups for parameter in group.parameters]
        device = self.parameters[0].device
        self._adam = torch.optim.Adam(
            [
                {
                    "params": list(group.parameters),
                    "lr": torch.tensor(learning_rate * group.scale, device=device),
                    "scale": group.scale,
                }
                for group in groups
            ],
            betas=betas,
            fused=True,
            capturable=device.type == "cuda",  # may be part of a CUDA graph
        )
        for parameter in self.parameters:
            self._adam.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def set_schedule(self, factor: float) -> None:
        """Learning rates become `factor` times their base; on the host, before a step."""
        for group in self._adam.param_groups:
            group["lr"].fill_(self.learning_rate * group["scale"] * factor)

    def minimise(self, loss: Tensor) -> Tensor:
        """One step down the gradient of `loss`; returns as `step`."""
        self.accumulate(loss)
        return self.step()

    def accumulate(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to that of the next step, for these parameters only."""
        loss.backward(inputs=self.parameters)

    def step(self) -> Tensor:
        """One step; returns the joint gradient norm before clipping, 0-d."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        for group in self.clip:
            nn.utils.clip_grad_norm_(group.parameters, group.max_norm, foreach=True)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Step counts and moments, in the order of the parameters; rates follow from a schedule."""
        return {"moments": [dict(self._adam.state[parameter]) for parameter in self.parameters]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        for mine, saved in zip(self.state_dict()["moments"], state["moments"], strict=True):
            for name, tensor in mine.items():
                tensor.copy_(saved[name])
