"""What updates report, on the device: its latest values, and the first that are not finite."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import NonFiniteError
from .disk import write_atomically

WATCHED = ("loss/", "gradient_norm/")

log = logging.getLogger(__name__)


class LatestMetrics:
    """The latest value of every metric, and the first update in which a watched one was no number.

    Each is 0 until an update reports it; watched are those below `loss/` and `gradient_norm/` (a
    norm is finite only if all of its gradient is). The tensors stay the same ones, so that `update`
    may be part of a CUDA graph: it waits for nothing, the other methods for the device.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.values = {name: torch.zeros((), device=device) for name in names}
        self._watched = [name for name in names if name.startswith(WATCHED)]
        self._bad_update = torch.full((), -1, dtype=torch.int64, device=device)  # the first
        self._bad_values = torch.zeros(len(self._watched), device=device)  # of that

    def update(self, metrics: Mapping[str, Tensor], update_step: int | Tensor) -> None:
        """Copy what an update reported, the other metrics keep their values; and look at them.

        Args: `update_step`: the update's number; in a CUDA graph a 0-d int64 tensor.
        """
        torch._foreach_copy_([self.values[name] for name in metrics], list(metrics.values()))
        values = torch.stack([self.values[name] for name in self._watched])
        first = ~torch.isfinite(values).all() & (self._bad_update < 0)
        self._bad_update.copy_(torch.where(first, update_step, self._bad_update))
        self._bad_values.copy_(torch.where(first, values, self._bad_values))

    def fetch(self) -> dict[str, float]:
        """All values, in a single transfer to the host."""
        stacked = torch.stack([value.double() for value in self.values.values()])
        return dict(zip(self.values, stacked.tolist(), strict=True))

    def check(self, folder: Path, known: Mapping[str, float]) -> None:
        """Look at what was noted, and at `known` numbers of the host.

        Raises: NonFiniteError: after `nonfinite.json` was written in `folder`.
        """
        numbers, where = dict(known), ""
        if (update_step := int(self._bad_update)) >= 0:
            numbers |= dict(zip(self._watched, self._bad_values.tolist(), strict=True))
            numbers["update_step"] = update_step
            where = f" at update {update_step}"
        bad = [f"{name}={value}" for name, value in numbers.items() if not math.isfinite(value)]
        if bad:
            write_report(folder, numbers)
            raise NonFiniteError(f"{', '.join(bad)}{where}; more in {folder / 'nonfinite.json'}")

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.values)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(state[name])


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
