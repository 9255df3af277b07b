"""Records of a run: CSV tables, TensorBoard and log.txt.

The tables are the scientific record: they hold no wall-clock values, their numbers read back
exactly, and after a resume they continue at the very byte of the checkpoint, so that an
interrupted run leaves the same files as an uninterrupted one.
"""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ..errors import CheckpointError, StorageError

log = logging.getLogger(__name__)

Value = int | float | str | bool | None


class CsvTable:
    """Rows appended to a CSV file with a fixed header.

    A row that cannot be written (disk full) waits in memory for the next attempt.

    Args:
        path: the file.
        columns: the header.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)
        self._size = 0  # bytes of the file that are good
        self._pending = b""
        self._descriptor = -1

    def open(self) -> None:
        """Open the file, but leave it as it is.

        Raises:
            CheckpointError: it is shorter than the restored position or has other columns.
            OSError: it cannot be created.
        """
        header = _line(self.columns)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        if not self._size:
            self._pending = header
            return
        length = os.fstat(self._descriptor).st_size
        if length < self._size:
            raise CheckpointError(
                f"{self.path} has {length} bytes, {self._size} when the checkpoint was saved"
            )
        if os.pread(self._descriptor, len(header), 0) != header:
            raise CheckpointError(f"{self.path} has not the columns {','.join(self.columns)}")

    def cut(self) -> None:
        """Cut off what was written after the restored position; write a new file's header."""
        os.ftruncate(self._descriptor, self._size)
        self._write()

    def append(self, values: Mapping[str, Value]) -> None:
        """Add a row; a missing column stays empty.

        Raises:
            ValueError: a key of `values` is no column.
        """
        unknown = set(values) - set(self.columns)
        if unknown:
            raise ValueError(f"{self.path.name} has no column {', '.join(sorted(unknown))}")
        self._pending += _line([values.get(column) for column in self.columns])
        try:
            self._write()
        except OSError as error:
            log.warning("%s cannot be written (%s); its rows are kept in memory", self.path, error)

    def sync(self) -> int:
        """Make every row durable; returns the file's length in bytes.

        Raises:
            OSError: rows could not be written.
        """
        self._write()
        os.fsync(self._descriptor)
        return self._size

    def restore(self, size: int) -> None:
        """Continue at byte `size`; to be called before `open`."""
        self._size = size

    def close(self) -> None:
        """Write what still waits, if the disk allows it, and close the file."""
        if self._descriptor < 0:
            return
        try:
            self._write()
        except OSError as error:
            log.warning("%s has lost its last rows (%s)", self.path, error)
        os.close(self._descriptor)
        self._descriptor = -1

    def _write(self) -> None:
        # At a position, not appended: a partly written row is written over.
        while self._pending:
            written = os.pwrite(self._descriptor, self._pending, self._size)
            self._size += written
            self._pending = self._pending[written:]


