"""The machine: what it is, and how fast it multiplies and copies."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

_MOST_PROCESSES = 16  # of some hundred MB each


def hardware(device: torch.device) -> str:
    """Name of the GPU, or of the processor and the threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with suppress(OSError):  # only on Linux is there more to say
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        models = (line.partition(":")[2].strip() for line in lines if "model name" in line)
        name = next(models, name)
    return f"{name}, {torch.get_num_threads()} threads"


def processes_beside(device: torch.device, chosen: int | None = None) -> int:
    """How many work while `device` computes: none beside a CPU, one a core beside a GPU."""
    beside = min(len(os.sched_getaffinity(0)), _MOST_PROCESSES) if device.type == "cuda" else 0
    return beside if chosen is None else chosen


def matmul_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations per second of a large product of random matrices."""
    # A GPU needs a larger one, and several in a row, or the launch is a part of the time.
    rows, inner, columns = (8192, 8192, 8192) if device.type == "cuda" else (1024, 2048, 4096)
    draws = torch.Generator(device=device).manual_seed(0)
    left = torch.randn(rows, inner, device=device, generator=draws).to(dtype)
    right = torch.randn(inner, columns, device=device, generator=draws).to(dtype)
    return 2.0 * rows * inner * columns / _shortest(lambda: left @ right, device)


def copy_rate(device: torch.device) -> float:
    """Bytes read plus bytes written per second in copying a large block."""
    on_gpu = device.type == "cuda"
    size = min(2**32, torch.cuda.mem_get_info(device)[0] // 4) if on_gpu else 2**28
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    destination = torch.ones_like(source)
    return 2.0 * size / _shortest(lambda: destination.copy_(source), device)


def seconds_of_call(function: Callable[[], object], device: torch.device, calls: int) -> float:
    """Seconds of a call, in the mean of `calls` in a row, all of it computed."""
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    wait()
    return (time.perf_counter() - start) / calls


def _shortest(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call in the fastest of four tries, the first of which warms up."""
    calls = 10 if device.type == "cuda" else 1
    return min(seconds_of_call(function, device, calls) for _ in range(4))
