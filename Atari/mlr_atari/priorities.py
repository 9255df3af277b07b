"""Proportional prioritised sampling on the replay's device, without host synchronisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError

LARGEST_PRIORITY = 1e6  # the agent clamps its KL there; larger ones count as this
_BITS = 62  # the sum of all fixed-point masses stays below 2 ** this
_USUAL_CAPACITY = 2**20  # up to here the masses do not depend on the capacity, so it may grow
_FLOOR = 1e-5  # added to a mass before its importance weight is taken (published)


class ProportionalPriorities:
    """Draws entry i with probability `priority_i ** exponent / sum`.

    The masses `priority ** exponent` are kept as whole multiples of a power of two. Their sums
    are then exact in any order, so that a draw does not depend on the device, nor drift over a
    run, and the cumulative sum is deterministic on CUDA. An entry of mass 0 is never drawn: it is
    switched off until `set` gives it a priority.
    """

    def __init__(self, capacity: int, exponent: float, device: torch.device | str) -> None:
        """All `capacity` entries are off.

        Args:
            exponent: 0 draws uniformly among the entries that are on, 1 in full proportion.
        """
        largest = max(1.0, LARGEST_PRIORITY**exponent)
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
        """Write new priorities after an update of the agent.

        The first of several equal indices counts. A priority that is negative or not a number
        changes nothing, and an entry that is off stays off.

        Args:
            indices: int64 (B,).
            priorities: float (B,), before the exponent.
        """
        batch = torch.arange(len(indices), device=indices.device)
        same = indices[:, None] == indices
        # Equal indices all write the first one's value, so their order does not matter on CUDA.
        first = torch.where(same, batch, len(indices)).amin(1)
        priorities = priorities.double()[first].clamp(max=LARGEST_PRIORITY)
        before = self._masses[indices]
        usable = (priorities >= 0) & (before > 0)
        self._masses[indices] = torch.where(usable, self._fixed(priorities), before)
        seen = torch.where(usable, priorities, 0.0).amax()
        self._largest_seen.copy_(torch.maximum(self._largest_seen, seen))

    def draw(self, uniforms: Tensor) -> Tensor:
        """Draw with replacement.

        Args:
            uniforms: float64 (B,) in [0, 1).

        Returns:
            int64 (B,), entries that are on. If none is, the result means nothing.
        """
        cumulative = self._masses.cumsum(0)
        total = cumulative[-1]
        # Rounding may carry u * total up to the total itself.
        target = torch.minimum((uniforms * total).long(), total - 1)
        return torch.searchsorted(cumulative, target, right=True).clamp_(max=len(cumulative) - 1)

    def importance_weights(self, indices: Tensor, exponent: Tensor) -> Tensor:
        """`(1 / (mass + 1e-5)) ** exponent`, divided by the largest of the batch.

        Args:
            indices: int64 (B,).
            exponent: float (), beta.

        Returns:
            float32 (B,).
        """
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
