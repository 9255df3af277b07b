"""Trees of tensors on their way to a device, and functions that run there: compiled, or as graphs.

A tree is a tensor, None, or a mapping, tuple or dataclass of trees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

# Runs of each variant before it is captured: libraries choose their kernels in the first ones.
_WARM_UP_RUNS = 3
_ALIGNMENT = 16  # bytes, of each tensor in a parcel

Tree = TypeVar("Tree")


def to_device(tree: Tree, device: torch.device | str) -> Tree:
    """The same tree on `device`; what lies there already is not copied, and nobody waits."""
    moved: Tree = map_tensors(lambda tensor: tensor.to(device, non_blocking=True), tree)
    return moved


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
    names = [field.name for field in dataclasses.fields(tree)]
    changed = {name: map_tensors(function, getattr(tree, name)) for name in names}
    return dataclasses.replace(tree, **changed)


def tensors(tree: Any) -> list[Tensor]:
    """Every tensor of the tree, in the order of `map_tensors`."""
    listed: list[Tensor] = []

    def add(tensor: Tensor) -> Tensor:
        listed.append(tensor)
        return tensor

    map_tensors(add, tree)
    return listed


class Parcel:
    """A tree of CPU tensors that goes to the device in one copy, to the same place every time.

    Attributes:
        tree: views of that place, with the shapes and types of the example.
    """

    def __init__(self, example: Any, device: torch.device) -> None:
        self._nbytes = [tensor.nbytes for tensor in tensors(example)]
        self._sizes = [-(-nbytes // _ALIGNMENT) * _ALIGNMENT for nbytes in self._nbytes]
        self._block = torch.empty(sum(self._sizes), dtype=torch.uint8, device=device)
        places = iter(self._block.split(self._sizes))

        def place(tensor: Tensor) -> Tensor:
            return next(places)[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)

        self.tree = map_tensors(place, example)

    def send(self, tree: Any) -> None:
        """Copy a tree of the example's shapes there; the host does not wait.

        Raises:
            ValueError: it has other tensors.
        """
        # A new block: PyTorch keeps the one before until its copy is done.
        block = torch.empty(len(self._block), dtype=torch.uint8, pin_memory=self._block.is_cuda)
        places = block.split(self._sizes)
        for place, nbytes, tensor in zip(places, self._nbytes, tensors(tree), strict=True):
            if tensor.nbytes != nbytes:
                raise ValueError(f"{tuple(tensor.shape)} {tensor.dtype} does not fit its place")
            place[:nbytes].copy_(tensor.contiguous().view(-1).view(torch.uint8))
        self._block.copy_(block, non_blocking=True)


def compile_methods(owner: object, *names: str) -> None:
    """Let torch.compile fuse the small operations of these methods of one object.

    Each must be a function of tensors with static shapes; the first calls take a minute or so.
    """
    for name in names:
        method = getattr(owner, name)
        setattr(owner, name, torch.compile(method, fullgraph=True, dynamic=False))


class OnDevice:
    """Calls a function of tensors on the device: as it is, or replayed as a CUDA graph.

    With `cuda_graph`, the first calls of each variant run as they are, on a stream aside; then
    the variant is captured once, and from then on replayed. Every call computes exactly once. The
    function must read and write the same memory each time, as it does if everything that lasts is
    updated in place and loaded in place.
    """

    def __init__(
        self, function: Callable[..., Any], device: torch.device, *, cuda_graph: bool
    ) -> None:
        """Args: `function`: called as `function(**inputs, **variant)`; its static shapes, and all
        that Python decides in it, depend on the variant alone.
        """
        self._function, self._device = function, device
        self._parcel: Parcel | None = None
        self._runs: dict[tuple[tuple[str, bool], ...], int] = {}
        self._graphs: dict[tuple[tuple[str, bool], ...], tuple[torch.cuda.CUDAGraph, Any]] = {}
        self._stream = torch.cuda.Stream(device) if cuda_graph else None
        self._pool = torch.cuda.graph_pool_handle() if cuda_graph else None

    def __call__(self, inputs: Mapping[str, Any], **variant: bool) -> Any:
        """The function's result, whose tensors are valid until the next call.

        Args: `inputs`: trees of CPU tensors of the same shapes each time.
        """
        if self._device.type != "cuda":
            return self._function(**inputs, **variant)
        if self._parcel is None:
            self._parcel = Parcel(inputs, self._device)
        self._parcel.send(inputs)
        if self._stream is None:
            return self._function(**self._parcel.tree, **variant)
        return self._replay(self._stream, self._parcel.tree, variant)

    def _replay(
        self, stream: torch.cuda.Stream, inputs: Mapping[str, Any], variant: Mapping[str, bool]
    ) -> Any:
        key = tuple(sorted(variant.items()))
        self._runs[key] = self._runs.get(key, 0) + 1
        if self._runs[key] <= _WARM_UP_RUNS:
            current = torch.cuda.current_stream(self._device)
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                result = self._function(**inputs, **variant)
            current.wait_stream(stream)
            return result
        if key not in self._graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=stream):
                result = self._function(**inputs, **variant)
            self._graphs[key] = graph, result
        graph, result = self._graphs[key]
        graph.replay()
        return result
