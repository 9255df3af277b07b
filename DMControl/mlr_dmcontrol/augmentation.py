"""Image augmentation: exact, with every draw given, and from uint8 frames straight to floats.

Stacks are cut out of the frame ring first, so that only what the network sees is ever converted.
Encoders take images in 0..1; that division is part of the same conversion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .device import map_tensors
from .errors import ConfigError
from .frames import FrameStacks
from .kernels import fused, views

# One of these decides which pixels are seen; the others then change their values.
PLACES = ("crop", "shift", "center_crop")
EFFECTS = ("intensity",)


@dataclass(frozen=True)
class AugmentationNoise:
    """Random numbers of one augmentation of images with leading shape `lead`; None if not used.

    Attributes:
        offsets: int64 (*lead, 2), row and column of a crop or shift.
        intensity: float32 (*lead), factor on the pixels.
    """

    offsets: Tensor | None = None
    intensity: Tensor | None = None

    def select(self, key: Any) -> "AugmentationNoise":
        """The numbers of the images at `key`, an index into the leading dimensions."""
        return map_tensors(lambda tensor: tensor[key], self)


def center_crop(obs: Tensor, size: int) -> Tensor:
    """Middle `size` pixels of each side, as every evaluation sees it: uint8 or float (*, H, W)."""
    top, left = ((side - size) // 2 for side in obs.shape[-2:])
    return obs[..., top : top + size, left : left + size]


def to_float(images: Tensor, factor: Tensor | float = 1.0) -> Tensor:
    """uint8 (N, C, H, W) to float32 in 0..1, channels last, times `factor` (a number or (N,))."""
    if isinstance(factor, Tensor):
        factor = factor.view(-1, 1, 1, 1)
    # Reordering bytes before they become floats moves a quarter of the memory.
    return images.contiguous(memory_format=torch.channels_last).float().mul_(factor / 255.0)


class Augmentation:
    """A list from the menu: at most one of `PLACES`, any of `EFFECTS`."""

    def __init__(
        self,
        menu: Sequence[str],
        image_size: int,
        crop_size: int,
        *,
        shift_pad: int = 4,
        intensity_scale: float = 0.05,
        skip_last_offset: bool = False,
        key: str = "agent.augmentation",
    ) -> None:
        """Check what does not depend on draws.

        Args:
            menu: names of `PLACES` and `EFFECTS`, in any order.
            image_size, crop_size: side in and out, in pixels.
            shift_pad: pixels that the border is repeated, and so the largest shift.
            intensity_scale: standard deviation of the factor, before it is cut at two of them.
            skip_last_offset: never draw the last crop, as the published SAC batches.
            key: what the user calls `menu`.

        Raises: ConfigError: entries that do not go together, or sizes that do not fit them.
        """
        places = [name for name in PLACES if name in menu]
        if len(places) > 1 or len(set(menu)) < len(menu):
            raise ConfigError(
                f"{key}=[{','.join(menu)}]: does not go together; choose each once, and at most "
                f"one of {', '.join(PLACES)}"
            )
        self.place, self.intense = places[0] if places else None, "intensity" in menu
        if crop_size > image_size or (self.place in (None, "shift") and crop_size < image_size):
            raise ConfigError(
                f"agent.crop_size={crop_size}: {key} cannot make it of the {image_size} pixels "
                f"rendered; make them equal, or cut out a smaller one by crop"
            )
        self.image_size, self.crop_size = image_size, crop_size
        self.shift_pad, self.intensity_scale = shift_pad, intensity_scale
        last = 2 * shift_pad if self.place == "shift" else image_size - crop_size
        self.offsets = max(1, last if skip_last_offset else last + 1)

    def draw(self, generator: torch.Generator, lead: Sequence[int]) -> AugmentationNoise:
        """Independent numbers for each image of leading shape `lead`, on the CPU."""
        offsets = intensity = None
        if self.place in ("crop", "shift"):
            offsets = torch.randint(self.offsets, (*lead, 2), generator=generator)
        if self.intense:
            normal = torch.randn(*lead, generator=generator)
            intensity = normal.clamp_(-2, 2).mul_(self.intensity_scale).add_(1)
        return AugmentationNoise(offsets, intensity)

    def __call__(
        self, obs: FrameStacks, noise: AugmentationNoise, hidden: FrameStacks | None = None
    ) -> Tensor:
        """Images as the encoder takes them; hidden pixels become 0 before anything else.

        Args:
            obs: any lead, N stacks in all.
            noise: numbers with the same lead.
            hidden: stacks of one 1-channel frame each, 1 where a pixel is hidden; same lead.

        Returns: float32 (N, S*C, crop_size, crop_size), channels last, 0..1 if intensity is 1.
        """
        if noise.offsets is not None and fused(obs.frames):
            factor = 1 / 255 if noise.intensity is None else noise.intensity / 255.0
            pad = self.shift_pad if self.place == "shift" else 0
            return views(obs, noise.offsets, factor, hidden, self.crop_size, pad)
        images = self._placed(obs, noise)
        if hidden is not None:
            images *= 1 - self._placed(hidden, noise)
        return to_float(images, 1.0 if noise.intensity is None else noise.intensity.flatten())

    def _placed(self, obs: FrameStacks, noise: AugmentationNoise) -> Tensor:
        """The pixels that are seen, uint8 (N, C, H, W)."""
        if noise.offsets is None:
            images = center_crop(obs.dense(), self.crop_size)
        elif self.place == "shift":
            images = obs.shift(noise.offsets, self.shift_pad)
        else:
            images = obs.crop(noise.offsets, self.crop_size)
        return images.flatten(0, -4)
