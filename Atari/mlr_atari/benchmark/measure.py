"""Measures a workload: seconds, arithmetic, memory; one flat row of numbers and names."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from ..acceleration import WARM_UP_RUNS
from ..machine import copy_rate, keep_freed_memory, matmul_rate
from ..run.folder import revision
from ..run.records import hardware
from .counters import PeakMemory, count_flops, count_host_waits
from .timing import Spread, call_seconds, time_calls
from .workload import Workload

Row = dict[str, Any]

NAMES = (
    "commit",
    "hardware",
    "device",
    "threads",
    "torch",
    "preset",
    "agent",
    "precision",
    "mode",
)
_ACTIONS = 50
_GPU_WARM_UP_BLOCKS = 20  # clocks and caches settle


def mode_of(cfg: Any) -> str:
    """How updates run: eager, compiled, graph or compiled graph."""
    names = [name for name, on in (("compiled", cfg.compile), ("graph", cfg.cuda_graph)) if on]
    return " ".join(names) or "eager"


def described(workload: Workload) -> Row:
    """What is measured, and on what: a row with the columns `NAMES`."""
    cfg, device = workload.cfg, workload.device
    values = (
        revision() or "unknown",
        hardware(device),
        device.type,
        torch.get_num_threads(),
        torch.__version__,
        cfg.preset,
        cfg.agent.name,
        cfg.precision,
        mode_of(cfg),
    )
    return dict(zip(NAMES, values, strict=True))


def measure_updates(workload: Workload, blocks: int) -> Row:
    """Time, arithmetic and memory of an update.

    The first updates, which are not timed, run as they are and are counted.

    Args: `blocks`: timed; each has `workload.block` updates.
    """
    cfg, device = workload.cfg, workload.device
    memory = PeakMemory(device)
    flops = count_flops(workload.update_block) / workload.block
    waits = count_host_waits(workload.update_block, device)
    if mode_of(cfg) != "eager":
        flags = {"compile_losses": cfg.compile, "cuda_graph": cfg.cuda_graph}
        workload.learner = workload.make_learner(**flags)
    for _ in range(_warm_up_blocks(workload)):
        workload.update_block()
    memory.reset()
    start = time.process_time()
    spread = time_calls(workload.update_block, blocks, device)
    cpu = time.process_time() - start
    peak, added = memory.total, memory.added
    seconds = spread.median / workload.block
    floor, rates = _floor(workload, flops)
    return {
        "updates": blocks * workload.block,
        "updates_per_second": 1.0 / seconds,
        "seconds_per_update": seconds,
        "seconds_low": spread.low / workload.block,
        "seconds_high": spread.high / workload.block,
        "cpu_seconds_per_update": cpu / (blocks * workload.block),
        "host_waits_per_update": None if waits is None else waits / workload.block,
        "peak_memory": peak,
        "peak_memory_of_updates": added,
        "flops_per_update": flops,
        **rates,
        "limit_seconds": floor,
        "share_of_limit": floor / seconds,
    }


def measure_reference(workload: Workload, blocks: int) -> Row:
    """Time of our update and of the plain one, in turn, so that other load hits both.

    Where kinds of update differ, the time of one with all parts, which is the first of a block,
    is given for itself, too.

    Args: `blocks`: of each, after another one that warms up. Ours, whose memory the plain one's
    turn has returned to the system, gets it back in a block that is not timed.
    """
    memory = PeakMemory(workload.device)
    kinds = {"ours": workload.update, "plain": workload.plain_update()}
    wall: dict[str, list[list[float]]] = {name: [] for name in kinds}
    cpu: dict[str, list[float]] = {name: [] for name in kinds}
    peak = {}
    for _ in range(1 + blocks):
        for name, update in kinds.items():
            keep_freed_memory(name == "ours")
            if name == "ours":
                workload.update_block()
            memory.reset()
            start = time.process_time()
            wall[name].append(call_seconds(update, workload.block, workload.device))
            cpu[name].append((time.process_time() - start) / workload.block)
            peak[name] = memory.total
    keep_freed_memory(True)
    mean = {name: statistics.median(map(statistics.mean, each[1:])) for name, each in wall.items()}
    full = {name: statistics.median(block[0] for block in each[1:]) for name, each in wall.items()}
    busy = {name: statistics.median(each[1:]) for name, each in cpu.items()}
    row = {
        "reference_seconds_per_update": mean["plain"],
        "reference_cpu_seconds_per_update": busy["plain"],
        "reference_peak_memory": peak["plain"],
        "speedup": mean["plain"] / mean["ours"],
        "cpu_speedup": busy["plain"] / busy["ours"],
    }
    if workload.block > 1:
        row |= {
            "full_update_seconds": full["ours"],
            "reference_full_update_seconds": full["plain"],
            "full_update_speedup": full["plain"] / full["ours"],
        }
    return row


def measure_steps(workload: Workload, steps: int) -> Row:
    """Latency of acting, speed of the environment alone, and of whole steps of training."""
    device = workload.device
    workload.environment_step()
    workload.act()
    acting = _host_seconds(workload.act, _ACTIONS, device)
    environment = _host_seconds(workload.environment_step, max(steps, 20), device)
    whole = _host_seconds(workload.step, steps, device)
    return {
        "act_seconds": acting.median,
        "environment_steps_per_second": 1.0 / environment.median,
        "steps_per_second": 1.0 / whole.median,
    }


def measure_parts(workload: Workload, blocks: int) -> Row:
    """Seconds of each part of an update that runs as it is."""
    parts = workload.part_seconds(blocks)
    return {f"part {name}": seconds for name, seconds in sorted(parts.items())}


def replay_row(workload: Workload) -> Row:
    """Memory of the replay."""
    plan = workload.parts.plan
    return {"replay_bytes_per_transition": workload.replay.nbytes / plan.capacity}


def _warm_up_blocks(workload: Workload) -> int:
    blocks = _GPU_WARM_UP_BLOCKS if workload.device.type == "cuda" else 0
    return max(blocks, WARM_UP_RUNS + 1 if mode_of(workload.cfg) != "eager" else 0)


def _floor(workload: Workload, flops: float) -> tuple[float, Row]:
    """Seconds below which no update can be, and the rates that this follows from.

    All products at the rate of a large one, then Adam's traffic at the rate of a copy; nothing
    else of an update is counted.
    """
    kind = torch.bfloat16 if workload.cfg.precision == "bf16" else torch.float32
    products, copies = _rates(workload.device, kind)
    floor = flops / products + workload.optimizer_bytes / copies
    return floor, {"product_flops_per_second": products, "copy_bytes_per_second": copies}


@functools.cache
def _rates(device: torch.device, kind: torch.dtype) -> tuple[float, float]:
    """Operations of products and bytes of copies per second; the same for all of a sweep."""
    return matmul_rate(device, kind), copy_rate(device)


def _host_seconds(function: Callable[[], object], calls: int, device: torch.device) -> Spread:
    """Seconds that the host needs for a call, and in the end for what it left to the device."""
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Spread.of(seconds)
