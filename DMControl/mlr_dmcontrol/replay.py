"""Uniform replay that keeps every frame once, on the device that trains.

Transitions and frames are counted from 0 and never renumbered; the n-th lies in slot
n % capacity of its ring. A transition knows its frame and its episode's first frame, which is all
that its stack, and the next one, need: `stack[j] = max(frame - j, first)`.

What may be drawn are two queues, moved on by plain integers on the host: transitions
[oldest, added), and starts of windows in the order in which they became complete. So a uniform
draw is one random integer, and what is drawn is always valid.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .batch import Batch, SequenceBatch
from .device import to_device
from .errors import ConfigError
from .frames import FrameStacks

# An episode has one frame more than transitions. Room for one such frame per this many
# transitions; if episodes are shorter, the oldest transitions are given up a little earlier.
_TRANSITIONS_PER_EXTRA_FRAME = 64


class UniformReplay:
    """Ring of the latest transitions, drawn uniformly, alone and as windows of K in a row.

    A window never contains an episode's last transition nor the newest one, as in the published
    code; unlike there, it never spans the ring's write position either.

    Attributes:
        frames_written: frames stored since the beginning.
    """

    def __init__(
        self,
        capacity: int,
        *,
        frame_shape: Sequence[int],
        action_dim: int,
        frame_stack: int,
        sequence_length: int | None,
        device: torch.device | str,
    ) -> None:
        """Reserve the memory.

        Args:
            capacity: transitions (agent steps) kept at most.
            frame_shape: (C, H, W). frame_stack: S.
            sequence_length: K, transitions in a window; None if none will be drawn.
        """
        self.capacity, self.sequence_length = capacity, sequence_length
        self.device = torch.device(device)
        self._reach = frame_stack - 1  # frames that a stack reaches back
        extra = -(-capacity // _TRANSITIONS_PER_EXTRA_FRAME) + frame_stack + 1
        shape = (capacity + extra, *frame_shape)
        self._frames = torch.empty(shape, dtype=torch.uint8, device=device)
        self._arrays = {"action": torch.zeros(capacity, action_dim, device=device)}
        for name in ("reward", "terminated"):
            self._arrays[name] = torch.zeros(capacity, device=device)
        for name in ("frame", "first_frame"):
            self._arrays[name] = torch.zeros(capacity, dtype=torch.int64, device=device)
        self._back = torch.arange(self._reach, -1, -1, device=device)
        self._steps = torch.arange(sequence_length or 0, device=device)[:, None]
        self._oldest_frame = np.zeros(capacity, np.int64)  # that a transition's stack reaches
        self._starts = np.zeros(capacity if sequence_length else 0, np.int64)  # a ring, ascending
        self._starts_dropped = self._starts_added = 0
        self._oldest = self._added = 0  # transitions
        self.frames_written = 0
        self._first_frame = 0  # of the latest episode
        self._episode_open = False

    def __len__(self) -> int:
        return self._added - self._oldest

    @property
    def num_windows(self) -> int:
        """Valid window starts at present."""
        return self._starts_added - self._starts_dropped

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, on the device and on the host."""
        on_device = sum(array.nbytes for array in (self._frames, *self._arrays.values()))
        return on_device + self._oldest_frame.nbytes + self._starts.nbytes

    def start_episode(self, frame: np.ndarray) -> None:
        """Begin an episode with its first frame, uint8 (C, H, W).

        An episode that was still open just ends: its last transition is in no window.
        """
        self._first_frame, self._episode_open = self.frames_written, True
        self._store_frame(frame)
        self._drop_overwritten()

    def add(
        self,
        action: np.ndarray,
        reward: float,
        next_frame: np.ndarray,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Append one transition: the action, float32 (A,), and what it led to, uint8 (C, H, W)."""
        assert self._episode_open, "call start_episode before add"
        slot, frame = self._added % self.capacity, self.frames_written - 1
        self._store_frame(next_frame)
        self._arrays["action"][slot].copy_(to_device(torch.as_tensor(action), self.device))
        self._arrays["reward"][slot].fill_(reward)
        self._arrays["terminated"][slot].fill_(float(terminated))
        self._arrays["frame"][slot].fill_(frame)
        self._arrays["first_frame"][slot].fill_(self._first_frame)
        self._oldest_frame[slot] = max(frame - self._reach, self._first_frame)
        # This transition proves that the K before it, if of this episode, were not its last.
        if self.sequence_length and frame - self._first_frame >= self.sequence_length:
            self._starts[self._starts_added % self.capacity] = self._added - self.sequence_length
            self._starts_added += 1
        self._added += 1
        self._episode_open = not (terminated or truncated)
        self._drop_overwritten()

    def draw(
        self, generator: torch.Generator, batch_size: int, num_windows: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """Draw uniformly, with replacement, transitions and then starts of windows.

        Returns:
            Slots for `gather`, on the CPU: int64 (batch_size,), and (num_windows,) or None for 0.

        Raises:
            ConfigError: no window is complete. RuntimeError: no transition is there.
        """
        low, high, shape = self._oldest, self._added, (batch_size,)
        transitions = torch.randint(low, high, shape, generator=generator) % self.capacity
        if num_windows == 0:
            return transitions, None
        if self.num_windows == 0:
            raise ConfigError(
                f"agent.sequence_length={self.sequence_length}: no window of so many steps among "
                f"the {len(self)} stored; an episode must be longer than it, so lower it or "
                "environment.action_repeat, or raise agent.learning_starts"
            )
        low, high = self._starts_dropped, self._starts_added
        places = torch.randint(low, high, (num_windows,), generator=generator) % self.capacity
        return transitions, torch.from_numpy(self._starts[places.numpy()] % self.capacity)

    def gather(self, transitions: Tensor, windows: Tensor | None = None) -> Batch:
        """What `draw` chose, as tensors on the replay's device; without a sync, shapes static."""
        transitions = transitions.to(self.device, non_blocking=True)
        frame = self._arrays["frame"][transitions]
        first = self._arrays["first_frame"][transitions]
        sequence = None
        if windows is not None:
            windows = windows.to(self.device, non_blocking=True)
            slots = (windows + self._steps) % self.capacity  # (K, B')
            sequence = SequenceBatch(
                obs=self._stacks(self._arrays["frame"][slots], self._arrays["first_frame"][slots]),
                action=self._arrays["action"][slots],
                reward=self._arrays["reward"][slots],
            )
        return Batch(
            obs=self._stacks(frame, first),
            next_obs=self._stacks(frame + 1, first),
            action=self._arrays["action"][transitions],
            reward=self._arrays["reward"][transitions],
            terminated=self._arrays["terminated"][transitions],
            sequence=sequence,
        )

    def _stacks(self, frame: Tensor, first_frame: Tensor) -> FrameStacks:
        """Stacks that end with `frame` (*lead) and repeat their episode's first one if need be."""
        index = torch.maximum(frame[..., None] - self._back, first_frame[..., None])
        return FrameStacks(self._frames, index % len(self._frames))

    # ---- saving: frames in blocks (see run/checkpoint.py), all else in the state -------------

    @property
    def first_live_frame(self) -> int:
        """The oldest frame that is still of use."""
        if len(self):
            return int(self._oldest_frame[self._oldest % self.capacity])
        return self._first_frame

    def read_frames(self, start: int, stop: int) -> Tensor:
        """Frames number `start` to `stop` - 1, uint8 (stop - start, C, H, W) on the CPU."""
        assert self.first_live_frame <= start <= stop <= self.frames_written
        slots = torch.arange(start, stop, device=self.device) % len(self._frames)
        return self._frames[slots].cpu()

    def write_frames(self, start: int, frames: Tensor) -> None:
        """Put back what `read_frames` gave; frames that are of no use any more are left out."""
        number = np.arange(start, start + len(frames))
        live = (number >= self.first_live_frame) & (number < self.frames_written)
        slots = torch.from_numpy(number[live] % len(self._frames)).to(self.device)
        self._frames[slots] = frames[torch.from_numpy(live)].to(self.device)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the frames, oldest first, so that it also fits a larger replay."""
        slots = torch.arange(self._oldest, self._added, device=self.device) % self.capacity
        places = np.arange(self._starts_dropped, self._starts_added) % self.capacity
        return {
            "oldest": self._oldest,
            "added": self._added,
            "frames_written": self.frames_written,
            "episode_first_frame": self._first_frame,
            "episode_open": self._episode_open,
            "starts": torch.from_numpy(self._starts[places]),
            **{name: array[slots].cpu() for name, array in self._arrays.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over `state`; `write_frames` must follow for frames from `first_live_frame` on.

        Raises: ValueError: there are more transitions than this replay can hold.
        """
        count = state["added"] - state["oldest"]
        if count > self.capacity:
            raise ValueError(f"{count} transitions do not fit into a replay of {self.capacity}")
        self._oldest, self._added = state["oldest"], state["added"]
        self.frames_written = state["frames_written"]
        self._first_frame, self._episode_open = state["episode_first_frame"], state["episode_open"]
        slots = torch.arange(self._oldest, self._added) % self.capacity
        for name, array in self._arrays.items():
            array[slots.to(self.device)] = state[name].to(self.device)
        oldest_frame = torch.maximum(state["frame"] - self._reach, state["first_frame"])
        self._oldest_frame[slots.numpy()] = oldest_frame.cpu().numpy()
        # Where in its ring the queue of starts lies has no effect on what is drawn.
        self._starts_dropped, self._starts_added = 0, len(state["starts"])
        self._starts[: self._starts_added] = state["starts"].cpu().numpy()
        self._drop_overwritten()

    # ---- writing -----------------------------------------------------------------------------

    def _store_frame(self, frame: np.ndarray) -> None:
        place = self._frames[self.frames_written % len(self._frames)]
        place.copy_(to_device(torch.from_numpy(frame), self.device))
        self.frames_written += 1

    def _drop_overwritten(self) -> None:
        """Move both queues past every transition whose slot or frames have been overwritten."""
        oldest_frame = self.frames_written - len(self._frames)
        while len(self) > self.capacity or (
            len(self) and self._oldest_frame[self._oldest % self.capacity] < oldest_frame
        ):
            self._oldest += 1
        while (
            self.num_windows and self._starts[self._starts_dropped % self.capacity] < self._oldest
        ):
            self._starts_dropped += 1
