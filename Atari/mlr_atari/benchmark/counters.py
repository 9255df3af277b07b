"""What can be counted about a call: arithmetic, memory, and waits of the host."""

from __future__ import annotations

import resource
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)


def count_flops(function: Callable[[], object]) -> float:
    """Floating-point operations of matrix products, convolutions and attention in one call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


def count_host_waits(function: Callable[[], object], device: torch.device) -> int | None:
    """How often one call waits for the GPU; None on another device."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(each.message) for each in caught)


class PeakMemory:
    """Largest memory use since the last `reset`, in bytes.

    On a GPU what PyTorch has allocated there; elsewhere what the process holds in memory, which
    on other systems than Linux counts from its beginning.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif _CLEAR.exists():
            _CLEAR.write_text(_RESET_PEAK)
        self._before = self.total

    @property
    def total(self) -> int:
        """In all, what was there before included."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if not _STATUS.exists():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"no VmHWM in {_STATUS}")

    @property
    def added(self) -> int:
        """Beyond what was in use at the reset."""
        return self.total - self._before
