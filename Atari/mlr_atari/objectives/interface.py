"""What the agent asks of an objective, and nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch
from ..momentum import MomentumTarget
from ..networks import Encoder, QNetwork
from ..optimization import ClipGroup
from ..run.seeding import Streams

Metrics = dict[str, Tensor]


class Objective(nn.Module, ABC):
    """A loss on the encoder beside the RL loss; only `loss` is a must.

    It registers only what it owns: its trained parameters, which join the agent's Adam, and its
    momentum targets; the encoder is handed to it at each use. Everything that a resume needs must
    be in `state_dict`.

    Attributes:
        settings_type: dataclass of its settings, the keys of its YAML. Among them must be
            `<file name>_weight`, its weight beside the RL loss (at 0 it is never built).
        metric_names, diagnostic_names: keys of what `loss` and `diagnostics` report; that of the
            loss itself is `loss/<file name>`.
        batch_size, sequence_length: B and K, the sequences of a batch.
        targets_move: whether its momentum targets move after the optimiser's step or before it.
    """

    settings_type: ClassVar[type]
    metric_names: ClassVar[tuple[str, ...]]
    diagnostic_names: ClassVar[tuple[str, ...]] = ()
    targets_move: str = "after_step"

    def __init__(self, settings: Any, network: QNetwork, augmentation: Augmentation) -> None:
        """Args: `settings`: the agent's, and so a `settings_type` too. `network`: the online."""
        super().__init__()
        self.settings, self.augmentation = settings, augmentation
        self.batch_size: int = settings.batch_size
        self.sequence_length: int = settings.sequence_length

    @classmethod
    def check(cls, settings: Any, image_size: int) -> None:
        """Look at keys that must fit others, before anything is built; ConfigError if they do not.

        Args: `settings`: the whole section `agent`. `image_size`: side of a rendered image.
        """
        del settings, image_size

    def draw_noise(self, streams: Streams, views: AugmentationNoise) -> Any:
        """All random numbers of one update: a dataclass of CPU tensors, or None.

        Args: `views`: how the RL loss augments the first observations, lead (M, B).
        """
        return None

    @abstractmethod
    def loss(self, encoder: Encoder, batch: Batch, noise: Any) -> tuple[Tensor, Metrics]:
        """The loss, a scalar with the batch's importance weights in it, and detached 0-d metrics.

        A deterministic function of tensors, without host synchronisation.
        """

    def update_targets(self) -> None:
        """Move the momentum targets once, in place; called in every update."""
        for module in self.modules():
            if isinstance(module, MomentumTarget):
                module.update()

    def trained(self) -> list[nn.Parameter]:
        """Its own parameters without the targets'."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def clip_groups(self) -> Sequence[ClipGroup]:
        """Own parameters whose gradients are clipped together; the rest is unclipped.

        A group called `network` takes the place of the agent's.
        """
        own = self.trained()
        return [ClipGroup("objective", own)] if own else []

    def set_schedules(self, agent_step: int) -> None:
        """Write numbers that change over a run into device tensors; on the host."""

    def diagnostics(self, encoder: Encoder, batch: Batch, noise: Any) -> dict[str, float]:
        """Signs of health, such as a collapse; without gradient, may synchronise."""
        return {}

    def preview(self, batch: Batch, noise: Any) -> Tensor | None:
        """What the objective sees of one sequence, as a picture: uint8 RGB (3, H, W)."""
        return None
