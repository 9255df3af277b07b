"""Stacks of frames kept as indices into one array of frames, cut out exactly when needed."""

from __future__ import annotations

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
        if self.frames.ndim != 4 or self.frames.dtype != torch.uint8:
            raise ValueError(f"frames must be uint8 (F, C, H, W), not {_described(self.frames)}")
        if self.index.ndim < 1 or self.index.dtype != torch.int64:
            raise ValueError(f"index must be int64 (*lead, S), not {_described(self.index)}")

    @classmethod
    def from_dense(cls, obs: Tensor, channels: int) -> FrameStacks:
        """Stacks of uint8 `obs` (*lead, S*C, H, W), whose frames have C = `channels` channels."""
        lead, (stacked, height, width) = obs.shape[:-3], obs.shape[-3:]
        if stacked % channels:
            raise ValueError(f"{stacked} channels are no multiple of channels={channels}")
        frames = obs.reshape(-1, channels, height, width)
        index = torch.arange(len(frames), device=obs.device)
        return cls(frames, index.view(*lead, stacked // channels))

    @property
    def lead(self) -> torch.Size:
        """Shape in front of the stack: (B,) or (K, B)."""
        return self.index.shape[:-1]

    def select(self, key: Any) -> FrameStacks:
        """The stacks at `key`, any index into the leading dimensions."""
        return FrameStacks(self.frames, self.index[key])

    def to(self, device: torch.device | str) -> FrameStacks:
        """The same stacks on `device`; nothing is copied that lies there already."""
        frames = self.frames.to(device, non_blocking=True)
        return FrameStacks(frames, self.index.to(device, non_blocking=True))

    def dense(self) -> Tensor:
        """The observations, uint8 (*lead, S*C, H, W)."""
        return self.frames[self.index].flatten(-4, -3)

    def crop(self, offsets: Tensor, size: int) -> Tensor:
        """Cut a square out of each stack, the same one from all its frames.

        Args:
            offsets: int64 (*lead, 2), row and column of the upper left pixel, in [0, H - size].
            size: side of the square in pixels.

        Returns:
            uint8 (*lead, S*C, size, size).

        Raises:
            ValueError: shapes do not fit. IndexError: an offset is out of range (on the CPU).
        """
        self._check(offsets)
        if size > min(self.frames.shape[-2:]):
            raise ValueError(f"size={size} is larger than frames {tuple(self.frames.shape)}")
        # A view of every possible window, so that the gather copies nothing but the windows.
        windows = self.frames.unfold(2, size, 1).unfold(3, size, 1)
        row, column = offsets[..., None, 0], offsets[..., None, 1]
        return windows[self.index, :, row, column].flatten(-4, -3)

    def shift(self, offsets: Tensor, pad: int) -> Tensor:
        """Repeat the border `pad` times on each side, then cut the original size out again.

        Args:
            offsets: int64 (*lead, 2), row and column in [0, 2*pad]; `pad` is no shift.
            pad: pixels on each side.

        Returns:
            uint8 (*lead, S*C, H, W).
        """
        self._check(offsets)
        height, width = self.frames.shape[-2:]
        row, column = offsets.unbind(-1)
        # Whole rows are copied first, then columns within them: a window at a time is far slower.
        shifted_rows = self._clamped(row, pad, height)[..., None, None, :]
        channels = torch.arange(self.frames.shape[1], device=self.frames.device)[:, None]
        planes = self.index[..., None, None] * len(channels) + channels
        rows = (planes * height + shifted_rows).flatten()  # (*lead, S, C, H) of all rows
        images = self.frames.reshape(-1, width).index_select(0, rows)
        images = images.view(len(row.flatten()), -1, width)
        columns = self._clamped(column, pad, width).reshape(-1, 1, width)
        shifted = images.gather(-1, columns.expand(-1, images.shape[1], -1))
        return shifted.view(*self.lead, -1, height, width)

    def _clamped(self, offset: Tensor, pad: int, length: int) -> Tensor:
        """Source positions int64 (*lead, length) of a side shifted by `offset` - `pad`."""
        position = torch.arange(-pad, length - pad, device=offset.device)
        return (offset[..., None] + position).clamp_(0, length - 1)

    def _check(self, offsets: Tensor) -> None:
        if offsets.shape != (*self.lead, 2):
            raise ValueError(f"offsets {tuple(offsets.shape)} must be {(*self.lead, 2)}")


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
