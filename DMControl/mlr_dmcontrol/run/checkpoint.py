"""Checkpoints that survive crashes, full disks and damaged files.

    checkpoints/
      step_000123456.json    what belongs to that step: parts of the state and replay frames
      files/3fa9c1...        one of these, tensors and plain values; named by its content's SHA-256

A save adds files, publishes them by renaming one JSON into place, and then removes what no JSON
names. A file never changes, and what two checkpoints share, such as frames, is written once.
Nothing is believed that was not checked, and what is not this run's stays as it is.
"""

import hashlib
import json
import logging
import os
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import psutil
import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, NonFiniteError
from . import disk
from .disk import one_line
from .folder import identity
from .metrics import write_report

log = logging.getLogger(__name__)

SCHEMA = 3
_ATTEMPTS = 3  # failed saves in a row that end a run
_LARGEST_JSON = 2**24  # bytes; one of the benchmark's 100k steps takes some kilobytes
_PUBLISHED = re.compile(r"step_(\d{9,})(\.json)?")  # without: a folder of schema 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OURS = (_PUBLISHED, _DIGEST, disk.TEMPORARY)
_PLAIN, _CONTAINERS = (int, float, bool, str, bytes, type(None)), (dict, list, tuple)
_MISFITS = LookupError, ValueError, TypeError, AttributeError, OverflowError, RuntimeError


class Damaged(OSError):
    """A file is missing, is not what it was, or is none of ours."""


class Stateful(Protocol):
    """A part of the run that outlives a step."""

    def state_dict(self) -> Mapping[str, Any]:
        """Nested tensors and plain values."""

    def load_state_dict(self, state_dict: Any, /) -> object:
        """Continue where `state_dict()` was called."""


class FrameStore(Protocol):
    """A replay's frames, numbered by when they were added; the oldest are forgotten."""

    @property
    def frames_written(self) -> int: ...

    @property
    def first_live_frame(self) -> int: ...

    def read_frames(self, start: int, stop: int) -> Tensor:
        """Frames `start` to `stop - 1`, uint8 (F, C, H, W), in that order."""

    def write_frames(self, start: int, frames: Tensor) -> None:
        """Put `frames` back as numbers `start`, `start + 1`, ...; some may live no more."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint's JSON says, and what was read with it."""

    path: Path  # of the JSON
    run: str  # identity of the run that it belongs to
    step: int
    final: bool = False
    parts: dict[str, str] = field(default_factory=dict)  # the file of each part of the state
    frames: dict[int, str] = field(default_factory=dict)  # each file's by the end of its frames
    wrong: Damaged | None = None  # why the JSON cannot be read; the rest is empty then
    items: dict[str, Any] = field(default_factory=dict)  # the parts asked for, on the CPU

    @property
    def files(self) -> dict[str, str]:
        """Every file that is needed, by what it holds."""
        return self.parts | {f"frames to {stop}": file for stop, file in self.frames.items()}

    @contextmanager
    def fitting(self, name: str) -> Iterator[None]:
        """Where a part is given its state. Raises: CheckpointError: it does not fit."""
        try:
            yield
        except (OSError, *_MISFITS) as error:
            raise CheckpointError(f"{self.path}: {name} does not fit: {one_line(error)}") from error


