"""What the agent asks of an objective, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch
from ..networks import ConvEncoder, QNetwork

Metrics = dict[str, Tensor]


class Streams(Protocol):
    """CPU generators by name: exploration, replay, augmentation, masking, objective, noise."""

    def __getitem__(self, name: str, /) -> torch.Generator: ...


class Objective(nn.Module, ABC):
    """A loss on the encoder beside the RL loss.

    An objective registers only what it owns: its trained parameters, which join the agent's Adam,
    and its momentum targets. Everything that a resume needs must be in its `state_dict`.

    Attributes:
        settings_type: dataclass of its settings, the keys of its YAML. The key
            `<file name>_weight` is its weight beside the RL loss; 0 means that it is never built.
        metric_names, diagnostic_names: keys of what `loss` and `diagnostics` report; that of the
            loss itself is `loss/<file name>`.
        targets_move: whether momentum targets follow before or after the optimiser's step.
    """

    settings_type: ClassVar[type]
    metric_names: ClassVar[tuple[str, ...]]
    diagnostic_names: ClassVar[tuple[str, ...]]
    targets_move: ClassVar[Literal["before_step", "after_step"]] = "after_step"

    @abstractmethod
    def __init__(
        self, settings: Any, network: QNetwork, augmentation: Augmentation, batch_size: int
    ) -> None:
        """Args: `settings`: a `settings_type`. `network`: the online network, not registered."""
        super().__init__()

    @abstractmethod
    def draw_noise(self, streams: Streams, rl_view: AugmentationNoise) -> Any:
        """All random numbers of one update: CPU tensors in a dataclass, or None.

        Args: `rl_view`: leading shape (M, B), how the RL loss augments the first observations, for
        objectives that look at the same images.
        """

    @abstractmethod
    def loss(self, encoder: ConvEncoder, batch: Batch, noise: Any) -> tuple[Tensor, Metrics]:
        """The loss, a scalar with the batch's importance weights in it, and detached metrics.

        A deterministic function of tensors, without host synchronisation.
        """

    @abstractmethod
    def update_targets(self) -> None:
        """Move the momentum targets once, in place."""

    @abstractmethod
    def clip_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Own parameters whose gradients are clipped together, by name; the rest is unclipped."""

    def set_schedules(self, agent_step: int) -> None:
        """Set whatever changes over a run, in place in device tensors. Most need nothing."""
        del agent_step

    @abstractmethod
    def diagnostics(self, encoder: ConvEncoder, batch: Batch, noise: Any) -> dict[str, float]:
        """Signs of health, such as a collapse; without gradient, may synchronise."""

    @abstractmethod
    def preview(self, batch: Batch, noise: Any) -> Tensor:
        """What the objective sees of one sequence, as a picture: uint8 RGB (3, H, W)."""
