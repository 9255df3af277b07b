"""Files on storage that fails, and in folders that somebody else may have filled.

What passes by itself, as on a network, is tried again after pauses; a call that a file system does
not have is done without, after one warning. Nothing is written through a link.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from ..errors import StorageError
from .files import one_line

log = logging.getLogger(__name__)

T = TypeVar("T")

TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")  # being written, or left behind by a kill
_PAUSES = 0.5, 2.0, 5.0  # seconds
FULL = {errno.ENOSPC, errno.EDQUOT}
PASSING = {errno.EIO, errno.ESTALE, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT, errno.EREMOTEIO}
PASSING |= {errno.ENOTCONN, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN}
_LACKING = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOTTY, errno.EBADF}

_warned: set[str] = set()


class Damaged(OSError):
    """A file is missing, is not what it was, or is none of ours."""


def patiently(call: Callable[[], T]) -> T:
    """What `call` returns; where its error may pass by itself, it is called again a few times."""
    for pause in _PAUSES:
        try:
            return call()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            log.warning("%s; trying again in %g s", error, pause)
            time.sleep(pause)
    return call()


@contextmanager
def optional(name: str) -> Iterator[None]:
    """Go on, after one warning, where the file system does not have the call `name`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _LACKING:
            raise
        if name not in _warned:
            _warned.add(name)
            log.warning("this file system has no %s (%s); going on without", name, error)


def failure(what: str, error: OSError) -> StorageError:
    """What ends a run whose storage fails for good."""
    remedy = "make room" if error.errno in FULL else "see to the storage"
    return StorageError(f"{what} ({one_line(error)}); {remedy}, then run the same command again")


# ---- writing -------------------------------------------------------------------------------------


def is_link(path: Path) -> bool:
    """Whether what is written at `path` would be seen at another place too."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1)


def own_folder(path: Path) -> None:
    """Make the folder, if it is not there; OSError where it is a link to one."""
    path.mkdir(exist_ok=True)
    if is_link(path):
        raise OSError(errno.ELOOP, "nothing is written through a link", str(path))


def open_own(path: Path) -> int:
    """Descriptor to read and write a plain file, made if missing; OSError where it is a link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    if is_link(path) or not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ELOOP, "is a link, or no plain file", str(path))
    return descriptor


def write_new(
    folder: Path, write: Callable[[BinaryIO], object], name: Callable[[Path], str]
) -> Path:
    """Write a file in `folder`, durably, and call it what `name` makes of it; or leave no trace."""
    temporary = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:  # which follows no link
            write(file)
            file.flush()
            sync(file.fileno())
        path = folder / name(temporary)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return path


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at `path`, so that a reader or a crash sees the old or the new, whole."""
    write_new(path.parent, lambda file: file.write(text.encode()), lambda _: path.name)
    sync_folder(path.parent)


def sync(descriptor: int) -> None:
    """Wait until what was written to an open file is on the disk."""
    with optional("fsync"):
        os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable (what a file's own fsync does not)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


# ---- reading -------------------------------------------------------------------------------------


def file_size(path: Path) -> int:
    """Bytes of a plain file. Raises OSError: there is none; a pipe would be waited for."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise Damaged("is no file")
    return status.st_size


def read_bytes(path: Path, most: int) -> bytes:
    """All of a plain file. Raises OSError: there is none, or it is larger than `most` bytes."""
    if file_size(path) > most:
        raise Damaged(f"larger than {most:,} bytes; a run's are far smaller")
    return path.read_bytes()
