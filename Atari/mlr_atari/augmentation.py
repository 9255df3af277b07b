"""Image augmentation with explicit noise: one draw per frame stack, the same for all its frames.

Whatever the order in the list, images are shifted and then scaled in intensity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .device import map_tensors
from .frames import FrameStacks
from .kernels import fused, views

NAMES = ("shift", "intensity")


@dataclass(frozen=True)
class AugmentationNoise:
    """Random numbers of one augmentation of stacks with leading shape `lead`; None if not used.

    Attributes:
        offsets: int64 (*lead, 2), row and column of a shift, in [0, 2*pad]; pad is no shift.
        intensity: float32 (*lead), factor on all pixels of a stack.
    """

    offsets: Tensor | None = None
    intensity: Tensor | None = None

    def select(self, key: Any) -> "AugmentationNoise":
        """The numbers of the stacks at `key`, an index into the leading dimensions."""
        return map_tensors(lambda tensor: tensor[key], self)


class Augmentation:
    """Turns uint8 frame stacks into augmented float images in about [0, 1]."""

    def __init__(
        self, menu: Sequence[str], image_size: int, shift_pad: int, intensity_scale: float
    ) -> None:
        """Remember what is chosen.

        Args:
            menu: some of `NAMES`; all of them go together.
            image_size: side of an image, in pixels.
            shift_pad: largest shift in pixels.
            intensity_scale: standard deviation of the factor, before it is cut at two of them.
        """
        self.menu, self.image_size = frozenset(menu), image_size
        self.shift_pad, self.intensity_scale = shift_pad, intensity_scale

    def draw(self, generator: torch.Generator, lead: Sequence[int]) -> AugmentationNoise:
        """Noise for stacks of leading shape `lead`, on the generator's device."""
        offsets = intensity = None
        if "shift" in self.menu:
            offsets = torch.randint(0, 2 * self.shift_pad + 1, (*lead, 2), generator=generator)
        if "intensity" in self.menu:
            normal = torch.randn(*lead, generator=generator)
            intensity = 1 + self.intensity_scale * normal.clamp_(-2, 2)
        return AugmentationNoise(offsets, intensity)

    def __call__(
        self,
        obs: FrameStacks,
        noise: AugmentationNoise,
        hidden: FrameStacks | None = None,
        scale: float = 1 / 255,
    ) -> Tensor:
        """Images as the encoder takes them; hidden pixels become 0 before anything else.

        Args:
            obs: any lead, N stacks in all.
            noise: numbers with the same lead.
            hidden: stacks of one 1-channel frame each, 1 where a pixel is hidden; same lead.
            scale: factor from bytes to network input.

        Returns: float32 (N, S*C, H, W), channels last in memory.
        """
        if noise.offsets is not None and fused(obs.frames):
            factor = scale if noise.intensity is None else noise.intensity * scale
            return views(obs, noise.offsets, factor, hidden, self.image_size, self.shift_pad)
        images = self._shifted(obs, noise)
        if hidden is not None:
            # Blackening and then shifting is shifting both: the images are read only once.
            images *= 1 - self._shifted(hidden, noise)
        # Channels last. Reordering bytes before they become floats moves a quarter of the memory,
        # and stacking a few channels is faster than a general change of layout.
        images = torch.stack(images.flatten(0, -4).unbind(1), dim=-1).permute(0, 3, 1, 2).float()
        if noise.intensity is None:
            return images.mul_(scale)
        return images.mul_(noise.intensity.reshape(-1, 1, 1, 1) * scale)

    def _shifted(self, obs: FrameStacks, noise: AugmentationNoise) -> Tensor:
        return obs.dense() if noise.offsets is None else obs.shift(noise.offsets, self.shift_pad)
