"""The folder of a run: whose it is, what is in it, and whether it may be continued."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from omegaconf import OmegaConf
from yaml import YAMLError

from ..errors import ConfigError, Preempted, StorageError

log = logging.getLogger(__name__)

# What may differ when a run is continued: where and how it is computed and watched, not what.
# Everything else is part of what a run's numbers mean, `deterministic` and `precision` too.
MAY_CHANGE = (
    "preset",
    "device",
    "compile",
    "cuda_graph",
    "threads",
    "runs_dir",
    "resume",
    "evaluation.processes",
    "logging",
    "checkpoint",
)
MAY_GROW = ("budget",)

_NOT_CONTENT = ("run.lock", "log.txt")
_REMEDY = "choose another tag, seed or runs_dir"

_locks: set[int] = set()  # descriptors by which this process holds folders


@dataclass
class Stopwatch:
    """Adds up seconds by phase: `with stopwatch("update"): ...`.

    On a GPU a phase ends when its work is queued, not when it is done; the sum is still right.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


class RunFolder:
    """Claims a run's folder for this process.

    Nothing but `run.lock` is written before `begin`. As a context manager it records in
    `run.json` how the run ended, and releases the folder.

    Args:
        path: the folder; created if missing.
        config: the resolved configuration, nested plain values.
        resume: `auto` continues what is there, `never` refuses to, `must` insists on it.
        packages: distributions whose versions are recorded.

    Attributes:
        finished: the run was completed earlier and nothing more is asked of it.
        identity: digest of all of the configuration that may not change; a checkpoint bears it.

    Raises:
        ConfigError: another process works in the folder; it holds another configuration,
            something else, or (`must`) no checkpoint; or (`never`) it holds a run.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        resume: str = "auto",
        packages: Iterable[str] = (),
    ) -> None:
        self.path, self.stopwatch = path, Stopwatch()
        self._config, self._packages, self._begun = dict(config), tuple(packages), False
        self.identity = _identity(config)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _claim(path / "run.lock")
        except OSError as error:
            raise ConfigError(
                f"runs_dir: {path} cannot be used ({error}); choose another runs_dir"
            ) from error
        try:
            self._record, self._changes, self.finished = _examine(path, config, resume)
        except BaseException:
            self.close()
            raise
        self._earlier_seconds: dict[str, float] = dict(self._record.get("seconds", {}))

    def begin(self, **facts: Any) -> None:
        """Everything is built and restored: write `config.yaml` and mark the run as running.

        Args:
            facts: JSON values to record: protocol, budget, device, simulator, ...

        Raises:
            StorageError: the folder cannot be written.
        """
        versions = {name: installed(name) for name in self._packages}
        versions["python"] = platform.python_version()
        if self._changes:
            log.info("continuing with %s", self._changes)
        before = self._record.get("versions", versions)
        if before != versions:
            log.warning("versions changed from %s to %s: no bit-identical resume", before, versions)
        self._record.update(
            status="running",
            started=self._record.get("started", _now()),
            finished=None,
            starts=self._record.get("starts", 0) + 1,
            last_error=None,
            command=shlex.join(sys.argv),
            host=socket.gethostname(),
            pid=os.getpid(),
            revision=revision(),
            versions=versions,
        )
        self._begun = True
        self.write("config.yaml", OmegaConf.to_yaml(OmegaConf.create(self._config)))
        self.note(**facts)

    def note(self, **facts: Any) -> None:
        """Add `facts` and the stopwatch's seconds to `run.json`.

        Raises:
            StorageError: the folder cannot be written.
        """
        earlier, current = self._earlier_seconds, self.stopwatch.seconds
        self._record.update(facts)
        self._record["seconds"] = {
            phase: round(earlier.get(phase, 0.0) + current.get(phase, 0.0), 3)
            for phase in {**earlier, **current}
        }
        self.write("run.json", json.dumps(self._record, indent=1) + "\n")

    def finish(self, **facts: Any) -> None:
        """The run is complete; the same command will say so and do nothing."""
        self.note(status="finished", finished=_now(), **facts)

    def write(self, name: str, text: str) -> None:
        """Write a whole file of the folder, or replace it.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            write_atomically(self.path / name, text)
        except OSError as error:
            raise StorageError(f"{self.path / name} cannot be written: {error}") from error

    def close(self) -> None:
        """Release the folder; the lock file stays, since removing it would be a race."""
        if self._lock in _locks:
            _locks.remove(self._lock)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if self._begun and error is not None:
                status = "preempted" if isinstance(error, Preempted) else "failed"
                self.note(status=status, last_error=f"{type(error).__name__}: {error}")
        except StorageError as storage_error:
            log.warning("%s", storage_error)
        finally:
            self.close()