class RunLogger:
    """Everything that a run writes down while it goes on.

    Entered as a context manager it sends the package's messages to `log.txt`; the tables and
    TensorBoard begin with `open`, once the state was restored.

    Args:
        folder: the run's folder.
        tables: columns of each table, such as `{"train": (...), "eval": (...)}`, for `train.csv`.
        layout: TensorBoard's custom-scalars page, `{page: {chart: ["Multiline", [tags]]}}`.
        about: Markdown shown under TensorBoard's Text tab, e.g. what the x-axis counts.
    """

    def __init__(
        self,
        folder: Path,
        tables: Mapping[str, Sequence[str]],
        *,
        layout: Mapping[str, Any] | None = None,
        about: str = "",
    ) -> None:
        self._folder = folder
        self._tables = {
            name: CsvTable(folder / f"{name}.csv", columns) for name, columns in tables.items()
        }
        self._layout = dict(layout or {})
        self._about = about
        self._last_step = -1
        self._writer: SummaryWriter | None = None
        self._handler = logging.FileHandler(folder / "log.txt", encoding="utf-8", delay=True)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def __enter__(self) -> RunLogger:
        package_log().addHandler(self._handler)
        package_log().propagate = False  # some libraries print whatever reaches the root
        return self

    def open(self) -> None:
        """Continue the tables and TensorBoard at the restored position, or start them.

        Raises:
            CheckpointError: a table was damaged; none was changed.
            StorageError: they cannot be written.
        """
        try:
            for table in self._tables.values():
                table.open()
            for table in self._tables.values():
                table.cut()
            self._open_tensorboard()
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be written: {error}") from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):
            log.error("%s: %s", kind.__name__ if kind else "", error)
        self.close()

    def close(self) -> None:
        """Close every file; rows are on disk already unless the disk is full."""
        for table in self._tables.values():
            table.close()
        self._close_tensorboard()
        package_log().removeHandler(self._handler)
        package_log().propagate = True
        self._handler.close()

    def row(self, table: str, values: Mapping[str, Value]) -> None:
        """Add a row to `<table>.csv`.

        Raises:
            ValueError: a key of `values` is no column of the table.
        """
        self._tables[table].append(values)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars to TensorBoard at `step`, in the run's x-axis unit."""
        for tag, value in values.items():
            self._tensorboard("add_scalar", tag, value, step)
        self._last_step = max(self._last_step, step)

    def image(self, step: int, tag: str, image: Tensor) -> None:
        """Write an image, uint8 (3, H, W) or (1, H, W), to TensorBoard."""
        self._tensorboard("add_image", tag, image.cpu(), step)
        self._last_step = max(self._last_step, step)

    def state_dict(self) -> dict[str, Any]:
        """Lengths of the tables, in bytes, all on disk, and TensorBoard's last step.

        TensorBoard is written too; if the disk was full, this is when it is tried again.

        Raises:
            OSError: rows could not be written.
        """
        sizes = {name: table.sync() for name, table in self._tables.items()}
        if self._writer is None:
            self._open_tensorboard()
        self._tensorboard("flush")
        return {"sizes": sizes, "last_step": self._last_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken; what was written later is cut off by `open`.

        Raises:
            CheckpointError: the tables differ.
        """
        if set(state["sizes"]) != set(self._tables):
            raise CheckpointError(
                f"tables {sorted(state['sizes'])} were saved, {sorted(self._tables)} are needed"
            )
        for name, size in state["sizes"].items():
            self._tables[name].restore(size)
        self._last_step = state["last_step"]

    def _tensorboard(self, method: str, *arguments: Any) -> None:
        if self._writer is None:
            return
        try:
            getattr(self._writer, method)(*arguments)
        except OSError as error:
            # Its writing thread does not survive a full disk. The tables are the record.
            log.warning("TensorBoard cannot write (%s): no points until the next save", error)
            self._close_tensorboard()

    def _open_tensorboard(self) -> None:
        # Readers drop what an interrupted process wrote from this step on.
        writer = SummaryWriter(
            str(self._folder / "tb"), purge_step=self._last_step + 1, flush_secs=30
        )
        if self._last_step < 0:
            writer.add_custom_scalars(self._layout)
            writer.add_text("about", self._about, 0)
        self._writer = writer

    def _close_tensorboard(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close()
        except OSError as error:
            log.warning("TensorBoard has lost its last points (%s)", error)


def fetch(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Values of 0-d tensors on one device, with a single transfer to the host."""
    if not metrics:
        return {}
    stacked = torch.stack([value.detach().double() for value in metrics.values()])
    return dict(zip(metrics, stacked.tolist(), strict=True))


def package_log() -> logging.Logger:
    """The package's logger, parent of every module's; messages from INFO on pass."""
    logger = logging.getLogger(__name__.partition(".")[0])
    logger.setLevel(logging.INFO)
    return logger


def _line(values: Sequence[Value]) -> bytes:
    """One CSV line; floats in the shortest form that reads back exactly."""
    text = io.StringIO()
    cells = [
        "" if value is None else repr(value) if type(value) is float else value for value in values
    ]
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
