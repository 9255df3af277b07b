"""Checkpoints that survive crashes, full disks and damaged files.

    checkpoints/
      step_000123456/        one folder a save, published by renaming it into place
        agent.pt ...         one file for each part of the state, tensors and plain values only
        frames_head.npy      replay frames that do not fill a chunk yet
        manifest.json        written last: size and SHA-256 of every file, and of itself
      frames/                chunks of replay frames, written once, shared by the checkpoints

A folder that does not agree with its manifest is never used, a valid one is never removed before
a newer one is in place, and a save changes nothing but the disk.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..errors import CheckpointError, NonFiniteError, StorageError
from . import storage
from .chunks import ChunkedFrames, FrameFiles
from .folder import sync_folder
from .guard import first_non_finite, write_report
from .storage import Damaged

__all__ = ["Checkpoint", "Checkpointer", "ChunkedFrames", "Stateful"]

log = logging.getLogger(__name__)

_ATTEMPTS = 3
_FREE_SPACE = 1.5  # times what will be written
_NAME = re.compile(r"step_(\d{9,})(?:-(\d+))?")


class Stateful(Protocol):
    """A part of the run that outlives a step."""

    def state_dict(self) -> Mapping[str, Any]:
        """Nested tensors and plain values."""

    def load_state_dict(self, state_dict: Any, /) -> object:
        """Continue where `state_dict()` was called."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all as they were written.

    Attributes:
        items: the parts that were asked for, by name, on the CPU.
    """

    folder: Path
    step: int
    items: dict[str, Any]
    manifest: dict[str, Any]


class Checkpointer:
    """Saves and restores the state of the run in `run_folder`, which this process holds.

    Args:
        run_folder: the run's folder; checkpoints go to `checkpoints/` in it.
        keep: how many checkpoints to keep, besides the final ones; at least 2.
    """

    def __init__(self, run_folder: Path, keep: int = 2) -> None:
        if keep < 2:
            raise ValueError("one checkpoint is none: keep at least 2")
        self._run_folder = run_folder
        self._folder = run_folder / "checkpoints"
        self._frames = FrameFiles(self._folder / "frames")
        self._keep = keep
        self._line = self._published()  # the checkpoints that led to the present state
        self._failures = 0

    def save(
        self,
        step: int,
        state: Mapping[str, Stateful],
        frames: ChunkedFrames | None = None,
        *,
        final: bool = False,
        required: bool = False,
    ) -> Path | None:
        """Write a checkpoint; it either becomes complete or leaves no trace.

        Args:
            step: the x-axis of the run, in the name of the folder.
            state: the parts of the run, by name.
            frames: replay frames, when they are not part of `state`.
            final: to be kept for good.
            required: a failure ends the run (the last save before the process ends).

        Returns:
            The folder; None if it could not be written, which is logged.

        Raises:
            NonFiniteError: a tensor of the state holds a NaN or infinity.
            StorageError: writing failed three times in a row, or failed and was required.
        """
        try:
            folder = self._save(step, state, frames, final)
        except OSError as error:
            self._clear()
            self._failures += 1
            last = _step(self._line[-1]) if self._line else "none"
            if required or self._failures == _ATTEMPTS:
                raise StorageError(
                    f"{self._folder}: step {step} could not be saved ({error}); last good step: "
                    f"{last}; make room, then run the same command again"
                ) from error
            log.warning(
                "step %d could not be saved (%s); training goes on, last good step: %s (%d of %d)",
                step, error, last, self._failures, _ATTEMPTS,
            )  # fmt: skip
            return None
        self._failures = 0
        return folder

    def load(
        self, state: Mapping[str, Stateful], frames: ChunkedFrames | None = None
    ) -> int | None:
        """Restore the newest valid checkpoint, the parts in the order of `state`, then the frames.

        Random generators belong at the end of `state`, after whatever might draw.

        Returns:
            The checkpoint's step; None if there is none to restore.

        Raises:
            CheckpointError: there are checkpoints but all are damaged, or it does not fit.
        """
        checkpoint = self.newest()
        if checkpoint is None:
            return None
        saved, folder = checkpoint.items, checkpoint.folder
        if set(saved) != set(state):
            raise CheckpointError(f"{folder}: holds {sorted(saved)}, this run has {sorted(state)}")
        for name, part in state.items():
            try:
                part.load_state_dict(saved[name])
            except (KeyError, ValueError, TypeError, RuntimeError) as error:
                raise CheckpointError(f"{folder}: {name} does not fit this run: {error}") from error
        section = checkpoint.manifest["frames"]
        self._frames.restore(section, folder, frames)
        self._frames.adopt(section)
        published = self._published()
        self._line = published[: published.index(folder) + 1]
        log.info("restored %s", folder)
        return checkpoint.step

    def newest(self, names: Collection[str] | None = None) -> Checkpoint | None:
        """Read the newest valid checkpoint; the disk is not changed.

        Args:
            names: the parts that are needed; None means all, and the frames too.

        Raises:
            CheckpointError: there are checkpoints, but every one is damaged.
        """
        folders = self._published()
        reason = ""
        for folder in reversed(folders):
            try:
                return self._read(folder, names)
            except OSError as error:
                reason = f"{folder.name}: {error}"
                log.warning("checkpoint cannot be used: %s", reason)
        if folders:
            raise CheckpointError(
                f"{self._folder}: none of the {len(folders)} checkpoints can be used ({reason}); "
                "nothing was changed; bring one back, or choose another tag or runs_dir"
            )
        return None

    def _save(
        self,
        step: int,
        state: Mapping[str, Stateful],
        frames: ChunkedFrames | None,
        final: bool,
    ) -> Path:
        began = time.perf_counter()
        states = {name: part.state_dict() for name, part in state.items()}
        self._refuse_non_finite(step, states)
        items = {name: storage.plain(tree, name) for name, tree in states.items()}
        self._clear()
        temporary = self._folder / f".tmp-step_{step:09d}"
        temporary.mkdir(parents=True)
        (self._folder / "frames").mkdir(exist_ok=True)
        planned = storage.tree_bytes(items) + self._frames.new_bytes(frames)
        self._require_space(planned)
        entries = {
            name: storage.write_tree(temporary / f"{name}.pt", tree) for name, tree in items.items()
        }
        section = self._frames.write(frames, temporary)
        manifest = {"step": step, "final": final, "items": entries, "frames": section}
        storage.write_manifest(temporary, manifest)
        sync_folder(temporary)
        # Nothing is published, and so nothing older pruned, unless it reads back as written.
        self._verify(temporary, storage.read_manifest(temporary), fresh_only=True)
        target = self._unused_name(step)
        os.replace(temporary, target)
        sync_folder(self._folder)
        sync_folder(self._run_folder)
        self._line.append(target)
        self._frames.adopt(section)
        self._prune()
        seconds = time.perf_counter() - began
        log.info("saved %s, %.1f MB in %.2f s", target.name, planned / 1e6, seconds)
        return target

    def _refuse_non_finite(self, step: int, states: Mapping[str, Any]) -> None:
        name = first_non_finite(states)
        if name is not None:
            write_report(self._run_folder, {"step": step, "not_finite": name})
            last = self._line[-1] if self._line else "none"
            raise NonFiniteError(
                f"{name} holds a NaN or infinity at step {step} and was not saved; "
                f"last checkpoint: {last}"
            )

    def _require_space(self, planned: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < _FREE_SPACE * planned:
            raise OSError(
                errno.ENOSPC,
                f"{free / 1e6:.0f} MB free, {_FREE_SPACE * planned / 1e6:.0f} MB wanted",
            )

    def _read(self, folder: Path, names: Collection[str] | None) -> Checkpoint:
        manifest = storage.read_manifest(folder)
        entries = manifest["items"]
        if names is None:
            self._verify(folder, manifest)
        else:
            entries = {name: entries[name] for name in names if name in entries}
            for entry in entries.values():
                storage.verify(folder / entry["file"], entry)
        items = {name: storage.read_tree(folder / each["file"]) for name, each in entries.items()}
        return Checkpoint(folder, manifest["step"], items, manifest)

    def _verify(
        self, folder: Path, manifest: Mapping[str, Any], *, fresh_only: bool = False
    ) -> None:
        for entry in manifest["items"].values():
            storage.verify(folder / entry["file"], entry)
        self._frames.verify(manifest["frames"], folder, fresh_only=fresh_only)

    def _prune(self) -> None:
        """Remove what neither the last checkpoints nor the final ones need."""
        manifests: dict[Path, dict[str, Any]] = {}
        self._line = self._line[-self._keep :]
        try:
            for folder in self._published():
                try:
                    manifest = storage.read_manifest(folder)
                except Damaged:
                    manifest = {"final": False, "frames": None}
                if folder in self._line or manifest["final"]:
                    manifests[folder] = manifest
                    continue
                # Out of sight first: a half-removed folder would look like a damaged one.
                doomed = folder.with_name(f".tmp-old-{folder.name}")
                os.replace(folder, doomed)
                shutil.rmtree(doomed)
            self._frames.prune([each["frames"] for each in manifests.values()])
        except OSError as error:
            log.warning("old checkpoints could not be removed (%s)", error)

    def _clear(self) -> None:
        """Remove what an interrupted or failed save left behind."""
        for path in self._folder.glob(".tmp-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _unused_name(self, step: int) -> Path:
        """`step_<step>`, numbered if that was saved before: published folders never change."""
        taken = [_order(each)[1] for each in self._published() if _step(each) == step]
        suffix = f"-{max(taken) + 1}" if taken else ""
        return self._folder / f"step_{step:09d}{suffix}"

    def _published(self) -> list[Path]:
        """Checkpoint folders, oldest first."""
        folders = (each for each in self._folder.glob("step_*") if _NAME.fullmatch(each.name))
        return sorted(folders, key=_order)


def _order(folder: Path) -> tuple[int, int]:
    """Step and repetition in a checkpoint folder's name."""
    match = _NAME.fullmatch(folder.name)
    if match is None:
        raise ValueError(f"{folder.name} is no checkpoint folder's name")
    return int(match[1]), int(match[2] or 1)


def _step(folder: Path) -> int:
    return _order(folder)[0]
