"""What a run writes down and shows: CSV tables, TensorBoard, log.txt, console and final.json.

The tables are the scientific record: they hold no wall-clock values, their numbers read back
exactly, and after a resume they continue at the very byte of the checkpoint, so that an
interrupted run leaves the same files as an uninterrupted one.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ..errors import CheckpointError, StorageError
from .evaluation import EvaluationResult
from .folder import RunFolder
from .progress import LastMetrics, Progress

COUNTERS = ("agent_step", "env_step", "update_step", "episode")
STEP_COLUMNS = ("agent_step", "env_step")
EVAL_COLUMNS = (*STEP_COLUMNS, "episodes", "mean", "std", "normalized")
EPISODE_COLUMNS = (*STEP_COLUMNS, "episode", "value", "length")

# What shows whether an objective still learns, by the end of a diagnostic's name, and below what
# latents hardly differ from each other any more: the spread of unit vectors, 1 if even and 0.03 of
# untrained encoders, and the directions in use.
HEALTH = {"cosine_similarity": -math.inf, "projection_std": 0.01, "effective_rank": 1.5}

# A line of progress where there is no terminal.
_PLAIN = "{n_fmt}/{total_fmt}{unit}{postfix}, {rate_noinv_fmt}, {remaining} left"

log = logging.getLogger(__name__)


class Benchmark(Protocol):
    """What the benchmark calls things, and how it compares scores; `protocol` is one."""

    NAME: str
    ABOUT: str  # Markdown for TensorBoard's Text tab
    STEP: str  # the counter that is the x-axis
    STEP_NAME: str
    METRIC: str
    CHART: str  # the metric's name in TensorBoard

    def normalize(self, task: str, value: float) -> float: ...


class Records:
    """Everything that a run leaves behind beside its checkpoints.

    Entered as a context manager it sends the package's messages to `log.txt` and its warnings to
    the console; tables, TensorBoard and console begin with `open`, once the state was restored.

    Args:
        names: of all metrics and diagnostics, which are columns of `train.csv`.
        task: what scores are normalised for.
        budget: where progress ends, on the x-axis.
        stream: where progress is shown; None: nowhere.
    """

    def __init__(
        self,
        folder: RunFolder,
        progress: Progress,
        metrics: LastMetrics,
        benchmark: Benchmark,
        names: Sequence[str],
        task: str,
        budget: int,
        stream: TextIO | None = sys.stderr,
    ) -> None:
        self.folder, self.progress, self.metrics = folder, progress, metrics
        self.benchmark, self.task = benchmark, task
        self._tables = {
            "train": CsvTable(folder.path / "train.csv", (*COUNTERS, "episode_return", *names)),
            "eval": CsvTable(folder.path / "eval.csv", EVAL_COLUMNS),
            "eval_episodes": CsvTable(folder.path / "eval_episodes.csv", EPISODE_COLUMNS),
        }
        self._charts = TensorBoard(folder.path / "tb", _layout(names, benchmark), benchmark.ABOUT)
        self._console = Console(budget, benchmark.STEP_NAME, stream)
        self._log_file = logging.FileHandler(folder.path / "log.txt", encoding="utf-8", delay=True)
        self._log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._collapsed: set[str] = set()

    @property
    def step(self) -> int:
        """Where the run is on the x-axis."""
        return int(getattr(self.progress, self.benchmark.STEP))

    def __enter__(self) -> Records:
        package_log().addHandler(self._log_file)
        package_log().addHandler(self._console)
        package_log().propagate = False  # some libraries print whatever reaches the root
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        package_log().removeHandler(self._console)  # there the script says it, once
        if isinstance(error, Exception):
            log.error("%s: %s", type(error).__name__, error)
        for table in self._tables.values():
            table.close()
        self._charts.close()
        for handler in (self._log_file, self._console):
            package_log().removeHandler(handler)
            handler.close()
        package_log().propagate = True

    def open(self, facts: Mapping[str, object]) -> None:
        """Continue tables and charts at the restored position, or start them; show `facts`.

        Raises:
            CheckpointError: a table was damaged; none was changed.
            StorageError: they cannot be written.
        """
        try:
            for table in self._tables.values():
                table.open()
            for table in self._tables.values():
                table.cut()
            self._charts.flush()
        except OSError as error:
            raise StorageError(f"{self.folder.path} cannot be written: {error}") from error
        self._since = self._now()
        folder = self.folder.path
        places = {"folder": folder, "curves": f"tensorboard --logdir {folder.parents[2]}"}
        self._console.start(self.step, f"MLR on {self.benchmark.NAME}", {**facts, **places})

    def episode_ended(self) -> None:
        """An episode is over; its return is a point of TensorBoard's curve."""
        value = self.progress.episode_return
        self.progress.finished_returns.append(value)
        self._scalars({f"train/{self.benchmark.CHART}": value})

    def log(self, diagnostics: Mapping[str, float]) -> None:
        """A row of train.csv, the charts and the progress line."""
        progress = self.progress
        values = self.metrics.fetch() if progress.update_step else {}
        values |= diagnostics
        mean_return = progress.take_finished()
        counters = {name: getattr(progress, name) for name in COUNTERS}
        self._tables["train"].append({**counters, "episode_return": mean_return, **values})
        self._scalars(values | self._times())
        self._watch_for_collapse(diagnostics)
        shown = {"return": mean_return} if mean_return is not None else {}
        shown |= {name: value for name, value in values.items() if name.startswith("loss/")}
        self._console.progress(self.step, shown)

    def evaluated(self, result: EvaluationResult) -> None:
        """The policy was scored: a row, a row for each episode, charts, a line."""
        progress, benchmark, values = self.progress, self.benchmark, result.scores
        progress.evaluated_at, progress.evaluation = progress.agent_step, list(values)
        score, steps = self._score(), self._steps()
        deviation = statistics.stdev(values) if len(values) > 1 else None
        self._tables["eval"].append({**steps, "episodes": len(values), "std": deviation, **score})
        for episode, (value, length) in enumerate(zip(values, result.lengths, strict=True)):
            cells = {"episode": episode, "value": value, "length": length}
            self._tables["eval_episodes"].append({**steps, **cells})
        charts = {
            f"eval/{benchmark.CHART}": score["mean"],
            "time/evaluation_seconds": result.seconds,
        }
        if score["normalized"] is not None:
            charts["eval/normalized_score"] = score["normalized"]
        self._scalars({**charts, "time/evaluation_seconds": result.seconds})
        self._console.line(
            f"evaluation at {self.step:,} {benchmark.STEP_NAME}: {benchmark.METRIC} "
            f"{score['mean']:.1f} ± {deviation or 0.0:.1f} over {len(values)}, "
            f"{result.seconds:.0f} s"
        )

    def preview(self, image: Tensor | None) -> None:
        """What the objective sees, uint8 (3, H, W), if it shows anything."""
        if image is not None:
            self._charts.add("image", "objective/input", image.cpu(), self.step)

    def finish(self) -> None:
        """Write `final.json`, the headline: the final policy at exactly the budget; and be done."""
        metric, values, score = self.benchmark.METRIC, self.progress.evaluation, self._score()
        final = {**self._steps(), "metric": metric, "values": values, **score}
        self.folder.write("final.json", json.dumps(final, indent=1) + "\n")
        self.folder.finish()
        self._console.line(
            f"finished: {metric} {score['mean']:.1f} over {len(values)}; "
            f"everything is in {self.folder.path}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Lengths of the tables, in bytes, all on disk, and TensorBoard's last step.

        TensorBoard is written too; if the disk was full, this is when it is tried again.

        Raises:
            OSError: rows could not be written.
        """
        sizes = {name: table.sync() for name, table in self._tables.items()}
        self._charts.flush()
        return {"sizes": sizes, "last_step": self._charts.last_step}

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
            self._tables[name].size = size
        self._charts.last_step = state["last_step"]

    def _scalars(self, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._charts.add("scalar", tag, value, self.step)

    def _steps(self) -> dict[str, int]:
        return {name: getattr(self.progress, name) for name in STEP_COLUMNS}

    def _score(self) -> dict[str, Any]:
        """Mean of the last evaluation, raw and on the common scale (None where there is none)."""
        mean = statistics.fmean(self.progress.evaluation)
        normalized = self.benchmark.normalize(self.task, mean)
        return {"mean": mean, "normalized": None if math.isnan(normalized) else normalized}

    def _times(self) -> dict[str, float]:
        """Speeds since the last call, and the seconds spent by phase."""
        before, self._since = self._since, self._now()
        seconds, steps, updates = (new - old for new, old in zip(self._since, before, strict=True))
        return {
            "time/agent_steps_per_second": steps / seconds,
            "time/updates_per_second": updates / seconds,
            **{f"time/{name}_s": spent for name, spent in self.folder.stopwatch.seconds.items()},
        }

    def _now(self) -> tuple[float, int, int]:
        return time.perf_counter(), self.progress.agent_step, self.progress.update_step

    def _watch_for_collapse(self, diagnostics: Mapping[str, float]) -> None:
        """Warn when a measure of how much latents differ falls to almost nothing."""
        collapsed = {
            name
            for name, value in diagnostics.items()
            if value < HEALTH.get(name.rpartition("/")[2], -math.inf)
        }
        for name in sorted(collapsed - self._collapsed):
            log.warning("%s fell to %.3g: the latents collapse", name, diagnostics[name])
        self._collapsed = collapsed


class CsvTable:
    """Rows appended to a CSV file with a fixed header.

    A row that cannot be written (disk full) waits in memory for the next attempt.

    Attributes:
        size: bytes of the file that are good; set before `open` to continue there.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, tuple(columns)
        self.size, self._pending, self._descriptor = 0, b"", -1

    def open(self) -> None:
        """Open the file, but leave it as it is; CheckpointError if it is not what was saved."""
        header = _line(self.columns)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        if not self.size:
            self._pending = header
            return
        length = os.fstat(self._descriptor).st_size
        if length < self.size:
            raise CheckpointError(
                f"{self.path} has {length} bytes, {self.size} when the checkpoint was saved"
            )
        if os.pread(self._descriptor, len(header), 0) != header:
            raise CheckpointError(f"{self.path} has not the columns {','.join(self.columns)}")

    def cut(self) -> None:
        """Cut off what was written after `size`; write a new file's header."""
        os.ftruncate(self._descriptor, self.size)
        self._write()

    def append(self, values: Mapping[str, float | int | str | None]) -> None:
        """Add a row; a missing column stays empty, an unknown one is a ValueError."""
        unknown = set(values) - set(self.columns)
        if unknown:
            raise ValueError(f"{self.path.name} has no column {', '.join(sorted(unknown))}")
        self._pending += _line([values.get(column) for column in self.columns])
        try:
            self._write()
        except OSError as error:
            log.warning("%s cannot be written (%s); its rows are kept in memory", self.path, error)

    def sync(self) -> int:
        """Make every row durable, or raise OSError; returns the file's length in bytes."""
        self._write()
        os.fsync(self._descriptor)
        return self.size

    def close(self) -> None:
        """Write what still waits, if the disk allows it, and close the file."""
        if self._descriptor >= 0:
            with suppress(OSError):
                self._write()
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self) -> None:
        # At a position, not appended: a partly written row is written over.
        while self._pending:
            written = os.pwrite(self._descriptor, self._pending, self.size)
            self.size += written
            self._pending = self._pending[written:]


