"""What the agent asks of an objective, and nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch, SequenceBatch
from ..momentum import MomentumTarget
from ..networks import Encoder, Networks
from ..optimization import ClipGroup, ParameterGroup
from ..run.seeding import Streams

Metrics = dict[str, Tensor]


class Objective(nn.Module, ABC):
    """A loss on the critic's encoder, stepped by an optimiser of its own; only `loss` is a must.

    It registers only what it owns: its trained parameters and its momentum targets; the encoder is
    handed to it at each use. Everything that a resume needs must be in `state_dict`.

    Attributes:
        settings_type: dataclass of its settings, the keys of its YAML. Among them must be
            `<file name>_weight`, the weight of its loss (at 0 it is never built). With the key
            `objective_augmentation`, a menu, it has an augmentation of its own, else the agent's.
        metric_names, diagnostic_names: keys of what `loss` and `diagnostics` report; that of the
            loss itself is `loss/<file name>`.
        sequence_length, sequence_batch_size: windows that it wants of the replay, K and B', from
            the settings' keys of these names; without them it gets none.
        targets_move: whether all momentum targets move after its optimiser's step or before it.
    """

    settings_type: ClassVar[type]
    metric_names: ClassVar[tuple[str, ...]]
    diagnostic_names: ClassVar[tuple[str, ...]] = ()
    targets_move: str = "after_step"

    def __init__(self, settings: Any, networks: Networks, augmentation: Augmentation) -> None:
        """Args: `settings`: the agent's, and so a `settings_type` too. `networks`: the agent's."""
        super().__init__()
        self.settings, self.augmentation = settings, augmentation
        self.sequence_length: int = getattr(settings, "sequence_length", 1)
        self.sequence_batch_size: int = getattr(settings, "sequence_batch_size", 0)

    @classmethod
    def check(cls, settings: Any, image_size: int) -> None:
        """Look at keys that must fit others, before anything is built; ConfigError if they do not.

        Args: `settings`: the whole section `agent`. `image_size`: side of a rendered image.
        """
        del settings, image_size

    def draw_noise(self, streams: Streams, views: AugmentationNoise) -> Any:
        """All random numbers of one update: a dataclass of CPU tensors, or None.

        Args: `views`: what the critic's views of `batch.obs` are cut out with, lead (M, B).
        """
        return None

    @abstractmethod
    def loss(self, encoder: Encoder, batch: Batch, noise: Any) -> tuple[Tensor, Metrics]:
        """The loss, a scalar, and detached 0-d metrics; deterministic, without a wait on device."""

    def pieces(self, batch: Batch, noise: Any) -> Iterable[tuple[float, Batch, Any]]:
        """Pieces (share, batch, noise) whose losses, times their shares, add up to the loss; their
        gradients are computed one after the other, which takes the memory of one.
        """
        return [(1.0, batch, noise)]

    def update_targets(self) -> None:
        """Move the momentum targets once, in place; called as often as the critic's targets."""
        for module in self.modules():
            if isinstance(module, MomentumTarget):
                module.update()

    def trained(self) -> list[nn.Parameter]:
        """Its own parameters without the targets'."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def parameter_groups(self, encoder: Encoder) -> Sequence[ParameterGroup]:
        """What its optimiser steps: the encoder, then its own parameters.

        Their rates per the critic's are the keys `objective_encoder_learning_rate_scale`, if there
        is one, and `objective_learning_rate_scale`, or 1.
        """
        scale = getattr(self.settings, "objective_learning_rate_scale", 1.0)
        shared = getattr(self.settings, "objective_encoder_learning_rate_scale", scale)
        both = (encoder.parameters(), shared), (self.trained(), scale)
        return [ParameterGroup(list(parameters), rate) for parameters, rate in both]

    def clip_groups(self, encoder: Encoder) -> Sequence[ClipGroup]:
        """Joint gradient norms that are cut, in this order: of all, with a `max_gradient_norm`."""
        norm = getattr(self.settings, "max_gradient_norm", None)
        everything = [*encoder.parameters(), *self.trained()]
        return [] if norm is None else [ClipGroup(everything, norm)]

    def learning_rate_factor(self, update_step: int) -> float:
        """Schedule of the learning rate; `update_step` counts from 0."""
        return 1.0

    def set_schedules(self, agent_step: int) -> None:
        """Write other numbers that change over a run into device tensors; on the host."""

    def diagnostics(self, encoder: Encoder, batch: Batch, noise: Any) -> dict[str, float]:
        """Signs of health, such as a collapse; without gradient, may synchronise."""
        return {}

    def preview(self, batch: Batch, noise: Any) -> Tensor | None:
        """What the objective sees of one sequence, as a picture: uint8 RGB (3, H, W)."""
        return None


def windows_of(batch: Batch) -> SequenceBatch:
    """The batch's windows, of an objective that wants some."""
    assert batch.sequence is not None
    return batch.sequence
