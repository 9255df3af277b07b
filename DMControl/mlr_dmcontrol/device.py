"""Devices: what they are and how fast, trees of tensors on their way there, and functions that run
there, compiled or as graphs.

A tree is a tensor, None, or a mapping, tuple or dataclass of trees.
"""

import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

# Runs of each variant before it is captured: libraries choose their kernels in the first ones.
_WARM_UP_RUNS = 3
_MOST_PROCESSES = 16  # of some hundred MB each
_ALIGNMENT = 16  # bytes, of each tensor in a parcel

Tree = TypeVar("Tree")
Variant = tuple[tuple[str, bool], ...]


def named_device(name: str) -> torch.device:
    """`auto` is a GPU if there is one, and `cuda` the first."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", 0) if name == "cuda" else torch.device(name)


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
    """Seconds of a call, in the mean of `calls` in a row; a GPU's are those of its own clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - start) / calls
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    stream = torch.cuda.current_stream(device)
    first.record(stream)
    for _ in range(calls):
        function()
    last.record(stream)
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3 / calls


def _shortest(function: Callable[[], object], device: torch.device) -> float:
    """Of four tries, the first of which warms up."""
    calls = 10 if device.type == "cuda" else 1
    return min(seconds_of_call(function, device, calls) for _ in range(4))


def to_device(tree: Tree, device: torch.device | str) -> Tree:
    """The same tree on `device`; what lies there is not copied, and only the way back waits."""
    gpu = torch.device(device).type == "cuda"

    def move(tensor: Tensor) -> Tensor:
        # A copy from pageable memory begins only when the GPU has done all that it was given.
        source = tensor.pin_memory() if gpu and not tensor.is_cuda else tensor
        # Back on the host it would be read before it is there.
        return source.to(device, non_blocking=gpu)

    return map_tensors(move, tree)


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """`tree` with `function` applied to each of its tensors, in order."""
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map_tensors(function, value) for value in tree)
    return type(tree)(**map_tensors(function, vars(tree)))  # a dataclass


def tensors(tree: Any) -> list[Tensor]:
    """Every tensor of the tree, in the order of `map_tensors`."""
    listed: list[Tensor] = []

    def add(tensor: Tensor) -> Tensor:
        listed.append(tensor)
        return tensor

    map_tensors(add, tree)
    return listed


class Parcel:
    """A tree of CPU tensors that goes to the device in one copy, to the same `tree` every time."""

    def __init__(self, example: Any, device: torch.device) -> None:
        self._sizes = [-(-each.nbytes // _ALIGNMENT) * _ALIGNMENT for each in tensors(example)]
        self._block = torch.zeros(sum(self._sizes), dtype=torch.uint8, device=device)
        self.tree = self._views(self._block, example)

    def send(self, tree: Any) -> None:
        """Copy a tree of the example's shapes there; the host does not wait."""
        # A new block: PyTorch keeps the one before until its copy is done.
        block = torch.empty(len(self._block), dtype=torch.uint8, pin_memory=self._block.is_cuda)
        places = tensors(self._views(block, self.tree))
        for place, tensor in zip(places, tensors(tree), strict=True):
            place.copy_(tensor)
        self._block.copy_(block, non_blocking=True)

    def _views(self, block: Tensor, example: Any) -> Any:
        """The example's tree, its tensors laid out in `block` one after the other."""
        places = iter(block.split(self._sizes))
        return map_tensors(
            lambda each: next(places)[: each.nbytes].view(each.dtype).view(each.shape), example
        )


def compile_methods(owner: object, *names: str) -> None:
    """Let torch.compile fuse these methods of one object, functions of tensors of static shapes."""
    for name in names:
        compiled = torch.compile(getattr(owner, name), fullgraph=True, dynamic=False)
        setattr(owner, name, compiled)


class OnDevice:
    """Calls a function of tensors on the device: as it is, or replayed as a CUDA graph.

    With `cuda_graph`, the first calls of each variant run as they are, on a stream aside; then
    the variant is captured once, and from then on replayed. Every call computes exactly once. All
    that lasts must be updated and loaded in place.
    """

    def __init__(
        self, function: Callable[..., Any], device: torch.device, *, cuda_graph: bool
    ) -> None:
        """Args: `function`: what Python decides in it depends on the `variant` alone."""
        self._function, self._device = function, device
        self._parcel: Parcel | None = None
        self._runs: Counter[Variant] = Counter()
        self._graphs: dict[Variant, tuple[torch.cuda.CUDAGraph, Any]] = {}
        self._stream = torch.cuda.Stream(device) if cuda_graph else None
        self._pool = torch.cuda.graph_pool_handle() if cuda_graph else None
        self._done = torch.cuda.Event() if device.type == "cuda" else None

    def __call__(self, inputs: Mapping[str, Any], **variant: bool) -> Any:
        """`function(**inputs, **variant)`, whose tensors are valid until the next call.

        Args: `inputs`: trees of CPU tensors of the same shapes each time.
        """
        if self._done is None:
            return self._function(**inputs, **variant)
        if self._parcel is None:
            self._parcel = Parcel(inputs, self._device)
        self._parcel.send(inputs)
        compute = partial(self._function, **self._parcel.tree, **variant)
        key = tuple(sorted(variant.items()))
        result = self._replay(self._stream, key, compute) if self._stream else compute()
        self._done.record()
        return result

    def wait(self) -> None:
        """Let the host wait until the last call is computed."""
        if self._done is not None:
            self._done.synchronize()

    def _replay(self, stream: torch.cuda.Stream, key: Variant, compute: Callable[[], Any]) -> Any:
        self._runs[key] += 1
        if self._runs[key] <= _WARM_UP_RUNS:
            current = torch.cuda.current_stream(self._device)
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                result = compute()
            current.wait_stream(stream)
            return result
        if key not in self._graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=stream):
                result = compute()
            self._graphs[key] = graph, result
        graph, result = self._graphs[key]
        graph.replay()
        return result
