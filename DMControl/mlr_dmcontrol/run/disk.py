"""Files on storage that fails, and in folders that somebody else may have filled.

What passes by itself, as on a network, is tried again after pauses; a call that a file system does
not have is done without, after one warning. Nothing is written through a link. What is read is
bounded, and nothing in it is run, expanded, or used as a path; what is damaged raises ConfigError
in one line, `<file>, line <n>: <what is wrong>`.
"""

import errno
import json
import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar

import yaml

from ..errors import ConfigError, RunError, StorageError

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")  # being written, or left behind by a kill
_PAUSES = 0.5, 2.0, 5.0  # seconds
FULL, DENIED = {errno.ENOSPC, errno.EDQUOT}, {errno.EACCES, errno.EPERM, errno.EROFS}
PASSING = {errno.EIO, errno.ESTALE, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT, errno.EREMOTEIO}
PASSING |= {errno.ENOTCONN, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN}
PASSING |= {errno.ENETUNREACH, errno.ESHUTDOWN}  # the latter where Lustre has dropped a client
_LACKING = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOTTY, errno.EBADF}
# More than anything of ours holds.
YAML_BYTES, BYTES, DEPTH, SCALAR, COUNT = 100_000, 64_000_000, 20, 3_000, 2**53
# What `Fields.get` gives: in words, and what such a value must be besides.
_KINDS: dict[type, tuple[str, Callable[[Any], bool]]] = {
    str: ("a line of text", lambda text: text.isprintable() and len(text) <= 100),
    int: ("a whole number, at least 0", lambda number: 0 <= number < COUNT),
    list: ("a list", lambda _: True),
    dict: ("numbers by name", lambda values: {*map(type, values.values())} <= {int, float}),
}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML was built with it

_warned: set[str] = set()


