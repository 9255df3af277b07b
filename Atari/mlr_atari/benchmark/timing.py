"""Time on a device: whole calls, and the share of each part in them."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import torch

_MISSING = object()


class Clock:
    """Moments of a device's work; on a GPU they are events among the work that it is given."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_gpu = device, device.type == "cuda"

    def now(self) -> Any:
        """This moment: on a GPU, when it will have finished all that it was given so far."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def wait(self) -> None:
        """Until all moments have passed."""
        if self._on_gpu:
            torch.cuda.synchronize(self._device)

    def seconds(self, first: Any, second: Any) -> float:
        """From one moment to another, both passed."""
        return first.elapsed_time(second) / 1e3 if self._on_gpu else second - first


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements, in seconds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def time_calls(function: Callable[[], object], calls: int, device: torch.device) -> Spread:
    """Spread of `call_seconds`."""
    return Spread.of(call_seconds(function, calls, device))


def call_seconds(function: Callable[[], object], calls: int, device: torch.device) -> list[float]:
    """Seconds of each call; each call's end is the next one's beginning."""
    clock = Clock(device)
    clock.wait()
    moments = [clock.now()]
    for _ in range(calls):
        function()
        moments.append(clock.now())
    clock.wait()
    return [clock.seconds(*pair) for pair in itertools.pairwise(moments)]


class Part(NamedTuple):
    """A method whose time counts as that of a part; `owner` is an object or a class."""

    owner: Any
    method: str
    name: str


class PartTimer:
    """Adds up the time of parts while entered: `with PartTimer(parts, device) as timer: ...`.

    Time in a part that another part calls counts for the called one only; time outside of all
    counts as `other`. Methods are wrapped meanwhile, so the code knows nothing of it.
    """

    def __init__(self, parts: Sequence[Part], device: torch.device) -> None:
        self._parts, self._clock = parts, Clock(device)
        self._active = ["other"]
        self._marks: list[tuple[str, Any]] = []  # what is active from this moment on
        self._originals: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> PartTimer:
        for part in self._parts:
            original = vars(part.owner).get(part.method, _MISSING)
            self._originals.append((part.owner, part.method, original))
            wrapped = self._wrapped(getattr(part.owner, part.method), part.name)
            setattr(part.owner, part.method, wrapped)
        self._clock.wait()
        self._mark()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._mark()
        self._clock.wait()
        for owner, method, original in self._originals:
            if original is _MISSING:
                delattr(owner, method)
            else:
                setattr(owner, method, original)

    def seconds(self) -> dict[str, float]:
        """Time of each part, in all."""
        totals = {part.name: 0.0 for part in self._parts} | {"other": 0.0}
        for (name, start), (_, end) in itertools.pairwise(self._marks):
            totals[name] += self._clock.seconds(start, end)
        return totals

    def _mark(self) -> None:
        self._marks.append((self._active[-1], self._clock.now()))

    def _wrapped(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._active.append(name)
            self._mark()
            try:
                return function(*args, **kwargs)
            finally:
                self._active.pop()
                self._mark()

        return timed
