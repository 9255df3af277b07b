"""Non-finite numbers are noticed on the device and stop the run before they are saved."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import NonFiniteError
from .disk import write_atomically

WATCHED = ("loss/", "gradient_norm/")

log = logging.getLogger(__name__)


class NonFiniteGuard:
    """Remembers the first update whose losses or norms were not finite, without a device sync.

    `observe` reads and writes the same memory each time, so it may be captured in a CUDA graph
    together with the update; `check` is where the host looks.

    Args:
        metrics: 0-d tensors of what the latest update reported, by name; those below `loss/` and
            `gradient_norm/` are watched. A norm is finite only if all of its gradient is.
    """

    def __init__(self, metrics: Mapping[str, Tensor]) -> None:
        self._watched = {name: metrics[name] for name in metrics if name.startswith(WATCHED)}
        values = torch.stack(list(self._watched.values()))
        self._values = torch.zeros_like(values, dtype=torch.float32)  # of the first bad update
        self._update_step = torch.zeros((), dtype=torch.int64, device=values.device)
        self._seen = torch.zeros((), dtype=torch.bool, device=values.device)

    def observe(self, update_step: int | Tensor) -> None:
        """Look at the metrics after update `update_step`; in a CUDA graph a 0-d int64 tensor."""
        values = torch.stack(list(self._watched.values())).float()
        first = ~torch.isfinite(values).all() & ~self._seen
        step = torch.as_tensor(update_step, device=self._update_step.device)
        self._update_step.copy_(torch.where(first, step, self._update_step))
        self._values.copy_(torch.where(first, values, self._values))
        self._seen.logical_or_(first)

    def check(self, folder: Path, known: Mapping[str, float] | None = None) -> None:
        """Look at what was noted, and at `known` numbers of the host; waits for the device.

        Raises NonFiniteError: after `nonfinite.json` was written in `folder`.
        """
        numbers, where = dict(known or {}), ""
        if bool(self._seen):
            numbers |= dict(zip(self._watched, self._values.tolist(), strict=True))
            numbers["update_step"] = int(self._update_step)
            where = f" at update {numbers['update_step']}"
        bad = [f"{name}={value}" for name, value in numbers.items() if not math.isfinite(value)]
        if bad:
            write_report(folder, numbers)
            raise NonFiniteError(f"{', '.join(bad)}{where}; more in {folder / 'nonfinite.json'}")


def write_report(folder: Path, facts: Mapping[str, float | str]) -> None:
    """Write `nonfinite.json`; a full disk must not hide the error that is being reported."""
    spelled = {  # JSON has no NaN or infinity
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in facts.items()
    }
    try:
        write_atomically(folder / "nonfinite.json", json.dumps(spelled, indent=1) + "\n")
    except OSError as error:
        log.warning("nonfinite.json could not be written: %s", error)