class Checkpointer:
    """Saves and restores the state of the run in `run_folder`, which this process holds.

    Args:
        keep: how many checkpoints to keep, besides the final ones; at least 2.
        run: identity of the run; another's checkpoints are not used. Empty: anyone's are.
        block_size: replay frames in a file; the same for all processes of a run.
    """

    def __init__(
        self, run_folder: Path, keep: int = 2, run: str = "", block_size: int = 1024
    ) -> None:
        self._run_folder, self._keep, self._run = run_folder, keep, run
        self._folder = run_folder / "checkpoints"
        self._files = self._folder / "files"
        self._block_size, self._failures = block_size, 0
        self._last: Checkpoint | None = None  # that was saved or restored

    def save(
        self,
        step: int,
        state: Mapping[str, Stateful],
        frames: FrameStore,
        *,
        final: bool = False,
        required: bool = False,
    ) -> None:
        """Write a checkpoint; it either becomes complete or leaves no trace but a warning.

        Args:
            step: where the run is; an earlier checkpoint of the same step is replaced.
            state: the parts of the run, by name, but for the replay's `frames`.
            final: to be kept for good.
            required: a failure ends the run (the last save before the process ends).

        Raises:
            NonFiniteError: a tensor of the state holds a NaN or infinity.
            StorageError: writing failed three times in a row, or failed and was required.
        """
        try:
            disk.patiently(self._save, step, state, frames, final)
        except OSError as error:
            self._tidy()
            self._failures += 1
            last = self._last and self._last.step
            what = f"step {step} could not be saved, last good step: {last}"
            if required or self._failures == _ATTEMPTS:
                raise disk.failure(f"{self._folder}: {what}", error) from error
            counted = f"training goes on ({self._failures} of {_ATTEMPTS})"
            log.warning("%s (%s); %s", what, error, counted)

    def load(self, state: Mapping[str, Stateful], frames: FrameStore) -> int | None:
        """Restore the newest valid checkpoint, the parts in the order of `state`, then the frames.

        Random generators belong at the end of `state`, after whatever might draw.

        Returns: its step; None if there is none to restore.

        Raises: CheckpointError: there are checkpoints but none can be used, or it does not fit.
        """
        checkpoint = self.newest()
        if checkpoint is None:
            return None
        for name, part in state.items():
            with checkpoint.fitting(name):
                part.load_state_dict(checkpoint.items[name])
        with checkpoint.fitting("frames"):
            for stop, file in sorted(checkpoint.frames.items()):
                block = disk.patiently(self._read, file)
                frames.write_frames(stop - len(block), block)
        self._last = replace(checkpoint, items={})
        log.info("restored %s", checkpoint.path)
        return checkpoint.step

    def newest(self, names: Collection[str] | None = None) -> Checkpoint | None:
        """Read the newest valid checkpoint; the disk is not changed.

        Args: `names`: the parts that are needed; None means all, and that the frames are there.

        Raises: CheckpointError: there are some, but none can be used, or one is of another run.
        StorageError: the folder cannot be read.
        """
        with disk.essential(f"{self._folder} cannot be read"):
            published, reason = disk.patiently(self._published), ""
        for checkpoint in reversed(published):
            try:
                return disk.patiently(self._read_parts, checkpoint, names)
            except OSError as error:
                reason = one_line(f"{checkpoint.path.name}: {error}")
                log.warning("checkpoint cannot be used: %s", reason)
        if published:
            raise CheckpointError(
                f"{self._folder}: none of the {len(published)} checkpoints can be used ({reason}); "
                "nothing was changed; bring one back, or choose another tag or runs_dir"
            )
        return None

    # ---- writing -----------------------------------------------------------------------------

    def _save(
        self, step: int, state: Mapping[str, Stateful], frames: FrameStore, final: bool
    ) -> None:
        path, last = self._folder / f"step_{step:09d}.json", self._last
        try:
            trees = {name: plain(part.state_dict(), name) for name, part in state.items()}
        except NonFiniteError as error:
            write_report(self._run_folder, {"step": step, "not_finite": str(error)})
            what = f"{error} at step {step} and was not saved"
            raise NonFiniteError(f"{what}; last good step: {last and last.step}") from error
        for folder in (self._folder, self._files):
            disk.own_folder(folder)
        self._tidy()
        final = final or (last is not None and last.final and last.step == step)
        parts = {name: self._write(tree) for name, tree in trees.items()}
        there = {*disk.names(self._files)}  # somebody may have removed some
        old, blocks = last.frames if last else {}, dict[int, str]()
        written = {stop: file for stop, file in old.items() if file in there}
        first, end, size = frames.first_live_frame, frames.frames_written, self._block_size
        for start in range(first - first % size, end, size):
            stop = min(start + size, end)  # a full file has the same end ever after
            known = written.get(stop)
            blocks[stop] = known or self._write(frames.read_frames(max(start, first), stop))
        record = {"schema": SCHEMA, "run": self._run, "step": step, "final": final, "parts": parts}
        named = {str(stop): file for stop, file in blocks.items()}
        disk.write_atomically(path, sealed({**record, "frames": named}))
        self._last, self._failures = Checkpoint(path, self._run, step, final, parts, blocks), 0
        self._tidy()
        log.info("saved %s", path.stem)

    def _write(self, tree: Any) -> str:
        def save(file: BinaryIO) -> None:  # not by way of the memory
            try:
                torch.save(tree, file)
            except RuntimeError as error:
                raise error.__context__ or error from None  # torch hides what the disk said

        return disk.write_new(self._files, save, _digest)

    def _tidy(self) -> None:
        """Remove old checkpoints, those of a past left behind, and the files that none names."""
        try:
            last = self._last
            past = [it for it in self._published() if last is None or it.step <= last.step]
            kept = [*past[-self._keep :], *(it for it in past if it.final)]
            needed = {name for it in kept for name in (it.path.name, *it.files.values())}
            for entry in (*os.scandir(self._folder), *os.scandir(self._files)):
                ours = any(kind.fullmatch(entry.name) for kind in _OURS)
                if ours and entry.name not in needed and entry.is_file(follow_symlinks=False):
                    os.unlink(entry)
        except (OSError, CheckpointError) as error:
            log.warning("what is not needed any more could not be removed (%s)", error)

    # ---- reading -----------------------------------------------------------------------------

    def _read_parts(self, checkpoint: Checkpoint, names: Collection[str] | None) -> Checkpoint:
        if checkpoint.wrong:
            raise checkpoint.wrong
        parts = {name: checkpoint.parts.get(name, "") for name in names or checkpoint.parts}
        needed = parts if names else checkpoint.files
        paths = {name: self._files / file for name, file in needed.items()}
        if sum(paths[name].stat().st_size for name in parts) > psutil.virtual_memory().total:
            raise Damaged("is larger than this machine's memory")
        for name, path in paths.items():
            if not path.is_file() or _digest(path) != path.name:
                raise Damaged(f"{name}, {path}, is missing or was changed")
        return replace(checkpoint, items={name: self._read(file) for name, file in parts.items()})

    def _read(self, file: str) -> Any:
        """On the CPU; Damaged: it holds objects, which are not created, or more than the disk."""
        path = self._files / file
        try:
            size = path.stat().st_size
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > size:
                    raise ValueError("compressed")
            tree = torch.load(path, map_location="cpu", weights_only=True)
            # A small file can stand for very much: views that repeat memory, lists of one list.
            nodes = [tree]
            for node in nodes:
                view = isinstance(node, Tensor) and node.nbytes > node.untyped_storage().nbytes()
                known = isinstance(node, (Tensor, *_CONTAINERS, *_PLAIN))
                if view or not known or len(nodes) > size:
                    raise ValueError(f"a view, too many values, or a {type(node).__name__}")
                if isinstance(node, _CONTAINERS):
                    nodes += node.values() if isinstance(node, dict) else node
            return tree
        except OSError:
            raise
        except Exception as error:  # torch raises many kinds, and each means the same here
            what = f"is no file of tensors and plain values ({one_line(error)})"
            raise Damaged(f"files/{file} {what}") from error

    def _published(self) -> list[Checkpoint]:
        """What all JSONs say, oldest first; CheckpointError: one is of another run or schema."""
        ours = filter(None, map(_PUBLISHED.fullmatch, disk.names(self._folder)))
        steps = sorted((int(match[1]), self._folder / match[0]) for match in ours)
        return [self._described(path, step) for step, path in steps]

    def _described(self, path: Path, step: int) -> Checkpoint:
        try:
            text = disk.patiently(disk.read_bytes, path, _LARGEST_JSON)
            record = json.loads(text)
            if sealed(record).encode() != text:
                raise Damaged("another checksum than when it was written")
            run, parts, schema = record["run"], record["parts"], record["schema"]
            if schema != SCHEMA:
                raise CheckpointError(
                    f"{path}: has schema {schema!r:.20}, this code reads {SCHEMA}; finish the run "
                    "with the version that began it, or choose another tag or runs_dir"
                )
            if self._run not in ("", run):
                what = "is of a run with another configuration"
                raise CheckpointError(f"{path}: {what}; move it away")
            frames = {int(stop): file for stop, file in record["frames"].items()}
            checkpoint = Checkpoint(path, run, step, record["final"], parts, frames)
            if step != record["step"] or not all(map(_DIGEST.fullmatch, checkpoint.files.values())):
                raise Damaged("it names another step, or what is no file of ours")
            return checkpoint
        except (OSError, ConfigError, *_MISFITS) as error:
            wrong = Damaged(f"cannot be read ({one_line(error)})")
            return Checkpoint(path, self._run, step, wrong=wrong)