def patiently(call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """What `call` returns; where its error may pass by itself, it is called again a few times."""
    for pause in _PAUSES:
        try:
            return call(*args, **options)
        except OSError as error:
            if error.errno not in PASSING:
                raise
            log.warning("%s; trying again in %g s", error, pause)
            time.sleep(pause)
    return call(*args, **options)


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


@contextmanager
def essential(what: str) -> Iterator[None]:
    """Raises StorageError, which says `what` cannot be done: the storage fails for good."""
    try:
        yield
    except OSError as error:
        raise failure(what, error) from error


def failure(what: str, error: OSError) -> StorageError:
    """What ends a run whose storage fails for good."""
    remedy = "make room" if error.errno in FULL else "see to the storage"
    return StorageError(f"{what} ({one_line(error)}); {remedy}, then run the same command again")


def unusable(path: Path, error: OSError) -> RunError:
    """What ends a command that cannot begin to write at `path`."""
    what = f"{path} cannot be used"
    if error.errno in FULL | PASSING:
        return failure(what, error)
    return ConfigError(f"runs_dir: {what} ({error}); choose another runs_dir")


# ---- writing -------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    """What lies in a folder, if it is there; a glob would take a failing disk for an empty one."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def nameable(path: Path) -> bool:
    """Whether file systems take the names of all its parts, of at most 255 bytes."""
    return all(len(os.fsencode(part)) <= 255 for part in path.parts)


def is_plain(path: Path, folder: bool) -> bool:
    """Whether nothing is at `path`, or a folder or else a file, which no other place shows too."""
    single = path.is_dir() if folder else path.is_file() and path.stat().st_nlink == 1
    return not os.path.lexists(path) or (single and not path.is_symlink())


def own_folder(path: Path) -> None:
    """Make the folder, if it is not there, durably; OSError where it is a link to one."""
    path.mkdir(exist_ok=True)
    if not is_plain(path, folder=True):
        raise OSError(errno.ELOOP, "nothing is written through a link", str(path))
    _sync_names(path.parent)


def results_folder(path: Path) -> None:
    """Make the folder that `--out` names. Raises: ConfigError: nothing can be kept there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise ConfigError(f"--out={path}: nothing can be kept there ({error})") from error


def open_own(path: Path, flags: int = 0) -> int:
    """Descriptor to read and write a plain file, made if missing; OSError where it is a link."""
    flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    if not is_plain(path, folder=False):
        os.close(descriptor)
        raise OSError(errno.ELOOP, "is a link, or no plain file", str(path))
    return descriptor


def write_new(folder: Path, write: Callable[[BinaryIO], Any], name: Callable[[Path], str]) -> str:
    """Write a file in `folder`, durably, and call it what `name` makes of it; or leave no trace."""
    temporary = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:  # which follows no link
            write(file)
            file.flush()
            sync(file.fileno())
        chosen = name(temporary)
        os.replace(temporary, folder / chosen)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_names(folder)
    return chosen


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at `path`, so that a reader or a crash sees the old or the new, whole."""
    write_new(path.parent, lambda file: file.write(text.encode()), lambda _: path.name)


def sync(descriptor: int) -> None:
    """Wait until what was written to an open file is on the disk."""
    with optional("fsync"):
        os.fsync(descriptor)


def _sync_names(folder: Path) -> None:
    """Make the names in a folder durable, which a file's own fsync does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


# ---- reading: damage raises ConfigError, and OSError what cannot be read -------------------------


def read_bytes(path: Path, most: int) -> bytes:
    """All of a plain file of at most so many bytes."""
    if not path.is_file() or path.stat().st_size > most:  # a pipe would be waited for
        raise damage(path, None, f"must be a file that is there, of at most {most:,} bytes")
    try:
        return path.read_bytes()
    except OSError as error:
        error.filename = str(path)  # which it lacks where the file was opened, but not read
        raise


def read_text(path: Path, most: int = BYTES) -> str:
    """All of such a file in UTF-8, a byte order mark apart."""
    content = read_bytes(path, most)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise damage(path, number, f"must be UTF-8 ({error.reason})") from error


def _parse_yaml(text: str) -> Any:
    # A few lines of aliases can stand for billions of values; brackets are slow to close, and a
    # number of many hexadecimal digits cannot be printed.
    depth = 0
    for event in yaml.parse(text, _LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        long = isinstance(event, yaml.ScalarEvent) and len(event.value) > SCALAR
        if depth > DEPTH or long or isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="not of ours", problem_mark=event.start_mark)
    loader, names = _LOADER(text), set()
    node = loader.get_single_node()
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if (name := str(key.value)) in names:  # of which YAML would take the last
            raise yaml.MarkedYAMLError(problem=f"{name} is twice", problem_mark=key.start_mark)
        names.add(name)
    return node and loader.construct_document(node)


@dataclass(frozen=True)
class Fields:
    """Names and values of a file."""

    path: Path
    content: Mapping[str, Any]

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a dotted key: a short `str`, an `int` that counts, a `list` or numbers."""
        value: Any = self.content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        value, (words, fits) = default if value is None else value, _KINDS[kind]
        if type(value) is not kind or not fits(value):
            raise damage(self.path, None, f"{key}={one_line(value)}; must be {words}")
        return value


def fields(path: Path) -> Fields:
    """Names and values of a file that ends in `.json`, `.yaml` or `.yml`."""
    is_yaml = path.suffix in (".yaml", ".yml")
    text = read_text(path, YAML_BYTES if is_yaml else BYTES)
    try:
        content = _parse_yaml(text) if is_yaml else json.loads(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        number = mark.line + 1 if mark else getattr(error, "lineno", None)
        problem = getattr(error, "problem", None) or getattr(error, "msg", None) or error
        raise damage(path, number, problem) from error
    if not isinstance(content, dict):
        raise damage(path, None, "is not a mapping of names to values")
    return Fields(path, content)


def damage(path: Path, number: int | None, problem: object) -> ConfigError:
    """What is wrong with a file, at a line where it is known."""
    return ConfigError(f"{path}{f', line {number}' if number else ''}: {one_line(problem)}")


def one_line(value: Any) -> str:
    """A value as one printable line; a mapping as `key=value` pairs."""
    if isinstance(value, Mapping):
        return "; ".join(f"{one_line(key)}={one_line(value[key])}" for key in value)
    if isinstance(value, list):
        return " ".join(map(one_line, value))
    words = " ".join(str(value).split())
    return "".join(sign if sign.isprintable() else "?" for sign in words)[:1000]


def escaped(text: str) -> str:
    """As it is to be read in Markdown's tables, and no markup."""
    return text.replace("|", r"\|").replace("<", "&lt;")
