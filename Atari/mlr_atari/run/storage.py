"""Files of a checkpoint: written with their checksum, and never believed without it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

SCHEMA = 1
MANIFEST = "manifest.json"
_BLOCK = 2**20
_PLAIN = (int, float, bool, str, bytes, type(None))

Entry = dict[str, Any]  # a file in a manifest: name, bytes, sha256, and what the user of it adds


class Damaged(OSError):
    """A file is missing, is not what its manifest says, or holds more than tensors and values."""


class HashedFile:
    """A new file whose SHA-256 is computed while it is written; on the disk when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._size = 0
        self.error: BaseException | None = None  # what interrupted the last write
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def write(self, data: Any) -> int:
        """Hash and write bytes, block by block while a block is in the processor's cache."""
        view = memoryview(data).cast("B")
        try:
            for start in range(0, len(view), _BLOCK):
                block = view[start : start + _BLOCK]
                self._digest.update(block)
                while block:
                    block = block[os.write(self._descriptor, block) :]
        except BaseException as error:
            self.error = error
            raise
        self._size += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""

    def entry(self) -> Entry:
        """The manifest's entry for what has been written."""
        return {"file": self._path.name, "bytes": self._size, "sha256": self._digest.hexdigest()}


def plain(tree: Any, name: str) -> Any:
    """The state `tree` on the CPU, in types that can be read back without running code.

    Tensors share memory with the original where they can. Views are copied, since saving one
    would save all of the memory that it is a view of.

    Raises:
        TypeError: naming the part that is neither a tensor nor a plain value or container.
    """
    if isinstance(tree, Tensor):
        tensor = tree.detach().cpu()
        whole = tensor.untyped_storage().nbytes() <= tensor.numel() * tensor.element_size()
        return tensor if whole else tensor.clone()
    if isinstance(tree, Mapping):
        if not all(type(key) in (str, int) for key in tree):
            raise TypeError(f"{name}: keys must be str or int")
        return {key: plain(value, f"{name}.{key}") for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(plain(value, f"{name}.{index}") for index, value in enumerate(tree))
    if type(tree) not in _PLAIN:
        raise TypeError(f"{name}: a {type(tree).__name__} cannot be saved")
    return tree


def tree_bytes(tree: Any) -> int:
    """Bytes of the tensors in nested dicts, lists and tuples."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, dict):
        return sum(tree_bytes(value) for value in tree.values())
    if isinstance(tree, (list, tuple)):
        return sum(tree_bytes(value) for value in tree)
    return 0


def write_tree(path: Path, tree: Any) -> Entry:
    """Write plain values and tensors, as returned by `plain`, to a new file.

    Raises:
        OSError: the disk is full or cannot be written.
    """

    def save(file: HashedFile) -> None:
        # SHA-256 makes the archive's own checksums superfluous, and they take half of the time.
        before = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(tree, cast(IO[bytes], file))
        finally:
            torch.serialization.set_crc32_options(before)

    return _write(path, save)


def write_frames(path: Path, frames: Tensor) -> Entry:
    """Write frames, uint8 (F, C, H, W), to a new `.npy` file.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    array = frames.cpu().contiguous().numpy()
    return _write(path, lambda file: np.lib.format.write_array(file, array, allow_pickle=False))


def verify(path: Path, entry: Entry, *, content: bool = True) -> None:
    """Check the file at `path` against its entry.

    Args:
        content: compare the checksum, not only the size.

    Raises:
        Damaged: naming the file and what is wrong with it.
    """
    if path.name != entry["file"] or not path.is_file():
        raise Damaged(f"{entry['file']} is missing")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise Damaged(f"{path.name} has {size} bytes instead of {entry['bytes']}")
    if not content:
        return
    with path.open("rb", buffering=0) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
            raise Damaged(f"{path.name} has another checksum than when it was written")


def read_tree(path: Path) -> Any:
    """Read what `write_tree` wrote, on the CPU.

    Raises:
        Damaged: it is no such file, or holds objects, which are not created.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, and each means the same here
        reason = str(error).strip().partition("\n")[0]
        raise Damaged(f"{path.name} is no file of tensors and plain values ({reason})") from error


def open_frames(path: Path, length: int) -> np.ndarray:
    """Map a file of `length` frames, uint8 (F, C, H, W), without reading them.

    Raises:
        Damaged: it is no such file.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Damaged(f"{path.name} is no file of frames ({error})") from error
    if array.dtype != np.uint8 or len(array) != length:
        raise Damaged(f"{path.name} does not hold {length} frames")
    return array


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, with its own checksum, into `folder`."""
    with HashedFile(folder / MANIFEST) as file:
        file.write(_signed({"schema": SCHEMA, **manifest}))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint's folder.

    Raises:
        Damaged: missing, changed by a single bit, or of another schema.
        OSError: the disk does not answer, which says nothing about the file.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise Damaged(f"{MANIFEST} is missing")
    text = path.read_bytes()
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise Damaged(f"{MANIFEST} cannot be read ({error})") from error
    if not isinstance(manifest, dict) or _signed(manifest) != text:
        raise Damaged(f"{MANIFEST} has another checksum than when it was written")
    schema = manifest.get("schema")
    if schema != SCHEMA:
        raise Damaged(f"{MANIFEST} has schema {schema}, this code reads {SCHEMA}")
    return manifest


def _signed(manifest: Mapping[str, Any]) -> bytes:
    """The manifest's only spelling, so that every bit of the file is checked."""
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**body, "sha256": digest}, indent=1, sort_keys=True) + "\n").encode()


def _write(path: Path, write: Callable[[HashedFile], None]) -> Entry:
    with HashedFile(path) as file:
        try:
            write(file)
        except RuntimeError as error:
            if file.error is None:
                raise
            raise file.error from error  # torch.save hides it behind a complaint of its own
        return file.entry()
