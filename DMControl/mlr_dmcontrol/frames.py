"""Stacks of frames kept as indices into one array of frames, cut out exactly when needed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class FrameStacks:
    """Frame stacks of any leading shape; usually `frames` is the replay's ring, not a copy.

    Attributes:
        frames: uint8 (F, C, H, W).
        index: int64 (*lead, S), which frames make each stack, oldest first.
    """

    frames: Tensor
    index: Tensor

    def __post_init__(self) -> None:
        if (self.frames.dtype, self.index.dtype) != (torch.uint8, torch.int64):
            types = f"{self.frames.dtype} and {self.index.dtype}"
            raise ValueError(f"frames and index must be uint8 and int64, not {types}")

    @classmethod
    def from_dense(cls, obs: Tensor, channels: int) -> "FrameStacks":
        """Stacks of uint8 `obs` (*lead, S*C, H, W), whose frames have C = `channels` channels."""
        lead, (stacked, height, width) = obs.shape[:-3], obs.shape[-3:]
        frames = obs.reshape(-1, channels, height, width)
        index = torch.arange(len(frames), device=obs.device)
        return cls(frames, index.view(*lead, stacked // channels))

    @property
    def lead(self) -> torch.Size:
        """Shape in front of the stack: (B,) or (K, B)."""
        return self.index.shape[:-1]

    def select(self, key: Any) -> "FrameStacks":
        """The stacks at `key`, any index into the leading dimensions."""
        return FrameStacks(self.frames, self.index[key])

    def repeated(self, count: int) -> "FrameStacks":
        """All stacks `count` times, lead (count, *lead); nothing is copied."""
        return FrameStacks(self.frames, self.index.expand(count, *self.index.shape))

    def dense(self) -> Tensor:
        """The observations, uint8 (*lead, S*C, H, W)."""
        return self.frames[self.index].flatten(-4, -3)

    def crop(self, offsets: Tensor, size: int) -> Tensor:
        """Cut a square out of each stack, uint8 (*lead, S*C, size, size).

        Args: `offsets`: int64 (*lead, 2), row and column of its upper left pixel, in [0, H - size].

        Raises: ValueError: shapes do not fit. Offsets are not looked at, which would take a wait.
        """
        self._check(offsets)
        height, width = self.frames.shape[-2:]
        if size > min(height, width):
            raise ValueError(f"size={size} is larger than frames {tuple(self.frames.shape)}")
        row, column = offsets.unbind(-1)
        rows = self._rows(row[..., None] + _steps(0, size, row))
        starts = rows * width + column[..., None, None]
        return _runs(self.frames, starts, size).view(*self.lead, -1, size, size)

    def shift(self, offsets: Tensor, pad: int) -> Tensor:
        """Repeat the border `pad` times, then cut the size out again: uint8 (*lead, S*C, H, W).

        Args: `offsets`: int64 (*lead, 2), row and column in [0, 2*pad]; `pad` is no shift.
        """
        self._check(offsets)
        height, width = self.frames.shape[-2:]
        row, column = offsets.unbind(-1)
        # Rows first, then columns within them, so that memory moves in blocks both times.
        rows = self._rows((row[..., None] + _steps(-pad, height, row)).clamp_(0, height - 1))
        images = self.frames.reshape(-1, width).index_select(0, rows.flatten())
        left, right = images[:, :1].expand(-1, pad), images[:, -1:].expand(-1, pad)
        images = torch.cat([left, images, right], dim=1)
        starts = _steps(0, len(images), row).view(rows.shape) * (width + 2 * pad)
        shifted = _runs(images, starts + column[..., None, None], width)
        return shifted.view(*self.lead, -1, height, width)

    def _rows(self, row: Tensor) -> Tensor:
        """Numbers among all frames' rows of those at heights `row` (*lead, R): (*lead, S*C, R)."""
        channels, height = self.frames.shape[1:3]
        planes = self.index[..., None] * channels + _steps(0, channels, row)
        return planes.flatten(-2)[..., None] * height + row[..., None, :]

    def _check(self, offsets: Tensor) -> None:
        if offsets.shape != (*self.lead, 2):
            raise ValueError(f"offsets {tuple(offsets.shape)} must be {(*self.lead, 2)}")


def _runs(source: Tensor, starts: Tensor, length: int) -> Tensor:
    """`length` neighbouring bytes of `source` from each of `starts`, (starts, length).

    Rows of a view of all runs, which overlap: copying rows is several times faster than indexing.
    """
    every_run = source.flatten().as_strided((source.numel() - length + 1, length), (1, 1))
    return every_run.index_select(0, starts.flatten())


def _steps(first: int, count: int, like: Tensor) -> Tensor:
    """`count` whole numbers from `first` on, int64, on the device of `like`."""
    return torch.arange(first, first + count, device=like.device)
