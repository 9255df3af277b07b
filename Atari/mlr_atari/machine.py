"""The machine: settings for the whole process, and how fast it multiplies and copies."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable

import torch

_PROBE = (1024, 2048, 4096)  # rows, inner and columns of the matrix product that is timed
_PROBE_BYTES = 2**28  # of the block of memory whose copy is timed

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def set_up(device: torch.device | str, precision: str) -> None:
    """Choose what PyTorch can only choose for the whole process.

    Args: `precision`: `tf32` and `bf16` allow TF32 wherever CUDA multiplies floats.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    if torch.device(device).type == "cpu":
        keep_freed_memory(True)


def keep_freed_memory(keep: bool) -> None:
    """Reuse large blocks instead of returning each to the system, where glibc allows to say so.

    Fresh pages for every activation would cost a fifth of the time of an update on the CPU.
    `False` returns what is kept, and behaves as glibc does by itself.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    library.mallopt(_M_MMAP_THRESHOLD, 2**31 - 1 if keep else 2**25)
    library.mallopt(_M_TRIM_THRESHOLD, -1 if keep else 2**26)
    if not keep:
        library.malloc_trim(0)


def matmul_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations per second of a large matrix product, best of four."""
    rows, inner, columns = _PROBE
    draws = torch.Generator(device=device).manual_seed(0)
    left = torch.randn(rows, inner, device=device, generator=draws).to(dtype)
    right = torch.randn(inner, columns, device=device, generator=draws).to(dtype)
    return 2.0 * rows * inner * columns / _shortest(lambda: left @ right, device)


def copy_rate(device: torch.device) -> float:
    """Bytes read plus bytes written per second in copying a large block, best of four."""
    source = torch.zeros(_PROBE_BYTES, dtype=torch.uint8, device=device)
    destination = torch.ones_like(source)
    return 2.0 * _PROBE_BYTES / _shortest(lambda: destination.copy_(source), device)


def _shortest(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of four calls, the first of which warms up."""
    best = float("inf")
    for _ in range(4):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
