"""Stopping on request: a signal sets a flag, the training loop saves and ends."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class StopRequest:
    """While active, such a signal only raises a flag; a second SIGINT ends the process at once.

    To be used in the main thread, since only that may install signal handlers::

        with StopRequest() as stop:
            while not stop.requested: ...
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the run should save and end after the current step."""
        return self._received is not None

    @property
    def reason(self) -> str:
        """Name of the first signal received, such as `SIGTERM`; empty before."""
        return self._received.name if self._received is not None else ""

    def __enter__(self) -> StopRequest:
        for number in _SIGNALS:
            # Whoever starts us with nohup wants no end when the terminal closes.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # None: installed by foreign code, which Python cannot put back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received = signal.Signals(number)
        if number == signal.SIGINT:
            # Not the previous handler: background jobs start with SIGINT ignored. Nor Python's:
            # pickle may swallow its exception in the middle of a save.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
