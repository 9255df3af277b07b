"""Replay frames on disk: written once, in chunks that several checkpoints share."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError
from . import storage
from .folder import sync_folder
from .storage import Entry


class ChunkedFrames(Protocol):
    """A store of frames, numbered by when they were added, which forgets the oldest ones."""

    @property
    def frame_chunk_size(self) -> int:
        """Frames in a file."""

    @property
    def frames_written(self) -> int:
        """Number of frames ever added."""

    @property
    def first_live_frame(self) -> int:
        """Number of the oldest frame that is still there."""

    def read_frames(self, start: int, stop: int) -> Tensor:
        """Frames `start` to `stop - 1`, uint8 (F, C, H, W), in that order."""

    def write_frames(self, start: int, frames: Tensor) -> None:
        """Put `frames` back as numbers `start`, `start + 1`, ..."""


class FrameFiles:
    """The files of the replay's frames.

    Frames `k * size` to `(k + 1) * size - 1` are chunk `k`, a file of `folder` named by its
    content, so that two different pasts of a run never overwrite each other. Frames that do not
    fill a chunk yet, the head, are written into each checkpoint.

    What a checkpoint needs is its *section* of the manifest: `{"chunk_size", "written",
    "first_live", "pieces": [{"file", "chunk" (null: the head), "start", "stop", ...}]}`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[int, Entry] = {}  # pieces of complete chunks, by chunk number

    def adopt(self, section: Mapping[str, Any] | None) -> None:
        """From now on reuse the chunks of the checkpoint that was just published or restored."""
        pieces = section["pieces"] if section is not None else []
        self._known = {each["chunk"]: each for each in pieces if each["chunk"] is not None}

    def new_bytes(self, frames: ChunkedFrames | None) -> int:
        """Bytes that `write` would add to the disk."""
        if frames is None or frames.frames_written == frames.first_live_frame:
            return 0
        last = frames.frames_written
        spans = self._spans(frames)
        new = sum(stop - start for chunk, start, stop in spans if chunk not in self._known)
        return new * frames.read_frames(last - 1, last).nbytes

    def write(self, frames: ChunkedFrames | None, temporary: Path) -> dict[str, Any] | None:
        """Write the head and the chunks that are not on disk yet; returns the section.

        Args:
            temporary: the checkpoint's folder, before it is published.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        if frames is None:
            return None
        pieces = []
        for chunk, start, stop in self._spans(frames):
            if chunk is not None and chunk in self._known:
                pieces.append(self._known[chunk])
                continue
            name = "frames_head.npy" if chunk is None else f"chunk_{chunk:06d}.npy"
            entry = storage.write_frames(temporary / name, frames.read_frames(start, stop))
            if chunk is not None:
                name = f"chunk_{chunk:06d}_{entry['sha256'][:16]}.npy"
                os.replace(temporary / entry["file"], self._folder / name)
            pieces.append({**entry, "file": name, "chunk": chunk, "start": start, "stop": stop})
        sync_folder(self._folder)
        return {
            "chunk_size": frames.frame_chunk_size,
            "written": frames.frames_written,
            "first_live": frames.first_live_frame,
            "pieces": pieces,
        }

    def verify(
        self, section: Mapping[str, Any] | None, checkpoint: Path, *, fresh_only: bool = False
    ) -> None:
        """Compare the files with the section.

        Args:
            checkpoint: folder of the head.
            fresh_only: of the chunks known before compare only the size.

        Raises:
            Damaged: naming the file and what is wrong with it.
        """
        for piece in section["pieces"] if section is not None else []:
            path = self._path(piece, checkpoint)
            storage.verify(path, piece, content=not fresh_only or piece["chunk"] not in self._known)
            storage.open_frames(path, piece["stop"] - piece["start"])

    def restore(
        self, section: Mapping[str, Any] | None, checkpoint: Path, frames: ChunkedFrames | None
    ) -> None:
        """Put the frames of a verified section back.

        Raises:
            CheckpointError: the section does not fit `frames`.
        """
        if (section is None) != (frames is None):
            raise CheckpointError(
                f"{checkpoint}: saved with frames, or restored with, but not both"
            )
        if section is None or frames is None:
            return
        if section["chunk_size"] != frames.frame_chunk_size:
            raise CheckpointError(
                f"{checkpoint}: chunks of {section['chunk_size']} frames, "
                f"this run has {frames.frame_chunk_size}"
            )
        for piece in section["pieces"]:
            start = max(piece["start"], section["first_live"])
            array = storage.open_frames(
                self._path(piece, checkpoint), piece["stop"] - piece["start"]
            )
            live = np.array(array[start - piece["start"] :])
            frames.write_frames(start, torch.from_numpy(live))

    def prune(self, sections: Collection[Mapping[str, Any] | None]) -> None:
        """Remove the chunks that none of `sections` needs."""
        needed = {each["file"] for section in sections if section for each in section["pieces"]}
        for path in self._folder.iterdir():
            if path.name not in needed:
                path.unlink()

    def _path(self, piece: Entry, checkpoint: Path) -> Path:
        return (checkpoint if piece["chunk"] is None else self._folder) / piece["file"]

    def _spans(self, frames: ChunkedFrames) -> Iterator[tuple[int | None, int, int]]:
        """Chunk number (None: the head), first frame and end of each file of live frames."""
        size, first, end = frames.frame_chunk_size, frames.first_live_frame, frames.frames_written
        for chunk in range(first // size, end // size):
            yield chunk, max(first, chunk * size), (chunk + 1) * size
        if end % size:
            yield None, max(first, end - end % size), end
