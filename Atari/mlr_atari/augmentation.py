"""Image augmentation with explicit noise: one draw per frame stack, the same for all its frames.

The published setting is `shift` and `intensity`; `affine`, `resized_crop` and `blur` complete the
menu of the published code (through kornia).  Whatever the order in the list, images are shifted,
warped, blurred and then scaled in intensity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .device import map_tensors
from .frames import FrameStacks
from .kernels import fused, views

NAMES = ("shift", "intensity", "affine", "resized_crop", "blur")

# Ranges of the published menu (its random affine transform, resized crop and Gaussian blur).
MAX_ROTATION = MAX_SHEAR = 5.0  # degrees
MAX_TRANSLATION = 0.14  # of the image side
ZOOM = (0.9, 1.1)
CROP_AREA, CROP_ASPECT = (0.8, 1.0), (3 / 4, 4 / 3)
BLUR_SIZE, BLUR_SIGMA = 5, 1.5  # pixels


@dataclass(frozen=True)
class AugmentationNoise:
    """Random numbers of one augmentation of stacks with leading shape `lead`; None if not used.

    Attributes:
        offsets: int64 (*lead, 2), row and column of a shift, in [0, 2*pad]; pad is no shift.
        intensity: float32 (*lead), factor on all pixels of a stack.
        warp: float32 (*lead, 3, 3), input to output coordinates in pixels.
    """

    offsets: Tensor | None = None
    intensity: Tensor | None = None
    warp: Tensor | None = None

    def select(self, key: Any) -> AugmentationNoise:
        """The numbers of the stacks at `key`, an index into the leading dimensions."""
        chosen: AugmentationNoise = map_tensors(lambda tensor: tensor[key], self)
        return chosen


class Augmentation:
    """Turns uint8 frame stacks into augmented float images in about [0, 1]."""

    def __init__(
        self, menu: Sequence[str], image_size: int, shift_pad: int, intensity_scale: float
    ) -> None:
        """Check nothing: every menu goes together.

        Args:
            menu: some of `NAMES`.
            image_size: side of an image, in pixels.
            shift_pad: largest shift in pixels.
            intensity_scale: standard deviation of the factor, before it is cut at two of them.
        """
        self.menu, self.image_size = frozenset(menu), image_size
        self.shift_pad, self.intensity_scale = shift_pad, intensity_scale

    def draw(self, generator: torch.Generator, lead: Sequence[int]) -> AugmentationNoise:
        """Noise for stacks of leading shape `lead`, on the generator's device."""
        offsets = intensity = warp = None
        if "shift" in self.menu:
            offsets = torch.randint(0, 2 * self.shift_pad + 1, (*lead, 2), generator=generator)
        if "intensity" in self.menu:
            normal = torch.randn(*lead, generator=generator)
            intensity = 1 + self.intensity_scale * normal.clamp_(-2, 2)
        if "affine" in self.menu:
            warp = random_affine(generator, lead, self.image_size)
        if "resized_crop" in self.menu:
            crop = random_resized_crop(generator, lead, self.image_size)
            warp = crop if warp is None else crop @ warp
        return AugmentationNoise(offsets, intensity, warp)

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

        Returns:
            float32 (N, S*C, H, W), channels last in memory.
        """
        warps = noise.warp is not None or "blur" in self.menu
        if noise.offsets is not None and not warps and fused(obs.frames):
            factor = scale if noise.intensity is None else noise.intensity * scale
            return views(obs, noise.offsets, factor, hidden, self.image_size, self.shift_pad)
        images = self._shifted(obs, noise)
        if hidden is not None:
            # Blackening and then shifting is shifting both: the images are read only once.
            images *= 1 - self._shifted(hidden, noise)
        images = images.flatten(0, -4)
        if warps:
            images = self._filtered(images.float(), noise.warp)
        # Channels last. Reordering bytes before they become floats moves a quarter of the memory,
        # and stacking a few channels is faster than a general change of layout.
        images = torch.stack(images.unbind(1), dim=-1).permute(0, 3, 1, 2).float()
        if noise.intensity is None:
            return images.mul_(scale)
        return images.mul_(noise.intensity.reshape(-1, 1, 1, 1) * scale)

    def _shifted(self, obs: FrameStacks, noise: AugmentationNoise) -> Tensor:
        return obs.dense() if noise.offsets is None else obs.shift(noise.offsets, self.shift_pad)

    def _filtered(self, images: Tensor, warp: Tensor | None) -> Tensor:
        """Warped and blurred float images (N, S*C, H, W)."""
        # Imported here because kornia takes seconds and the published setting needs none of it.
        from kornia.filters import gaussian_blur2d
        from kornia.geometry.transform import warp_affine

        if warp is not None:
            size = (self.image_size, self.image_size)
            images = warp_affine(images, warp.reshape(-1, 3, 3)[:, :2], size)
        if "blur" in self.menu:
            images = gaussian_blur2d(images, (BLUR_SIZE, BLUR_SIZE), (BLUR_SIGMA, BLUR_SIGMA))
        return images


def random_affine(generator: torch.Generator, lead: Sequence[int], size: int) -> Tensor:
    """Small rotation, shear, zoom about the centre and translation; float32 (*lead, 3, 3)."""
    angle, shear, zoom, right, down = torch.rand(5, *lead, generator=generator)
    angle = (2 * angle - 1) * math.radians(MAX_ROTATION)
    shear = (2 * shear - 1) * math.radians(MAX_SHEAR)
    zoom = ZOOM[0] + (ZOOM[1] - ZOOM[0]) * zoom
    zero, one = torch.zeros_like(zoom), torch.ones_like(zoom)
    rotation = _matrix(zoom * angle.cos(), -zoom * angle.sin(), zero,
                       zoom * angle.sin(), zoom * angle.cos(), zero)  # fmt: skip
    shearing = _matrix(one, shear.tan(), zero, zero, one, zero)
    reach, centre = MAX_TRANSLATION * size, (size - 1) / 2
    back = _matrix(one, zero, centre + (2 * right - 1) * reach,
                   zero, one, centre + (2 * down - 1) * reach)  # fmt: skip
    return back @ rotation @ shearing @ _matrix(one, zero, -centre * one, zero, one, -centre * one)


def random_resized_crop(generator: torch.Generator, lead: Sequence[int], size: int) -> Tensor:
    """A random rectangle of the image, stretched to the whole; float32 (*lead, 3, 3)."""
    area, aspect, left, top = torch.rand(4, *lead, generator=generator)
    area = CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * area
    low, high = math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])
    aspect = torch.exp(low + (high - low) * aspect)
    width = (size * (area * aspect).sqrt()).clamp(max=size)
    height = (size * (area / aspect).sqrt()).clamp(max=size)
    x_zoom, y_zoom = (size - 1) / (width - 1), (size - 1) / (height - 1)
    x, y = left * (size - width), top * (size - height)
    zero = torch.zeros_like(area)
    return _matrix(x_zoom, zero, -x * x_zoom, zero, y_zoom, -y * y_zoom)


def _matrix(*entries: Tensor) -> Tensor:
    """Homogeneous (*lead, 3, 3) from the six entries of the two upper rows."""
    upper = torch.stack(entries, dim=-1).unflatten(-1, (2, 3))
    lowest = upper.new_tensor([0.0, 0.0, 1.0]).expand(*upper.shape[:-2], 1, 3)
    return torch.cat([upper, lowest], dim=-2)
