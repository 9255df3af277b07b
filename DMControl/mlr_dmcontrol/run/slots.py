"""GPUs of one machine, shared out among processes that know nothing of each other."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 1.0


@contextmanager
def free_gpu(gpus: Sequence[str], runs_per_gpu: int) -> Iterator[str]:
    """One of `gpus` for as long as the context lasts; empty text if there are none.

    Waits while all of them have `runs_per_gpu` users. A place is a locked file, so that a process
    that dies leaves its place, and several sweeps of one user share the machine.
    """
    if not gpus:
        yield ""
        return
    gpu, descriptor = _claim(gpus, runs_per_gpu)
    try:
        yield gpu
    finally:
        os.close(descriptor)


def _claim(gpus: Sequence[str], runs_per_gpu: int) -> tuple[str, int]:
    folder = Path(tempfile.gettempdir()) / f"mlr-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        for place in range(runs_per_gpu):  # the second place of a GPU after the first of all
            for gpu in gpus:
                path = folder / f"{gpu.replace('/', '_')}.{place}"
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(descriptor)
                    continue
                return gpu, descriptor
        time.sleep(_POLL_SECONDS)


def visible_gpus() -> tuple[str, ...]:
    """The CUDA devices of this process as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in named.split(",") if name.strip()]
    return tuple(names[:count] or map(str, range(count)))
