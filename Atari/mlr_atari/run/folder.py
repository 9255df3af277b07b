"""The folder of a run: whose it is, what is in it, and whether it may be continued."""

from __future__ import annotations

import datetime
import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from ..errors import ConfigError, Preempted, StorageError
from .timing import Stopwatch

log = logging.getLogger(__name__)

RESUME_MODES = ("auto", "never", "must")
_NOT_CONTENT = ("run.lock", "log.txt")
_REMEDY = "choose another tag, seed or runs_dir"


class RunFolder:
    """Claims a run's folder for this process and says what an earlier process left there.

    Nothing but `run.lock` is written before `begin`. As a context manager it records in
    `run.json` how the run ended, and releases the folder.

    Args:
        path: the folder; created if missing.
        config: the resolved configuration, nested plain values.
        resume: `auto` continues what is there, `never` refuses to, `must` insists on it.
        may_change: dotted keys, or groups of keys, that may differ when a run is continued.
        may_grow: dotted keys of numbers that may only become larger, such as the budget.
        packages: distributions whose versions are recorded.

    Raises:
        ConfigError: another process works in the folder; it holds another configuration,
            something else, or (`must`) no checkpoint; or (`never`) it holds a run.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        *,
        resume: str = "auto",
        may_change: Collection[str] = (),
        may_grow: Collection[str] = (),
        packages: Collection[str] = (),
    ) -> None:
        self.path = path
        self.stopwatch = Stopwatch()
        self._config = dict(config)
        self._packages = tuple(packages)
        self._record: dict[str, Any] = {}
        self._earlier_seconds: dict[str, float] = {}
        self._changes: list[str] = []
        self._begun = False
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _claim(path / "run.lock")
        except OSError as error:
            raise ConfigError(
                f"runs_dir: {path} cannot be used ({error}); choose another runs_dir"
            ) from error
        # A forked child shares the lock and would keep it beyond our death.
        os.register_at_fork(after_in_child=self.close)
        try:
            grown = self._examine(resume, may_change, may_grow)
        except BaseException:
            self.close()
            raise
        #: Whether the run was completed earlier and nothing more is asked of it.
        self.finished = self._record.get("status") == "finished" and not grown

    def begin(self, **facts: Any) -> None:
        """Everything is built and restored: write `config.yaml` and mark the run as running.

        Args:
            facts: JSON values to record: protocol, budget, device, simulator, ...

        Raises:
            StorageError: the folder cannot be written.
        """
        versions = {name: _version(name) for name in self._packages}
        versions["python"] = platform.python_version()
        if self._changes:
            log.info("continuing with %s", ", ".join(self._changes))
        before = self._record.get("versions", versions)
        if before != versions:
            log.warning("versions changed from %s to %s: no bit-identical resume", before, versions)
        self._earlier_seconds = dict(self._record.get("seconds", {}))
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
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._begun and error is not None:
                status = "preempted" if isinstance(error, Preempted) else "failed"
                self.note(status=status, last_error=f"{type(error).__name__}: {error}")
        except StorageError as storage_error:
            log.warning("%s", storage_error)
        finally:
            self.close()

    def _examine(self, resume: str, may_change: Collection[str], may_grow: Collection[str]) -> bool:
        """Judge what is in the folder; returns whether a `may_grow` key became larger."""
        if resume not in RESUME_MODES:
            raise ConfigError(f"resume={resume}: must be one of {', '.join(RESUME_MODES)}")
        content = sorted(
            each.name
            for each in self.path.iterdir()
            if each.name not in _NOT_CONTENT and not each.name.startswith(".")
        )
        if resume == "never" and content:
            raise ConfigError(
                f"resume=never: {self.path} already holds a run; {_REMEDY}, or resume=auto"
            )
        if resume == "must" and not any(self.path.glob("checkpoints/step_*")):
            raise ConfigError(f"resume=must: {self.path} holds no checkpoint; use resume=auto")
        if not content:
            return False
        if "config.yaml" not in content:
            raise ConfigError(
                f"runs_dir: {self.path} holds {content[0]} but no config.yaml of a run; {_REMEDY}"
            )
        self._record = _read_record(self.path / "run.json")
        return self._compare(may_change, may_grow)

    def _compare(self, may_change: Collection[str], may_grow: Collection[str]) -> bool:
        old = _flat(_read_config(self.path / "config.yaml"))
        new = _flat(self._config)
        differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        grown = [key for key in differing if key in may_grow and _larger(new, old, key)]
        allowed = [key for key in differing if _listed(key, may_change)]
        refused = [key for key in differing if key not in grown and key not in allowed]
        shown = [f"{key}={new.get(key)} (was {old.get(key)})" for key in refused]
        if shown:
            raise ConfigError(
                f"{', '.join(shown)}: not what the run in {self.path} was started with; "
                f"{_REMEDY}, or go on as before"
            )
        self._changes = [f"{key}={new.get(key)} (was {old.get(key)})" for key in differing]
        return bool(grown)


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at `path`, so that a reader or a crash sees the old or the new, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
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
    return descriptor


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); {_REMEDY}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: is not a configuration; {_REMEDY}")
    return {str(key): value for key, value in config.items()}


def _read_record(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); remove it to continue") from error
    if not isinstance(record, dict):
        raise ConfigError(f"{path}: is not a run's record; remove it to continue")
    return record


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _listed(key: str, keys: Collection[str]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in keys)


def _larger(new: Mapping[str, Any], old: Mapping[str, Any], key: str) -> bool:
    values = new.get(key), old.get(key)
    return all(isinstance(each, (int, float)) for each in values) and new[key] > old[key]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
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
