"""What a person watching the run sees: a banner, one progress bar, a line for each event."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

from .logger import package_log


class Console:
    """Progress of a run on `stream`; a bar on a terminal, plain lines elsewhere.

    While it is entered as a context manager, warnings of the package are shown too. Nothing here
    influences the run.

    Args:
        total: where progress ends, in `unit`.
        unit: what is counted, such as `env steps`.
        stream: standard error if None.
    """

    def __init__(self, total: int, unit: str, *, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._total, self._unit, self._initial = total, unit, 0
        self._start = time.monotonic()
        self._bar: tqdm | None = None
        self._handler = _LineHandler(self)

    def __enter__(self) -> Console:
        package_log().addHandler(self._handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        package_log().removeHandler(self._handler)
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def banner(self, title: str, facts: Mapping[str, object]) -> None:
        """Print `title` and aligned facts."""
        width = max(map(len, facts), default=0)
        self.line(title)
        for key, value in facts.items():
            self.line(f"  {key:<{width}}  {value}")

    def start(self, step: int) -> None:
        """Training starts, or goes on, at `step`."""
        self._start, self._initial = time.monotonic(), step
        if self._stream.isatty():
            self._bar = tqdm(
                total=self._total,
                initial=step,
                unit=f" {self._unit}",
                file=self._stream,
                dynamic_ncols=True,
                smoothing=0.05,
            )

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Show that `step` is reached, with a few numbers; to be called once a log interval."""
        numbers = {name: f"{value:.4g}" for name, value in values.items()}
        if self._bar is not None:
            self._bar.set_postfix(numbers, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        elapsed = max(time.monotonic() - self._start, 1e-9)
        speed = (step - self._initial) / elapsed
        left = _duration((self._total - step) / speed) if speed > 0 else "?"
        shown = "  ".join(f"{name} {number}" for name, number in numbers.items())
        self.line(
            f"{step}/{self._total} {self._unit}  {shown}  {speed:.1f} {self._unit}/s, {left} left"
        )

    def line(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)


class _LineHandler(logging.Handler):
    """Shows warnings without tearing the bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.line(f"{record.levelname.lower()}: {record.getMessage()}")


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