class TensorBoard:
    """Charts for people; a full disk silences them until the next `flush`.

    Args:
        layout: of the custom-scalars page, `{page: {chart: ["Multiline", [tags]]}}`.
        about: Markdown shown under the Text tab.

    Attributes:
        last_step: of all points; set before the first `flush` to continue after it.
    """

    def __init__(self, folder: Path, layout: Mapping[str, Any], about: str) -> None:
        self.last_step = -1
        self._folder, self._layout, self._about = folder, layout, about
        self._writer: SummaryWriter | None = None

    def add(self, kind: str, tag: str, value: float | Tensor, step: int) -> None:
        """Add a `scalar`, or an `image` that is uint8 (3, H, W) or (1, H, W)."""
        self._call(f"add_{kind}", tag, value, step)
        self.last_step = max(self.last_step, step)

    def flush(self) -> None:
        """Write all points to the disk; start, or start again, where it must, or raise OSError."""
        if self._writer is None:
            # Readers drop what an interrupted process wrote from this step on.
            begin = self.last_step + 1
            self._writer = SummaryWriter(str(self._folder), purge_step=begin, flush_secs=30)
            if self.last_step < 0:
                self._writer.add_custom_scalars(self._layout)
                self._writer.add_text("about", self._about, 0)
        self._call("flush")

    def close(self) -> None:
        """Write all points, if the disk allows it, and end."""
        self._call("close")
        self._writer = None

    def _call(self, method: str, *arguments: Any) -> None:
        if self._writer is None:
            return
        try:
            getattr(self._writer, method)(*arguments)
        except OSError as error:
            # Its writing thread does not survive a full disk. The tables are the record.
            log.warning("TensorBoard cannot write (%s): no points until the next save", error)
            self._writer = None


