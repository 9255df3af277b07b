"""A process of ours: how it speaks to a console that may be gone, is asked to stop, and ends."""

import io
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec

from ..errors import ConfigError, RunError
from .disk import DENIED, FULL, PASSING, failure, nameable

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

Arguments = ParamSpec("Arguments")

log = logging.getLogger(__name__)


def script(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """`main` of a script: what the user or the storage did wrong is one line and an exit code.

    A lost console changes nothing; a traceback, with code 1, is a fault of ours.
    """

    @wraps(main)
    def run(*args: Arguments.args, **options: Arguments.kwargs) -> int:
        secure_console()
        try:
            return main(*args, **options)
        except (RunError, OSError) as error:
            return tell(error)
        except KeyboardInterrupt:
            return 128 + signal.SIGINT

    return run


def tell(error: RunError | OSError) -> int:
    """Say in one line what ended a command, or a part of it; the exit code that it has.

    Raises: OSError: it is not the storage's, but a fault of ours.
    """
    if isinstance(error, OSError):
        if error.errno not in FULL | PASSING | DENIED:
            raise error
        error = failure("the storage fails", error)
    print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
    return error.exit_code


def typed_path(text: str) -> Path:
    """A path from a command line: `~` is the user's home. Raises: ConfigError: it cannot be one."""
    path = Path(os.path.expanduser(text))
    if not text or not nameable(path):
        raise ConfigError(f"{text}: a path is empty, or a name too long; name a file or folder")
    return path


class _Lossy(io.FileIO):
    """A descriptor that takes everything: what cannot be written is lost.

    So is, after a second, what nobody reads on the standard error, which would hold up training.
    """

    _patience = 1.0  # seconds

    def write(self, data: Any, /) -> int:
        try:
            ready = self.fileno() != 2 or select.select([], [self], [], self._patience)[1]
            self._patience = 1.0 if ready else 0.0
            return (super().write(data) if ready else None) or len(data)  # None: it would block
        except OSError:
            return len(data)


def secure_console() -> None:
    """From now on no print fails: not where nobody reads, nor on a full disk, nor in ASCII."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else the next file to be opened would be the console
            os.open(os.devnull, os.O_RDWR)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):  # not one that somebody put in its place
            raw = io.BufferedWriter(_Lossy(number, "w", closefd=False))
            encoding, errors = getattr(stream, "encoding", "utf-8"), "backslashreplace"
            lossy = io.TextIOWrapper(raw, encoding, errors, line_buffering=True)
            # Who closes it, such as a simulator, is not the only one who speaks.
            lossy.close = lambda: None  # type: ignore[method-assign]
            setattr(sys, name, lossy)


@contextmanager
def undisturbed() -> Iterator[None]:
    """What foreign code within changes of the whole process is put back.

    The working directory, who hears our signals, what is logged, PyTorch's type and gradients.
    """
    here, handlers = os.getcwd(), {number: signal.getsignal(number) for number in SIGNALS}
    level, torch = logging.root.manager.disable, sys.modules.get("torch")  # workers lack it
    kind, learns = (torch.get_default_dtype(), torch.is_grad_enabled()) if torch else (None, True)
    try:
        yield
    finally:
        os.chdir(here)
        logging.disable(level)
        if torch:
            torch.set_default_dtype(kind)
            torch.set_grad_enabled(learns)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler or signal.SIG_DFL)


class StopRequest:
    """While active, such a signal only raises a flag; a second SIGINT ends the process at once.

    With `last` the process ends behind it, so the signals that still come are ignored. Outside the
    main thread, which alone may install handlers, it only warns.

    Attributes:
        reason: name of the first signal received, such as `SIGTERM`; empty before.
    """

    def __init__(self, *, last: bool = False) -> None:
        self.reason, self._last = "", last
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the run should save and end after the current step."""
        return bool(self.reason)

    def fulfilled(self) -> None:
        """It was saved: whatever still comes does not change how this ends."""
        for number in self._previous:
            signal.signal(number, signal.SIG_IGN)

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            log.warning("not in the main thread: no signal is heard; end the run some other way")
            return self
        for number in SIGNALS:
            # Whoever starts us with nohup wants no end when the terminal closes.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # None: installed by foreign code, which Python cannot put back.
            signal.signal(number, signal.SIG_IGN if self._last else handler or signal.SIG_DFL)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name
        if number == signal.SIGINT:
            # Not the previous handler: background jobs start with SIGINT ignored. Nor Python's:
            # pickle may swallow its exception in the middle of a save.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
