"""Adam as the losses here use it: fused, gradients clipped by group, exact state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ClipGroup:
    """Parameters whose joint gradient norm is cut; it is logged as `gradient_norm/<name>`."""

    name: str
    parameters: Sequence[nn.Parameter]


class Optimizer:
    """Steps its parameters down the gradient of a loss.

    The learning rate is a 0-d tensor on their device, moments exist from the start, and loading
    copies in place: a captured graph keeps seeing the same memory. The clipped gradients of a step
    stay until the next one.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        learning_rate: float,
        *,
        eps: float,
        clip: Sequence[ClipGroup],
        max_norm: float,
    ) -> None:
        """Args: `eps`: Adam's. `clip`: each group's norm is cut to `max_norm`; what is in none of
        them is not, but its norm is looked at too, so that no NaN stays unseen.
        """
        self.parameters, self.clip, self.max_norm = list(parameters), list(clip), max_norm
        clipped = {parameter for group in clip for parameter in group.parameters}
        self.unclipped = [parameter for parameter in self.parameters if parameter not in clipped]
        device = self.parameters[0].device
        self._adam = torch.optim.Adam(
            [{"params": self.parameters, "lr": torch.tensor(learning_rate, device=device)}],
            eps=eps,
            fused=True,
            capturable=device.type == "cuda",  # may be part of a CUDA graph
        )
        for parameter in self.parameters:
            self._adam.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of what `minimise` returns."""
        names = [group.name for group in self.clip]
        if self.unclipped:
            names.append("unclipped")
        return tuple(f"gradient_norm/{name}" for name in names)

    def minimise(self, loss: Tensor) -> dict[str, Tensor]:
        """One step down the gradient of `loss`; the groups' norms before they were cut, 0-d."""
        self._adam.zero_grad(set_to_none=True)
        loss.backward(inputs=self.parameters)
        norms = [
            nn.utils.clip_grad_norm_(group.parameters, self.max_norm, foreach=True)
            for group in self.clip
        ]
        if self.unclipped:
            gradients = [
                parameter.grad for parameter in self.unclipped if parameter.grad is not None
            ]
            norms.append(nn.utils.get_total_norm(gradients, foreach=True))
        self._adam.step()
        return dict(zip(self.metric_names, norms, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Step counts and moments, in the order of the parameters."""
        return {"moments": [dict(self._adam.state[parameter]) for parameter in self.parameters]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        for mine, saved in zip(self.state_dict()["moments"], state["moments"], strict=True):
            for name, tensor in mine.items():
                tensor.copy_(saved[name])
