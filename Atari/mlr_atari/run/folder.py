"""The folder of a run: whose it is, what is in it, and whether it may be continued."""

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import yaml

from ..errors import ConfigError, Preempted, StorageError
from . import disk
from .disk import Fields, fields, one_line

log = logging.getLogger(__name__)

# What may differ when a run is continued: where and how it is computed and watched, not what.
# Everything else is part of what a run's numbers mean, `deterministic` and `precision` too.
MAY_CHANGE = (
    *("preset", "device", "compile", "cuda_graph", "fused_kernels", "threads"),
    *("runs_dir", "resume", "evaluation.processes", "logging", "checkpoint"),
)
MAY_GROW = ("budget",)

_NOT_CONTENT = ("run.lock", "log.txt")
_FOLDERS = ("tb", "checkpoints", "checkpoints/files", "evaluations", "wandb")
_REMEDY = "choose another tag, seed or runs_dir"
_SAVED = ("finished", "preempted")  # a run that ended like this has a checkpoint


class RunFolder:
    """Claims a run's folder for this process.

    Nothing but `run.lock` is written before `begin`. As a context manager it records in
    `run.json` how the run ended, and releases the folder.

    Args:
        path: the folder; created if missing.
        config: the resolved configuration, nested plain values.
        resume: `auto` continues what is there, `never` refuses to, `must` insists on it.

    Attributes:
        finished: the run was completed earlier and nothing more is asked of it.
        seconds: what the run has spent by phase, over all starts.

    Raises:
        ConfigError: another process works there, or this run may not go on with what is there.
        StorageError: the disk is full or does not answer. All that writes there raises it too.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], resume: str = "auto") -> None:
        self.path, self.identity, self._begun = path, identity(config), False
        self._config = dict(config)
        try:
            disk.patiently(self._claim, resume)
        except OSError as error:
            raise disk.unusable(path, error) from error
        self.seconds: dict[str, float] = dict(self._record["seconds"])

    def _claim(self, resume: str) -> None:
        _examine(self.path, self._config, resume)  # where that refuses, there is not even a lock
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock: BinaryIO = os.fdopen(disk.open_own(self.path / "run.lock"), "r+b", buffering=0)
        try:
            self._owner = _lock(self.path / "run.lock", self._lock.fileno())
            self._record, self._changes, self.finished = _examine(self.path, self._config, resume)
        except BaseException:
            self.close()
            raise

    def begin(self, packages: Iterable[str] = (), **facts: Any) -> None:
        """Everything is built and restored: write `config.yaml` and mark the run as running.

        Args: `packages`: whose versions are recorded; `facts`: JSON values to record too.
        """
        record, versions = self._record, {name: installed(name) for name in packages}
        facts |= {"versions": versions | {"python": platform.python_version()}}
        if self._changes:
            log.info("continuing with %s", self._changes)
        for what in ("versions", "hardware"):  # which names the threads too
            before, now = record.get(what), facts.get(what)
            if before not in (None, now):
                changed = one_line(f"{what} changed from {before} to {now}")
                log.warning("%s: no bit-identical resume", changed)
        self._begun = True
        self.write("config.yaml", yaml.safe_dump(self._config, sort_keys=False, allow_unicode=True))
        started, starts = record.get("started", _now()), record["starts"] + 1
        record |= {"status": "running", "started": started, "finished": None, "starts": starts}
        record |= {"last_error": None, "command": shlex.join(sys.argv), "pid": os.getpid()}
        self.note(host=socket.gethostname(), revision=revision(), **facts)

    def note(self, **facts: Any) -> None:
        """Add `facts` and the seconds to `run.json`."""
        seconds = {phase: round(value, 3) for phase, value in self.seconds.items()}
        self._record.update(facts, seconds=seconds)
        self.write("run.json", json.dumps(self._record, indent=1) + "\n")

    @contextmanager
    def stopwatch(self, phase: str) -> Iterator[None]:
        """Add what passes within to the seconds of a phase; on a GPU, until its work is queued."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def finish(self) -> None:
        """The run is complete; the same command will say so and do nothing."""
        self.note(status="finished", finished=_now())

    def write(self, name: str, text: str) -> None:
        """Write a whole file of the folder, or replace it."""

        def replace() -> None:
            self.check()  # each time: it may have been taken meanwhile
            disk.write_atomically(self.path / name, text)

        with disk.essential(f"{self.path / name} cannot be written"):
            disk.patiently(replace)

    def check(self) -> None:
        """Raises StorageError if the folder was removed, or taken where locks do not work."""
        if (owner := _owner(self.path / "run.lock")) != self._owner:
            what = f"is now in use by {owner}" if owner else "was removed"
            raise StorageError(f"{self.path} {what}, so that this run cannot go on there")

    def close(self) -> None:
        """Release the folder; the lock file stays, since removing it would be a race."""
        with suppress(OSError):  # as NFS may answer
            self._lock.close()

    def __enter__(self) -> "RunFolder":
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
    """What a process started with `config` (None: the folder's own) would find; only reads.

    Returns: `waiting` (to be begun), `running`, `finished`, `resumes` or `refused`, and the
    reason: who is at work, how the last process ended, or the error.
    """
    try:
        record, _, finished = disk.patiently(_examine, path, config, resume)
        owner = disk.patiently(_owner, path / "run.lock")
    except (ConfigError, OSError) as error:
        return "refused", str(error)
    if not record["starts"] or finished:
        return ("finished" if finished else "waiting"), ""
    if record.get("status") != "running":
        return "resumes", one_line(record.get("last_error") or "")
    return ("running", owner) if _lives(owner) else ("resumes", f"{owner or 'its process'} is gone")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys; a list is one value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def without(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The configuration by dotted keys, but for these keys and all keys of these sections."""
    flat, left_out = flatten(config), tuple(f"{name}." for name in names)
    return {key: flat[key] for key in flat if not f"{key}.".startswith(left_out)}


def installed(package: str) -> str | None:
    """Version of a distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def revision() -> str | None:
    """Revision of the code, `-dirty` if changed since; None outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    here, quiet = Path(__file__).parent, subprocess.DEVNULL
    with suppress(OSError, subprocess.SubprocessError):
        text = subprocess.check_output(command, cwd=here, stderr=quiet, text=True, timeout=10)
        return text.strip()
    return None


def _examine(
    path: Path, config: Mapping[str, Any] | None, resume: str
) -> tuple[dict[str, Any], str, bool]:
    """`run.json`; what differs in the configuration, but may; whether the run is finished."""
    content = _content(path)
    if resume == "never" and content:
        raise ConfigError(f"resume=never: {path} already holds a run; {_REMEDY}, or resume=auto")
    saved = any(name.startswith("step_") for name in disk.names(path / "checkpoints"))
    if resume == "must" and not saved:
        raise ConfigError(f"resume=must: {path} holds no checkpoint; use resume=auto")
    if not content:
        return {"starts": 0, "seconds": {}}, "", False
    held = f"runs_dir: {path} holds"
    if "config.yaml" not in content:
        raise ConfigError(f"{held} {one_line(content[0])} but no config.yaml of a run; {_REMEDY}")
    try:
        noted = fields(path / "run.json") if "run.json" in content else Fields(path, {})
        counts = {"starts": noted.get("starts", int, 0), "seconds": noted.get("seconds", dict, {})}
        old = flatten(fields(path / "config.yaml").content)
    except ConfigError as error:
        raise ConfigError(f"{error}; put it right, or {_REMEDY}") from error
    changes, grown = _changes(path, old, old if config is None else flatten(config))
    status = noted.content.get("status")
    finished = status == "finished" and not grown
    if not saved and not finished and ("final.json" in content or status in _SAVED):
        remedy = f"bring one back, or {_REMEDY}"
        raise ConfigError(f"{held} rows of a run but its checkpoints are gone; {remedy}")
    return {**noted.content, **counts}, changes, finished


def _content(path: Path) -> list[str]:
    """What a run left in its folder. Raises: ConfigError: some of it is a link, or no file."""
    visible = [name for name in disk.names(path) if not name.startswith(".")]
    content = [name for name in visible if name not in _NOT_CONTENT]
    tables = (name for name in content if name.endswith(".csv"))
    charts = (f"tb/{name}" for name in disk.names(path / "tb") if "tfevents" in name)
    for name in (*_FOLDERS, "log.txt", *tables, *charts):
        if not disk.is_plain(path / name, folder=name in _FOLDERS):
            what = f"{path / name} is a link, or no plain file or folder, as a run writes"
            raise ConfigError(f"runs_dir: {what}; put one in its place, or {_REMEDY}")
    return content


def _changes(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, bool]:
    """What differs between flat configurations, and whether the new one asks for more.

    Raises: ConfigError: what differs may not.
    """
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    grown = [key for key in differing if key in MAY_GROW and _larger(new.get(key), old.get(key))]
    fixed = without({**old, **new}, (*MAY_CHANGE, *grown))
    refused = [key for key in differing if key in fixed]
    keys = refused or differing
    shown = one_line(", ".join(f"{key}={new.get(key)} (was {old.get(key)})" for key in keys))
    if refused:
        what = f"not what the run in {path} was started with"
        raise ConfigError(f"{shown}: {what}; {_REMEDY}, or go on as before")
    return shown, bool(grown)


def identity(config: Mapping[str, Any]) -> str:
    """Digest of what may not change in the configuration of a run; its checkpoints bear it."""
    fixed = without(config, (*MAY_CHANGE, *MAY_GROW))
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()


def _larger(new: Any, old: Any) -> bool:
    return all(isinstance(value, int | float) for value in (new, old)) and new > old


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _owner(path: Path) -> str:
    """What the process that claimed a folder wrote into its lock file."""
    text = disk.read_bytes(path, 1000) if path.exists() else b""
    return one_line(text.decode(errors="replace"))


def _lives(owner: str) -> bool:
    """Whether that process may be at work: another one of this machine, or any elsewhere."""
    here = re.fullmatch(rf"process (\d{{1,9}}) on {re.escape(socket.gethostname())}", owner)
    return psutil.pid_exists(int(here[1])) if here else bool(owner)


def _lock(path: Path, descriptor: int) -> str:
    """Lock the open file at `path`; returns who we are, which it says from now on.

    On storage without locks that text protects: at once from processes of this machine, from those
    of others when either of the two writes (`RunFolder.check`).
    """
    owner, host = _owner(path), socket.gethostname()
    me = f"process {os.getpid()} on {host}"
    used = owner.endswith(f" on {host}") and owner != me and _lives(owner)
    with disk.optional("locks"):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            used = False
        except BlockingIOError:
            used = True
    if used:
        who = owner or "another process"
        raise ConfigError(f"runs_dir: {path.parent} is in use by {who}; wait, or {_REMEDY}")
    os.pwrite(descriptor, f"{me}\n".encode(), 0)
    os.ftruncate(descriptor, len(me) + 1)
    return me
