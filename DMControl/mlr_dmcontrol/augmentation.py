"""Image augmentation: exact, with every draw given, and from uint8 frames straight to floats.

Stacks are cut out of the frame ring first, so that only what the network sees is ever converted.
Encoders take images in 0..1; that division is part of the same conversion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .device import map_tensors
from .errors import ConfigError
from .frames import FrameStacks
from .kernels import fused, views

# One of these decides which pixels are seen; the others then change their values, in this order.
PLACES = ("crop", "shift", "center_crop", "resized_crop")
EFFECTS = ("affine", "blur", "intensity")

# Ranges of the published menu, in degrees, fractions of the side, and factors.
_ANGLE, _TRANSLATION, _ZOOM, _SHEAR = 5.0, 0.14, 0.1, 5.0
_BLUR_SIZE, _BLUR_SIGMA = 5, 1.5
_AREA, _ASPECT = (0.8, 1.0), (3 / 4, 4 / 3)


@dataclass(frozen=True)
class AugmentationNoise:
    """Random numbers of one augmentation of images with leading shape `lead`; None if not used.

    Attributes:
        offsets: int64 (*lead, 2), row and column of a crop or shift.
        intensity: float32 (*lead), factor on the pixels.
        affine: float32 (*lead, 6): degrees, x and y in fractions of the side, zoom, two shears.
        box: float32 (*lead, 4): upper row, left column, height, width of a resized crop, pixels.
    """

    offsets: Tensor | None = None
    intensity: Tensor | None = None
    affine: Tensor | None = None
    box: Tensor | None = None

    def select(self, key: Any) -> AugmentationNoise:
        """The numbers of the images at `key`, an index into the leading dimensions."""
        chosen: AugmentationNoise = map_tensors(lambda tensor: tensor[key], self)
        return chosen


def center_crop(obs: Tensor, size: int) -> Tensor:
    """Middle `size` pixels of each side, as every evaluation sees it: uint8 or float (*, H, W)."""
    top, left = ((side - size) // 2 for side in obs.shape[-2:])
    return obs[..., top : top + size, left : left + size]


def to_float(images: Tensor, factor: Tensor | float = 1.0) -> Tensor:
    """uint8 (N, C, H, W) to float32 in 0..1, channels last, times `factor` (a number or (N,)).

    Floats are those of 0..1 already, and are written over.
    """
    if isinstance(factor, Tensor):
        factor = factor.view(-1, 1, 1, 1)
    if images.dtype == torch.uint8:
        factor = factor / 255.0
    # Reordering bytes before they become floats moves a quarter of the memory.
    return images.contiguous(memory_format=torch.channels_last).float().mul_(factor)


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

        Raises:
            ConfigError: entries that do not go together, or sizes that do not fit them.
        """
        places = [name for name in PLACES if name in menu]
        if len(places) > 1 or len(set(menu)) < len(menu):
            raise ConfigError(
                f"{key}=[{','.join(menu)}]: does not go together; choose each once, and at most "
                f"one of {', '.join(PLACES)}"
            )
        self.place = places[0] if places else None
        self.effects = [name for name in EFFECTS if name in menu]
        if self.place in (None, "shift") and crop_size != image_size:
            raise ConfigError(
                f"agent.crop_size={crop_size}: {key} cuts nothing out of the {image_size} pixels"
                f" rendered; make them equal, or add crop"
            )
        if crop_size > image_size:
            raise ConfigError(
                f"agent.crop_size={crop_size}: larger than the {image_size} pixels rendered; "
                f"use at most {image_size}"
            )
        self.image_size, self.crop_size = image_size, crop_size
        self.shift_pad, self.intensity_scale = shift_pad, intensity_scale
        last = 2 * shift_pad if self.place == "shift" else image_size - crop_size
        self.offsets = max(1, last if skip_last_offset else last + 1)

    def draw(self, generator: torch.Generator, lead: Sequence[int]) -> AugmentationNoise:
        """Independent numbers for each image of leading shape `lead`, on the CPU."""
        offsets = intensity = affine = box = None
        if self.place in ("crop", "shift"):
            offsets = torch.randint(self.offsets, (*lead, 2), generator=generator)
        elif self.place == "resized_crop":
            box = self._draw_box(torch.rand(*lead, 4, generator=generator))
        if "affine" in self.effects:
            ranges = (_ANGLE, _TRANSLATION, _TRANSLATION, _ZOOM, _SHEAR, _SHEAR)
            affine = torch.rand(*lead, 6, generator=generator).mul_(2).sub_(1)
            affine *= torch.tensor(ranges)
            affine[..., 3] += 1
        if "intensity" in self.effects:
            normal = torch.randn(*lead, generator=generator)
            intensity = normal.clamp_(-2, 2).mul_(self.intensity_scale).add_(1)
        return AugmentationNoise(offsets, intensity, affine, box)

    def __call__(
        self, obs: FrameStacks, noise: AugmentationNoise, hidden: FrameStacks | None = None
    ) -> Tensor:
        """Images as the encoder takes them; hidden pixels become 0 before anything else.

        Args:
            obs: any lead, N stacks in all.
            noise: numbers with the same lead.
            hidden: stacks of one 1-channel frame each, 1 where a pixel is hidden; same lead.

        Returns:
            float32 (N, S*C, crop_size, crop_size), channels last, 0..1 if intensity is 1.
        """
        if noise.offsets is not None and self.effects in ([], ["intensity"]) and fused(obs.frames):
            factor = 1 / 255 if noise.intensity is None else noise.intensity / 255.0
            pad = self.shift_pad if self.place == "shift" else 0
            return views(obs, noise.offsets, factor, hidden, self.crop_size, pad)
        images = self._placed(obs, noise)
        if hidden is not None:
            images *= 1 - self._placed(hidden, noise)
        if self.place == "resized_crop" or {"affine", "blur"} & set(self.effects):
            images = self._filtered(images / 255.0, noise)
        return to_float(images, 1.0 if noise.intensity is None else noise.intensity.flatten())

    def _placed(self, obs: FrameStacks, noise: AugmentationNoise) -> Tensor:
        """The pixels that are seen, uint8 (N, C, H, W)."""
        if self.place == "crop" and noise.offsets is not None:
            images = obs.crop(noise.offsets, self.crop_size)
        elif self.place == "shift" and noise.offsets is not None:
            images = obs.shift(noise.offsets, self.shift_pad)
        else:
            images = obs.dense()
            if self.place == "center_crop":
                images = center_crop(images, self.crop_size).contiguous()
        return images.flatten(0, -4)

    def _filtered(self, images: Tensor, noise: AugmentationNoise) -> Tensor:
        """Resized; rotated, moved, zoomed and sheared about the centre; blurred: 0..1 to 0..1."""
        # Imported here because kornia takes seconds and the published setting needs none of it.
        from kornia.filters import gaussian_blur2d
        from kornia.geometry.transform import crop_and_resize, get_affine_matrix2d, warp_affine

        if noise.box is not None:
            top, left, height, width = noise.box.flatten(0, -2).unbind(-1)
            bottom, right = top + height - 1, left + width - 1
            rows = torch.stack([top, top, bottom, bottom], dim=-1)
            columns = torch.stack([left, right, right, left], dim=-1)
            corners = torch.stack([columns, rows], dim=-1)
            images = crop_and_resize(images, corners, (self.crop_size, self.crop_size))
        if noise.affine is not None:
            angle, x, y, zoom, shear_x, shear_y = noise.affine.flatten(0, -2).unbind(-1)
            size = images.shape[-1]
            matrix = get_affine_matrix2d(
                torch.stack([x, y], dim=-1) * size,
                torch.full_like(noise.affine.flatten(0, -2)[:, :2], (size - 1) / 2),
                torch.stack([zoom, zoom], dim=-1),
                angle,
                shear_x.deg2rad(),
                shear_y.deg2rad(),
            )
            images = warp_affine(images, matrix[:, :2], (size, size))
        if "blur" in self.effects:
            images = gaussian_blur2d(images, (_BLUR_SIZE,) * 2, (_BLUR_SIGMA,) * 2)
        return images

    def _draw_box(self, uniform: Tensor) -> Tensor:
        """Boxes (*, 4) from uniform numbers (*, 4): area, aspect ratio, then position."""
        area = self.image_size**2 * (_AREA[0] + (_AREA[1] - _AREA[0]) * uniform[..., 0])
        low, high = (math.log(ratio) for ratio in _ASPECT)
        aspect = (low + (high - low) * uniform[..., 1]).exp()
        # A side that would stick out is cut to the image.
        height = (area / aspect).sqrt().clamp(max=self.image_size)
        width = (area * aspect).sqrt().clamp(max=self.image_size)
        top = (self.image_size - height) * uniform[..., 2]
        left = (self.image_size - width) * uniform[..., 3]
        return torch.stack([top, left, height, width], dim=-1)
