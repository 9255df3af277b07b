"""Cube masking: which patches of a sequence of images are hidden (MLR paper, section 3.1)."""

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..frames import FrameStacks
from ..run.schema import bounded, choice

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """Keys that say what of a sequence is hidden."""

    sequence_length: int = bounded(1, 1024)
    mask_ratio: float = bounded(0, 1)
    patch_size: int = bounded(1)
    cube_depth: int = bounded(1)
    mask_mode: str = choice("cube", "spatial", "temporal")
    mask_per: str = choice("batch", "sequence")
    mask_level: str = choice("pixel", "latent")


class CubeMasking:
    """Masks drawn patch by patch and constant in time within a block of steps. True = hidden.

    `cube` draws patches anew for each block of `cube_depth` steps, `spatial` once for the whole
    sequence, `temporal` hides whole steps (the paper's two ablations), as it must where latents
    are hidden. Exactly floor(mask_ratio * n * n) of the n x n patches are hidden in each block
    (`temporal`: floor(mask_ratio * K) of the K steps), drawn uniformly without replacement.
    If K is no multiple of `cube_depth`, the last block is shorter.
    """

    def __init__(self, settings: MaskSettings, image_size: int) -> None:
        """Args: `image_size`: side of an image in pixels, a multiple of the patch's."""
        self.settings = settings
        length, depth = settings.sequence_length, settings.cube_depth
        self.mode = settings.mask_mode if settings.mask_level == "pixel" else "temporal"
        self.patches = image_size // settings.patch_size
        self.depth = {"cube": depth, "spatial": length, "temporal": 1}[self.mode]
        self.blocks = math.ceil(length / self.depth)
        if self.mode == "cube" and self.blocks == 1 < length:
            log.warning(
                "agent.cube_depth=%d: one block for all %d observations, which is "
                "agent.mask_mode=spatial; cubes need at most %d",
                *(depth, length, length // 2),
            )

    def draw(self, generator: torch.Generator, batch_size: int) -> Tensor:
        """One grid, bool (blocks, n, n), or one for each sequence, bool (B, blocks, n, n)."""
        lead = (batch_size,) if self.settings.mask_per == "sequence" else ()
        n = self.patches
        if self.mode == "temporal":
            steps = self._choose((*lead, self.blocks), generator)
            return steps[..., None, None].expand(*lead, self.blocks, n, n).contiguous()
        return self._choose((*lead, self.blocks, n * n), generator).unflatten(-1, (n, n))

    def _choose(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """bool `shape` with a share of True in each row, uniform over the subsets."""
        # Ranks of double-precision draws: equal ones, which would favour early items, do not occur.
        ranks = torch.rand(*shape, generator=generator, dtype=torch.float64).argsort(-1)
        return ranks < math.floor(self.settings.mask_ratio * shape[-1])

    def expand(self, grid: Tensor) -> Tensor:
        """Each step's patches: (*, blocks, n, n) to (*, K, n, n)."""
        steps = grid.repeat_interleave(self.depth, dim=-3)
        return steps[..., : self.settings.sequence_length, :, :]

    def pixels(self, grid: Tensor) -> Tensor:
        """Each step's pixels: (*, blocks, n, n) to (*, K, H, W)."""
        side = self.settings.patch_size
        return self.expand(grid).repeat_interleave(side, dim=-2).repeat_interleave(side, dim=-1)

    def frames(self, grid: Tensor, batch_size: int) -> FrameStacks:
        """The pixels as stacks of one frame of 0 and 1, lead (K, B)."""
        pixels = self.pixels(grid)
        length, frames = pixels.shape[-3], pixels.to(torch.uint8).flatten(0, -3).unsqueeze(1)
        # One frame for each step, or for each sequence and step.
        index = torch.arange(len(frames), device=frames.device).view(-1, length).t()
        return FrameStacks(frames, index.expand(length, batch_size).unsqueeze(-1))

    def steps(self, grid: Tensor) -> Tensor:
        """Steps of which anything is hidden: bool (K, 1), or (K, B) for a mask per sequence."""
        steps = self.expand(grid).flatten(-2).any(dim=-1)
        return steps.unsqueeze(-1) if steps.ndim == 1 else steps.t()
