"""Non-finite numbers are noticed on the device and stop the run before they are saved."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import NonFiniteError
from .folder import write_atomically

log = logging.getLogger(__name__)


class NonFiniteGuard:
    """Remembers the first update whose losses or norms were not finite, without a device sync.

    `observe` is made of fixed-address tensor operations, so it may be captured in a CUDA graph
    together with the update; `check` is where the host looks.

    Args:
        losses, norms: names of the 0-d tensors that `observe` will be given, in any order. A
            gradient's norm is finite only if every one of its entries is.
        indices: for each name, an example of the index tensor that says what was sampled.
    """

    def __init__(
        self,
        losses: list[str],
        norms: list[str],
        indices: Mapping[str, Tensor],
        device: torch.device | str,
    ) -> None:
        self._names = [("losses", name) for name in losses] + [("norms", name) for name in norms]
        self._seen = torch.zeros((), dtype=torch.bool, device=device)
        self._update_step = torch.zeros((), dtype=torch.int64, device=device)
        self._values = torch.zeros(len(self._names), device=device)
        self._indices = {name: torch.zeros_like(each) for name, each in indices.items()}

    def observe(
        self,
        update_step: int | Tensor,
        losses: Mapping[str, Tensor],
        norms: Mapping[str, Tensor],
        indices: Mapping[str, Tensor],
    ) -> None:
        """Take note of one update.

        Args:
            update_step: its number; a 0-d int64 tensor inside a CUDA graph.
            losses, norms: 0-d tensors.
            indices: the sampled indices, of the shapes given at construction.
        """
        groups = {"losses": losses, "norms": norms}
        values = torch.stack([groups[group][name].detach() for group, name in self._names]).float()
        first = ~torch.isfinite(values).all() & ~self._seen
        step = torch.as_tensor(update_step, device=self._update_step.device)
        self._update_step.copy_(torch.where(first, step, self._update_step))
        self._values.copy_(torch.where(first, values, self._values))
        for name, kept in self._indices.items():
            kept.copy_(torch.where(first, indices[name], kept))
        self._seen.logical_or_(first)

    def check(self, folder: Path, known: Mapping[str, float] | None = None) -> None:
        """Look at what was noted; synchronises with the device.

        Args:
            known: numbers of the host to look at too, such as returns; all are reported.

        Raises:
            NonFiniteError: after `nonfinite.json` was written in `folder`.
        """
        report: dict[str, Any] = dict(known or {})
        numbers, where = dict(known or {}), ""
        if bool(self._seen):
            report |= {"update_step": int(self._update_step), "losses": {}, "norms": {}}
            for (group, name), value in zip(self._names, self._values.tolist(), strict=True):
                report[group][name] = numbers[name] = value
            report["indices"] = {name: each.tolist() for name, each in self._indices.items()}
            where = f" at update {report['update_step']}"
        bad = [f"{name}={value}" for name, value in numbers.items() if not math.isfinite(value)]
        if bad:
            write_report(folder, report)
            raise NonFiniteError(f"{', '.join(bad)}{where}; more in {folder / 'nonfinite.json'}")


def first_non_finite(tree: Any, name: str = "") -> str | None:
    """Name of the first floating tensor in nested dicts, lists and tuples that holds a NaN or inf.

    The tensors are read once, without a temporary; each costs one host synchronisation.
    """
    if isinstance(tree, Tensor):
        if not (tree.is_floating_point() and tree.numel()):
            return None
        # NaN and infinities pass through minimum and maximum.
        extremes = torch.stack(torch.aminmax(tree.detach()))
        return None if bool(torch.isfinite(extremes).all()) else name
    if isinstance(tree, Mapping):
        children = list(tree.items())
    elif isinstance(tree, (list, tuple)):
        children = list(enumerate(tree))
    else:
        return None
    found = (
        first_non_finite(child, f"{name}.{key}" if name else str(key)) for key, child in children
    )
    return next((each for each in found if each is not None), None)


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write `nonfinite.json`; a full disk must not hide the error that is being reported."""
    try:
        write_atomically(folder / "nonfinite.json", json.dumps(_spelled(report), indent=1) + "\n")
    except OSError as error:
        log.warning("nonfinite.json could not be written: %s", error)


def _spelled(value: Any) -> Any:
    """JSON has no NaN or infinity; they become words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _spelled(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_spelled(child) for child in value]
    return value