def look(
    path: Path, config: Mapping[str, Any] | None = None, resume: str = "auto"
) -> tuple[str, str]:
    """What a process that was started now would find; takes no lock and writes nothing.

    Args:
        config: the configuration that it would be started with; None: the folder's own.

    Returns:
        `waiting` (to be begun), `running`, `finished`, `resumes` or `refused`, and the reason:
        who is at work, how the last process ended, or the error.
    """
    try:
        record, _, finished = _examine(path, config, resume)
    except (ConfigError, OSError) as error:
        return "refused", str(error)
    if not record or finished:
        return ("finished" if finished else "waiting"), ""
    if record.get("status") != "running":
        return "resumes", str(record.get("last_error") or "")
    process, host = record.get("pid"), record.get("host")
    here = host == socket.gethostname() and isinstance(process, int)
    if here and not psutil.pid_exists(process):
        return "resumes", f"process {process} is gone"
    return "running", f"process {process} on {host}"


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at `path`, so that a reader or a crash sees the old or the new, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with temporary.open("x", encoding="utf-8") as file:  # never through a link that lies there
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable (what a file's own fsync does not)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys; a list is one value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def installed(package: str) -> str | None:
    """Version of a distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def revision() -> str | None:
    """Revision of the code, `-dirty` if changed since; None outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _examine(
    path: Path, config: Mapping[str, Any] | None, resume: str
) -> tuple[dict[str, Any], str, bool]:
    """Judge what is in the folder; only reads.

    Returns:
        `run.json`; what differs in the configuration, but may; whether the run is finished.

    Raises:
        ConfigError: a run with this configuration may not go on there.
    """
    names = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    content = [name for name in names if name not in _NOT_CONTENT and not name.startswith(".")]
    if resume == "never" and content:
        raise ConfigError(f"resume=never: {path} already holds a run; {_REMEDY}, or resume=auto")
    if resume == "must" and not any(path.glob("checkpoints/step_*")):
        raise ConfigError(f"resume=must: {path} holds no checkpoint; use resume=auto")
    if not content:
        return {}, "", False
    if "config.yaml" not in content:
        raise ConfigError(
            f"runs_dir: {path} holds {content[0]} but no config.yaml of a run; {_REMEDY}"
        )
    record = {}
    if "run.json" in content:
        record = _read(path / "run.json", json.loads, "remove it to continue")
    old = flatten(_read(path / "config.yaml", _parse_yaml, _REMEDY))
    new = old if config is None else flatten(config)
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    grown = [key for key in differing if key in MAY_GROW and _larger(new.get(key), old.get(key))]
    refused = [key for key in differing if key not in grown and not _may_change(key)]
    shown = ", ".join(f"{key}={new.get(key)} (was {old.get(key)})" for key in refused or differing)
    if refused:
        raise ConfigError(
            f"{shown}: not what the run in {path} was started with; {_REMEDY}, or go on as before"
        )
    return record, shown, record.get("status") == "finished" and not grown


def _read(path: Path, parse: Callable[[str], Any], remedy: str) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read ({reason}); {remedy}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is a {type(content).__name__}, not a mapping; {remedy}")
    return content


def _parse_yaml(text: str) -> Any:
    return OmegaConf.to_container(OmegaConf.create(text))


def _identity(config: Mapping[str, Any]) -> str:
    """Digest of what may not change in the configuration of a run."""
    flat = flatten(config)
    fixed = {key: flat[key] for key in flat if key not in MAY_GROW and not _may_change(key)}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def _may_change(key: str) -> bool:
    return f"{key}.".startswith(tuple(f"{name}." for name in MAY_CHANGE))


def _larger(new: Any, old: Any) -> bool:
    return all(isinstance(value, int | float) for value in (new, old)) and new > old


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _claim(path: Path) -> int:
    """Lock the file at `path` and write who we are; returns the descriptor that holds the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 1000).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        raise ConfigError(
            f"runs_dir: {path.parent} is in use by {owner}; wait for it, or {_REMEDY}"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _locks.add(descriptor)
    return descriptor


def _release_in_child() -> None:
    """A forked child shares the locks, and would keep the folders beyond our death."""
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_release_in_child)