def agent_checkpoint(run: Path, config: Mapping[str, Any]) -> Checkpoint:
    """The newest valid checkpoint in the folder of the run with this configuration: its agent.

    Raises: ConfigError: there is none. CheckpointError: none can be used, or one is another run's.
    """
    checkpoint = Checkpointer(run, run=identity(config)).newest(["agent"])
    if checkpoint is None:
        raise ConfigError(f"{run}: holds no checkpoint; train it first")
    return checkpoint


def plain(tree: Any, name: str) -> Any:
    """The state `tree` in types that can be read back without running code; memory is shared.

    But views are copied, since saving one would save all of the memory that it is a view of.

    Raises, naming the part:
        NonFiniteError: a tensor holds a NaN or infinity; plain numbers may.
        TypeError: it is neither a tensor nor a plain value or container.
    """
    if isinstance(tree, Tensor):
        tensor = tree.detach()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(f"{name} holds a NaN or infinity")
        return tensor if tensor.untyped_storage().nbytes() <= tensor.nbytes else tensor.clone()
    if isinstance(tree, Mapping):
        if not all(type(key) in (str, int) for key in tree):
            raise TypeError(f"{name}: keys must be str or int")
        return {key: plain(value, f"{name}.{key}") for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(plain(value, f"{name}.{index}") for index, value in enumerate(tree))
    if type(tree) not in _PLAIN:
        raise TypeError(f"{name}: a {type(tree).__name__} cannot be saved")
    return tree


def _digest(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(record: Mapping[str, Any]) -> str:
    """The record's only spelling, with its checksum, so that every bit of a JSON is checked."""
    body = {key: value for key, value in record.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1, sort_keys=True) + "\n"
