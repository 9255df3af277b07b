"""Cube masking: which patches of a sequence of images are hidden (MLR paper, section 3.1)."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from ..errors import ConfigError
from ..frames import FrameStacks

log = logging.getLogger(__name__)

MODES = ("cube", "spatial", "temporal")
PER = ("batch", "sequence")


def check_patches(patch_size: int, image_size: int) -> None:
    """Raises: ConfigError: such patches do not tile an image."""
    if image_size % patch_size:
        divisors = ", ".join(str(n) for n in range(1, image_size + 1) if image_size % n == 0)
        raise ConfigError(
            f"agent.patch_size={patch_size}: does not divide the image's {image_size} pixels; "
            f"use one of {divisors}"
        )


class CubeMasking:
    """Masks drawn patch by patch and constant in time within a block of steps.

    `cube` draws patches anew for each block of `cube_depth` steps, `spatial` once for the whole
    sequence, `temporal` hides whole steps (the paper's two ablations). Exactly
    floor(mask_ratio * n * n) of the n x n patches are hidden in each block (`temporal`:
    floor(mask_ratio * K) of the K steps), drawn uniformly without replacement. True = hidden.
    If K is no multiple of `cube_depth`, the last block is shorter. Cubes of one block are `spatial`
    masks by another name, of which the log warns.

    Attributes:
        patches: n, patches along a side. blocks: how many blocks are drawn.
        depth: steps of a block.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        sequence_length: int,
        cube_depth: int,
        mask_ratio: float,
        mode: str = "cube",
        per: str = "batch",
    ) -> None:
        """Args: sizes in pixels and steps; `per`: one mask for the `batch` or each `sequence`.

        Raises:
            ConfigError: patches do not tile the image.
        """
        check_patches(patch_size, image_size)
        self.patch_size = patch_size
        self.sequence_length = sequence_length
        self.mask_ratio = mask_ratio
        self.mode = mode
        self.per = per
        self.patches = image_size // patch_size
        self.depth = {"cube": cube_depth, "spatial": sequence_length, "temporal": 1}[mode]
        self.blocks = math.ceil(sequence_length / self.depth)
        if mode == "cube" and self.blocks == 1 < sequence_length:
            log.warning(
                "agent.cube_depth=%d: one block for all %d observations, which is "
                "agent.mask_mode=spatial; cubes need at most %d",
                *(cube_depth, sequence_length, sequence_length // 2),
            )

    def draw(self, generator: torch.Generator, batch_size: int) -> Tensor:
        """One grid, bool (blocks, n, n), or one for each sequence, bool (B, blocks, n, n)."""
        lead = (batch_size,) if self.per == "sequence" else ()
        n = self.patches
        if self.mode == "temporal":
            steps = _choose(self.mask_ratio, self.blocks, lead, generator)
            return steps[..., None, None].expand(*lead, self.blocks, n, n).contiguous()
        return _choose(self.mask_ratio, n * n, (*lead, self.blocks), generator).unflatten(
            -1, (n, n)
        )

    def expand(self, grid: Tensor) -> Tensor:
        """Each step's patches: (*, blocks, n, n) to (*, K, n, n)."""
        n = self.patches
        if grid.shape[-3:] != (self.blocks, n, n):
            raise ValueError(f"grid {tuple(grid.shape)} must end in {(self.blocks, n, n)}")
        steps = grid.unsqueeze(-3).expand(*grid.shape[:-2], self.depth, n, n).flatten(-4, -3)
        return steps[..., : self.sequence_length, :, :]

    def pixels(self, grid: Tensor) -> Tensor:
        """Each step's pixels: (*, blocks, n, n) to (*, K, H, W)."""
        steps, side = self.expand(grid), self.patch_size
        lead, n = steps.shape[:-2], self.patches
        cells = steps[..., :, None, :, None].expand(*lead, n, side, n, side)
        return cells.reshape(*lead, n * side, n * side)


def mask_frames(pixels: Tensor, batch_size: int) -> FrameStacks:
    """Masks, bool (K, H, W) or (B, K, H, W), as stacks of one frame of 0 and 1 with lead (K, B)."""
    length = pixels.shape[-3]
    frames = pixels.to(torch.uint8).flatten(0, -3).unsqueeze(1)
    # One frame for each step, or for each sequence and step.
    index = torch.arange(len(frames), device=frames.device).view(-1, length).t()
    return FrameStacks(frames, index.expand(length, batch_size).unsqueeze(-1))


def masked_steps(masked: Tensor) -> Tensor:
    """Steps of which anything is masked: bool (K, h, w) to (K, 1), (B, K, h, w) to (K, B)."""
    steps = masked.flatten(-2).any(dim=-1)
    return steps.unsqueeze(-1) if steps.ndim == 1 else steps.t()


def _choose(ratio: float, items: int, lead: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """bool (*lead, items) with floor(ratio * items) True in each row, uniform over the subsets."""
    # Ranks of double-precision draws: equal ones, which would favour early items, do not occur.
    ranks = torch.rand(*lead, items, generator=generator, dtype=torch.float64).argsort(-1)
    return ranks < math.floor(ratio * items)
