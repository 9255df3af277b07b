"""Replay of a run: every frame stored once, on the device; batches are built when drawn.

Draws are prioritised, without host synchronisation. Letters: B sequences of K observations of S
frames; t is the slot of a sequence's first step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .batch import Batch
from .device import to_device
from .errors import CheckpointError, ConfigError
from .frames import FrameStacks
from .run.schema import bounded, choice

_SMALL = ("_action", "_reward", "_end", "_cap", "_history")  # arrays with one number a step

_LARGEST = 1e6  # the agent clamps its KL there; larger ones count as this
_BITS = 62  # the sum of all fixed-point masses stays below 2 ** this
_USUAL_CAPACITY = 2**20  # up to here the masses do not depend on the capacity, so it may grow
_FLOOR = 1e-5  # added to a mass before its importance weight is taken (published)


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """Keys of the section `agent` that the replay reads."""

    replay: str = choice("prioritized", "uniform")  # which steps are drawn more often
    sequence_length: int = bounded(1, 1024)  # observations in a sequence, K
    n_step: int = bounded(1, 1024)  # rewards in a return, n
    discount: float = bounded(0, 1)  # gamma
    n_step_end_flag: str = choice("n_step", "one_step")  # which ends stop the bootstrap
    time_limit: str = choice("bootstrap", "terminal")  # what a game stopped at its cap means
    priority_exponent: float = bounded(0, 1)  # PER's alpha
    new_priority: str = choice("one", "largest")  # of a step that was never drawn


def steps_off_limits(settings: ReplaySettings, frame_stack: int) -> int:
    """Steps that cannot be drawn at any time, as `SequenceReplay` says: 1 + n + K and S - 1."""
    return settings.n_step + settings.sequence_length + frame_stack


def check_capacity(capacity: int, settings: ReplaySettings, frame_stack: int) -> None:
    """Raises: ConfigError: so few steps are kept that none could ever be drawn."""
    least = steps_off_limits(settings, frame_stack) + 1
    if capacity < least:
        raise ConfigError(
            f"replay.capacity={capacity}: too small to hold a sequence of "
            f"{settings.sequence_length} with {settings.n_step}-step returns; use at least {least}"
        )


class SequenceReplay:
    """Steps in a ring; slot i holds o_i's newest frame, a_i, r_i and whether a_i ended it.

    An end is a lost life, the end of a game, or its cap. Off limits as first step are the newest
    1 + n + K slots, whose returns and sequences are not complete, and the S - 1 that will be
    overwritten next, whose stacks are not complete any more (the published code, also
    before the ring is full, so that a run's first S - 1 steps are never drawn).

    With `time_limit: bootstrap`, the return of a step before a cap stops in front of the capped
    step t+m and bootstraps from o_{t+m} with gamma^m; the capped step itself is never drawn.

    Attributes:
        frames_written: steps added in all; step number k lies in slot k % capacity.
    """

    def __init__(
        self,
        capacity: int,
        settings: ReplaySettings,
        *,
        frame_stack: int,
        frame_shape: tuple[int, int, int],
        device: torch.device | str,
    ) -> None:
        """Allocate the ring of `capacity` steps; S is `frame_stack`, (C, H, W) `frame_shape`.

        Raises: ConfigError: so small that no step could ever be drawn.
        """
        self._settings, self._capacity = settings, capacity
        self._behind = 1 + settings.n_step + settings.sequence_length
        self._ahead = frame_stack - 1
        check_capacity(capacity, settings, frame_stack)
        self.device = device = torch.device(device)
        # Not zeroed: what was never written is never read, and takes no memory on a CPU.
        self._frames = torch.empty((capacity + 1, *frame_shape), dtype=torch.uint8, device=device)
        self._frames[capacity] = 0  # the blank frame of the stacks at an episode's start
        self._action = torch.zeros(capacity, dtype=torch.int64, device=device)
        self._reward = torch.zeros(capacity, dtype=torch.float32, device=device)
        self._end = torch.zeros(capacity, dtype=torch.bool, device=device)
        self._cap = torch.zeros(capacity, dtype=torch.bool, device=device)
        self._history = torch.zeros(capacity, dtype=torch.uint8, device=device)  # older frames, < S
        self._prioritized = settings.replay == "prioritized"
        exponent = settings.priority_exponent if self._prioritized else 0.0
        self._priorities = ProportionalPriorities(capacity, exponent, device)
        length = max(settings.n_step, settings.sequence_length)
        self._steps = torch.arange(length, device=device)
        self._backwards = torch.arange(frame_stack - 1, -1, -1, device=device)
        powers = torch.arange(settings.n_step + 1, dtype=torch.float64, device=device)
        self._discounts = (settings.discount**powers).float()
        self.frames_written = 0
        self._oldest = 0  # of the steps that are known; a replay that had less room knew fewer
        self._age = 0  # of the episode that the next step belongs to
        self._capped = [False] * self._behind  # of the newest steps, a ring by step number

    @property
    def first_live_frame(self) -> int:
        """Number of the oldest step that is not overwritten."""
        return max(self._oldest, self.frames_written - self._capacity)

    @property
    def can_draw(self) -> bool:
        """Whether there is a step to draw."""
        return bool(self.frames_written - 1 - self._behind >= self._ahead)

    @property
    def nbytes(self) -> int:
        """Bytes kept on the device."""
        small = sum(getattr(self, name).nbytes for name in _SMALL)
        return self._frames.nbytes + small + self._priorities.nbytes

    def add(
        self,
        frame: np.ndarray,
        action: int,
        clipped_reward: float,
        *,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Store one step.

        Args:
            frame: uint8 (H, W) or (C, H, W), the newest of the observation that the action saw.
            terminated: the action ended the game or lost a life. truncated: it reached its cap.
        """
        step, slot = self.frames_written, self.frames_written % self._capacity
        self._frames[slot].copy_(to_device(torch.from_numpy(frame), self.device))
        # Filling is one kernel of a GPU; assigning would be a copy more, which waits.
        self._action[slot].fill_(action)
        self._reward[slot].fill_(clipped_reward)
        self._end[slot].fill_(terminated or truncated)
        self._cap[slot].fill_(truncated and not terminated)
        self._history[slot].fill_(min(self._age, self._ahead))
        self._age = 0 if terminated or truncated else self._age + 1
        self.frames_written += 1
        self._move_limits(step)
        self._capped[step % self._behind] = truncated and not terminated

    def truncate_newest(self) -> None:
        """Mark the newest step as stopped at a cap: its episode cannot be gone on with."""
        if self.frames_written == 0 or self._age == 0:
            return
        newest = self.frames_written - 1
        self._end[newest % self._capacity] = True
        self._cap[newest % self._capacity] = True
        self._capped[newest % self._behind] = True
        self._age = 0

    def draw(self, uniforms: Tensor) -> Tensor:
        """Draw first steps of sequences, with replacement, as the priorities are now.

        Args: `uniforms`: float64 (B,) in [0, 1), on the replay's device.

        Returns: Slots for `gather`: int64 (B,); they mean nothing unless `can_draw`.
        """
        return self._priorities.draw(uniforms)

    def gather(self, slots: Tensor, importance_exponent: Tensor) -> Batch:
        """The sequences that begin at `slots`; the exponent, float (), is PER's beta."""
        length, n_step = self._settings.sequence_length, self._settings.n_step
        offset = self._steps[:, None]
        steps = (slots + offset) % self._capacity  # (max(K, n), B)
        ends = self._end[steps]
        # Steps until the first end; as many as there are if none comes.
        first_end = torch.where(ends, offset, len(offset)).amin(0)
        frozen = slots + torch.minimum(offset[:length], first_end)
        bootstrap_at, n_step_return, bootstrap = self._returns(steps[:n_step], first_end)
        if self._prioritized:
            weights = self._priorities.importance_weights(slots, importance_exponent)
        else:
            weights = torch.ones_like(n_step_return)
        return Batch(
            obs=self._stacks(frozen),
            n_step_obs=self._stacks(slots + bootstrap_at),
            action=self._action[steps[:length]],
            n_step_return=n_step_return,
            bootstrap_discount=bootstrap,
            ends=ends[:length],
            importance_weights=weights,
        )

    def update_priorities(self, slots: Tensor, priorities: Tensor) -> None:
        """Write the priorities (B,) that an update found; see `ProportionalPriorities.update`."""
        if self._prioritized:
            self._priorities.update(slots, priorities)

    def read_frames(self, start: int, stop: int) -> Tensor:
        """Frames of steps number `start` to `stop` (excluded), uint8 (stop - start, C, H, W)."""
        assert self.first_live_frame <= start <= stop <= self.frames_written
        return self._frames[torch.arange(start, stop, device=self.device) % self._capacity]

    def write_frames(self, start: int, frames: Tensor) -> None:
        """Put back what `read_frames` gave; frames that are of no use any more are left out."""
        begin = max(start, self.first_live_frame)
        stop = min(start + len(frames), self.frames_written)
        if begin < stop:
            slots = torch.arange(begin, stop, device=self.device) % self._capacity
            self._frames[slots] = frames[begin - start : stop - start].to(self.device)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the frames, oldest step first, so that it also fits a larger replay."""
        slots = self._live_slots()
        return {
            "oldest": self.first_live_frame,
            "written": self.frames_written,
            "age": self._age,
            "capped": list(self._capped),
            "priorities": self._priorities.state_dict(slots),
            **{name: getattr(self, name)[slots] for name in _SMALL},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy `state` into place; the frames follow by `write_frames`.

        Raises: CheckpointError: it is the state of a larger one.
        """
        if state["written"] - state["oldest"] > self._capacity:
            raise CheckpointError(f"replay: more steps were saved than it holds, {self._capacity}")
        self._oldest, self.frames_written = state["oldest"], state["written"]
        self._age, self._capped = state["age"], list(state["capped"])
        slots = self._live_slots()
        for name in _SMALL:
            getattr(self, name)[slots] = state[name].to(self.device)
        self._priorities.load_state_dict(state["priorities"], slots)

    def _live_slots(self) -> Tensor:
        """Slots of all known steps, oldest first, int64."""
        steps = torch.arange(self.first_live_frame, self.frames_written, device=self.device)
        return steps % self._capacity

    def _move_limits(self, step: int) -> None:
        """Open the slot whose sequence `step` completes, close the one whose stack it breaks."""
        self._priorities.set((step + self._ahead) % self._capacity, 0.0)
        complete = step - self._behind
        if complete < self._ahead:
            return
        slot = complete % self._capacity
        if self._settings.time_limit == "bootstrap" and self._capped[complete % self._behind]:
            return  # nothing follows from which its return could be bootstrapped
        if self._settings.new_priority == "largest":
            self._priorities.set_to_largest(slot)
        else:
            self._priorities.set(slot, 1.0)

    def _returns(self, slots: Tensor, first_end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where to bootstrap, and what the steps at `slots` (n, B) up to there are worth.

        Returns:
            Steps until the bootstrap m, int64 (B,); discounted sum of their rewards, float32 (B,);
            gamma^m, or 0 where nothing is bootstrapped, float32 (B,).
        """
        n_step = self._settings.n_step
        offset = self._steps[:n_step, None]
        until = first_end.clamp(max=n_step)
        last = slots.gather(0, until.clamp(max=n_step - 1)[None])[0]
        capped = self._cap[last] & (first_end < n_step)
        if self._settings.time_limit == "terminal":
            capped = torch.zeros_like(capped)
        # A reward that ends the episode counts; that of a capped step does not, its value does.
        counts = (offset < until) | ((offset == until) & ~capped)
        rewards = torch.where(counts, self._reward[slots], 0.0)
        n_step_return = (rewards * self._discounts[:n_step, None]).sum(0)
        if self._settings.n_step_end_flag == "one_step":
            stops = first_end == 0  # published: a later end is bootstrapped through
        else:
            stops = first_end < n_step
        power = torch.where(capped, until, n_step)
        bootstrap = torch.where(stops & ~capped, 0.0, self._discounts[power])
        return until, n_step_return, bootstrap

    def _stacks(self, newest: Tensor) -> FrameStacks:
        """Stacks whose newest frames lie in slots `newest` (*lead), before the modulo."""
        newest = newest % self._capacity
        index = (newest[..., None] - self._backwards) % self._capacity
        older = self._history[newest].long()[..., None]
        index = torch.where(self._backwards <= older, index, self._capacity)
        return FrameStacks(self._frames, index)


class ProportionalPriorities:
    """Draws entry i with probability `priority_i ** exponent / sum`.

    The masses `priority ** exponent` are kept as whole multiples of a power of two. Their sums
    are then exact in any order, so that a draw does not depend on the device, nor drift over a
    run, and the cumulative sum is deterministic on CUDA. An entry of mass 0 is never drawn: it is
    switched off until `set` gives it a priority.
    """

    def __init__(self, capacity: int, exponent: float, device: torch.device | str) -> None:
        """All `capacity` entries are off; with `exponent` 0, those that are on are equal."""
        largest = max(1.0, _LARGEST**exponent)
        # A power of two, so that masses such as 1 are kept exactly.
        sum_at_most = max(capacity, _USUAL_CAPACITY) * largest
        self._scale = 2.0 ** (_BITS - math.ceil(math.log2(sum_at_most)))
        self._exponent = exponent
        self._masses = torch.zeros(capacity, dtype=torch.int64, device=device)
        self._largest_seen = torch.ones((), dtype=torch.float64, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return self._masses.nbytes

    def masses(self) -> Tensor:
        """priority ** exponent of every entry, float64 (capacity,); 0 where it is off."""
        return self._masses.double() / self._scale

    def set(self, entry: int, priority: float) -> None:
        """Give one entry a priority, known on the host; 0 switches it off."""
        mass = int(priority**self._exponent * self._scale) if priority else 0
        self._masses[entry].fill_(mass)

    def set_to_largest(self, entry: int) -> None:
        """Give one entry the largest priority that `update` has seen, at least 1."""
        self._masses[entry] = self._fixed(self._largest_seen)

    def update(self, indices: Tensor, priorities: Tensor) -> None:
        """Write priorities (B,), before the exponent, to entries `indices`, int64 (B,).

        The first of several equal indices counts. A priority that is negative or not a number
        changes nothing, and an entry that is off stays off.
        """
        batch = torch.arange(len(indices), device=indices.device)
        same = indices[:, None] == indices
        # Equal indices all write the first one's value, so their order does not matter on CUDA.
        first = torch.where(same, batch, len(indices)).amin(1)
        priorities = priorities.double()[first].clamp(max=_LARGEST)
        before = self._masses[indices]
        usable = (priorities >= 0) & (before > 0)
        self._masses[indices] = torch.where(usable, self._fixed(priorities), before)
        seen = torch.where(usable, priorities, 0.0).amax()
        self._largest_seen.copy_(torch.maximum(self._largest_seen, seen))

    def draw(self, uniforms: Tensor) -> Tensor:
        """Entries that are on, int64 (B,), by uniforms, float64 (B,) in [0, 1); if any is."""
        cumulative = self._masses.cumsum(0)
        total = cumulative[-1]
        # Rounding may carry u * total up to the total itself.
        target = torch.minimum((uniforms * total).long(), total - 1)
        return torch.searchsorted(cumulative, target, right=True).clamp_(max=len(cumulative) - 1)

    def importance_weights(self, indices: Tensor, exponent: Tensor) -> Tensor:
        """`(1 / (mass + 1e-5)) ** exponent`, divided by the largest of the batch; float32 (B,)."""
        masses = self._masses[indices].double() / self._scale
        weights = (1.0 / (masses + _FLOOR)) ** exponent.double()
        return (weights / weights.amax()).float()

    def state_dict(self, entries: Tensor) -> dict[str, Any]:
        """The masses of `entries`, int64 (E,), and the largest priority seen."""
        return {
            "masses": self._masses[entries],
            "scale": self._scale,
            "exponent": self._exponent,
            "largest_seen": self._largest_seen,
        }

    def load_state_dict(self, state: Mapping[str, Any], entries: Tensor) -> None:
        """Copy `state` to the entries `entries`, which may be others than before; the rest is off.

        Raises:
            CheckpointError: it was made with another exponent, or a capacity of another magnitude.
        """
        if (state["scale"], state["exponent"]) != (self._scale, self._exponent):
            raise CheckpointError("the saved priorities have another exponent or magnitude")
        self._masses.zero_()
        self._masses[entries] = state["masses"].to(self._masses.device)
        self._largest_seen.copy_(state["largest_seen"])

    def _fixed(self, priorities: Tensor) -> Tensor:
        masses = (priorities**self._exponent * self._scale).long()
        # With exponent 0 even a priority of 0 would be drawn.
        return torch.where(priorities > 0, masses.clamp_(min=1), 0)
