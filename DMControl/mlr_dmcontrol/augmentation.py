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
    """uint8 (N, C, H, W) to float32 in 0..1, channels last, times `factor` (a number or (N,))."""
    if isinstance(factor, Tensor):
        factor = factor.view(-1, 1, 1, 1)
    # Reordering bytes before they become floats moves a quarter of the memory.
    images = images.contiguous(memory_format=torch.channels_last).float()
    return images.mul_(factor / 255.0)


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
        """Args: `image_size`, `crop_size`: sides in and out, in pixels. `shift_pad`: pixels that
        the border is repeated. `intensity_scale`: standard deviation of the factor.
        `skip_last_offset`: never draw the last crop, as the published SAC batches.
        `key`: what the user calls `menu`.

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
        images = self._placed(obs, noise)
        if hidden is not None:
            images *= 1 - self._placed(hidden, noise)
        if self.place == "resized_crop":
            images = _resized(images, noise.box, self.crop_size)
        if "affine" in self.effects:
            images = _transformed(images, noise.affine)
        if "blur" in self.effects:
            images = _blurred(images)
        factor = 1.0 if noise.intensity is None else noise.intensity.flatten()
        if images.dtype == torch.uint8:
            return to_float(images, factor)
        factor = factor if isinstance(factor, float) else factor.view(-1, 1, 1, 1)
        return (images * factor).contiguous(memory_format=torch.channels_last)

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


def _resized(images: Tensor, box: Tensor | None, size: int) -> Tensor:
    """uint8 (N, C, H, W) to float32 (N, C, size, size) in 0..1, bilinear."""
    from kornia.geometry.transform import crop_and_resize  # slow import, rarely needed

    assert box is not None
    top, left, height, width = box.flatten(0, -2).unbind(-1)
    bottom, right = top + height - 1, left + width - 1
    rows = torch.stack([top, top, bottom, bottom], dim=-1)
    columns = torch.stack([left, right, right, left], dim=-1)
    corners = torch.stack([columns, rows], dim=-1)
    return crop_and_resize(images.float() / 255.0, corners, (size, size))


def _transformed(images: Tensor, affine: Tensor | None) -> Tensor:
    """Rotate, move, zoom and shear about the centre: uint8 or 0..1 floats to 0..1 floats."""
    from kornia.geometry.transform import get_affine_matrix2d, warp_affine

    assert affine is not None
    images = images.float() / 255.0 if images.dtype == torch.uint8 else images
    angle, x, y, zoom, shear_x, shear_y = affine.flatten(0, -2).unbind(-1)
    height, width = images.shape[-2:]
    centre = torch.stack([torch.full_like(x, (s - 1) / 2) for s in (width, height)], dim=-1)
    matrix = get_affine_matrix2d(
        torch.stack([x * width, y * height], dim=-1),
        centre,
        torch.stack([zoom, zoom], dim=-1),
        angle,
        shear_x.deg2rad(),
        shear_y.deg2rad(),
    )
    return warp_affine(images, matrix[:, :2], (height, width))


def _blurred(images: Tensor) -> Tensor:
    """Gaussian blur: uint8 or 0..1 floats to 0..1 floats."""
    from kornia.filters import gaussian_blur2d

    images = images.float() / 255.0 if images.dtype == torch.uint8 else images
    return gaussian_blur2d(images, (_BLUR_SIZE,) * 2, (_BLUR_SIGMA,) * 2)