class Console(logging.Handler):
    """Progress on a stream: a bar on a terminal, plain lines elsewhere, nothing without a stream.

    As a handler of the package's log it shows warnings. A stream that breaks is given up: nothing
    here influences the run.

    Args:
        total: where progress ends, in `unit`.
        unit: what is counted, such as `env steps`.
    """

    def __init__(self, total: int, unit: str, stream: TextIO | None) -> None:
        super().__init__(logging.WARNING)
        self._total, self._unit, self._stream = total, f" {unit}", stream
        self._terminal = stream is not None and stream.isatty()
        self._bar = ""  # as it was drawn last, in the line where the cursor is

    def start(self, step: int, title: str, facts: Mapping[str, object]) -> None:
        """Training starts, or goes on, at `step`: show what is trained."""
        width = max(map(len, facts), default=0)
        self.line(title)
        for name, value in facts.items():
            text = f"{value:,}" if isinstance(value, int) else value
            self.line(f"  {name.replace('_', ' '):<{width}}  {text}")
        self._began = time.monotonic(), step

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Show that `step` is reached, with a few numbers; to be called once a log interval."""
        start, first = self._began
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        options = {"unit": self._unit, "initial": first, "postfix": numbers}
        if self._terminal:
            options["ncols"] = shutil.get_terminal_size().columns
        else:
            options["bar_format"] = _PLAIN
        meter = tqdm.format_meter(step, self._total, time.monotonic() - start, **options)
        if self._terminal:
            self._bar = meter
            self._print("")
        else:
            self.line(meter)

    def line(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        self._print(f"{text}\n")

    def emit(self, record: logging.LogRecord) -> None:
        """Show a warning."""
        self.line(f"{record.levelname.lower()}: {record.getMessage()}")

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar:
            self._bar = ""
            self._print("\n")
        super().close()

    def _print(self, text: str) -> None:
        """Write over the bar, which comes again behind it."""
        if self._stream is None:
            return
        erase = "\r\x1b[K" if self._bar else ""
        try:
            print(erase, text, self._bar, sep="", end="", file=self._stream, flush=True)
        except (OSError, ValueError):  # the terminal is gone, or the stream was closed
            self._stream = None


def package_log() -> logging.Logger:
    """The package's logger, parent of every module's; messages from INFO on pass."""
    logger = logging.getLogger(__name__.partition(".")[0])
    logger.setLevel(logging.INFO)
    return logger


def _layout(names: Sequence[str], benchmark: Benchmark) -> dict[str, Any]:
    """TensorBoard's custom-scalars page: the charts that matter; Scalars has all of them."""
    score = [f"eval/{benchmark.CHART}", f"train/{benchmark.CHART}"]
    losses = {name.removeprefix("loss/"): [name] for name in names if name.startswith("loss/")}
    charts = {
        "score": {benchmark.METRIC: score, "normalized": ["eval/normalized_score"]},
        "losses": losses,
        "representation": {name: [name] for name in names if name.rpartition("/")[2] in HEALTH},
        "speed": {"agent steps per second": ["time/agent_steps_per_second"]},
    }
    return {
        page: {title: ["Multiline", tags] for title, tags in content.items()}
        for page, content in charts.items()
        if content
    }


def _line(values: Sequence[float | int | str | None]) -> bytes:
    """One CSV line; floats in the shortest form that reads back exactly."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()
