"""What a run writes down and shows: CSV tables, TensorBoard, log.txt, console and final.json.

The tables are the scientific record: they hold no wall-clock values, and their numbers read back
exactly. After a resume tables and charts continue at the very byte of the checkpoint, so that an
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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import summary
from tqdm import tqdm

from ..errors import CheckpointError
from .disk import failure, open_own, own_folder, sync
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
_SILENCE, _REFRESH = 60.0, 0.2  # seconds
_END = 200  # bytes
_EVENTS = "events.out.tfevents.start_"  # and the start's number; six digits

log = logging.getLogger(__name__)


class Records:
    """Everything that a run leaves behind beside its checkpoints.

    Entered as a context manager it sends the package's messages to `log.txt` and its warnings to
    the console; tables, charts and console begin with `open`, once the state was restored.

    Args:
        metrics, diagnostics: columns of `train.csv`; of the latter, the names.
        benchmark: `protocol`: what things are called, and how scores are compared.
        subject: the task or game, for which scores are normalised.
        budget: where progress ends, on the x-axis.
        sinks: who gets the charts, of `tensorboard` and `wandb`.
        stream: where progress is shown; None: as errors are.
    """

    def __init__(
        self,
        folder: RunFolder,
        progress: Progress,
        metrics: LastMetrics,
        diagnostics: Sequence[str],
        benchmark: ModuleType,
        subject: str,
        budget: int,
        sinks: Sequence[str],
        stream: TextIO | None = None,
    ) -> None:
        self.folder, self.progress, self.metrics = folder, progress, metrics
        self.benchmark, self.subject = benchmark, subject
        names = (*metrics.values, *diagnostics)
        self._tables = {
            "train": CsvTable(folder.path / "train.csv", (*COUNTERS, "episode_return", *names)),
            "eval": CsvTable(folder.path / "eval.csv", EVAL_COLUMNS),
            "eval_episodes": CsvTable(folder.path / "eval_episodes.csv", EPISODE_COLUMNS),
        }
        self._sinks: list[TensorBoard | WandB] = []
        if "tensorboard" in sinks:
            layout = _layout(names, benchmark)
            self._sinks.append(TensorBoard(folder.path / "tb", layout, benchmark.ABOUT))
        if "wandb" in sinks:
            self._sinks.append(WandB(folder.path))
        self._charts: dict[str, int] = {}  # TensorBoard's files, and their bytes that are good
        self._console = Console(budget, benchmark.STEP_NAME, stream or sys.stderr)
        self._collapsed: set[str] = set()

    @property
    def step(self) -> int:
        """Where the run is on the x-axis."""
        return int(getattr(self.progress, self.benchmark.STEP))

    def __enter__(self) -> Records:
        path, logger = self.folder.path / "log.txt", package_log()
        try:
            os.close(open_own(path))
            self._log_file = logging.FileHandler(path, encoding="utf-8")
        except OSError as error:
            raise failure(f"{path} cannot be written", error) from error
        # What a full disk does not take is missing there, and ends nothing.
        self._log_file.handleError = lambda record: None  # type: ignore[method-assign]
        self._log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        for handler in (self._log_file, self._console):
            logger.addHandler(handler)
        logger.propagate = False  # some libraries print whatever reaches the root
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        package_log().removeHandler(self._console)  # there the script says it, once
        if isinstance(error, Exception):
            log.error("%s: %s", type(error).__name__, error)
        for file in (*self._tables.values(), *self._sinks):
            file.close()
        for handler in (self._log_file, self._console):
            package_log().removeHandler(handler)
            with suppress(OSError):
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
            for sink in self._sinks:
                sink.open(self._charts, self.step)
        except OSError as error:
            raise failure(f"{self.folder.path} cannot be written", error) from error
        self._since = self._now()
        folder = self.folder.path
        places = {"folder": folder, "curves": f"tensorboard --logdir {folder.parents[2]}"}
        self._console.start(self.step, f"MLR on {self.benchmark.NAME}", {**facts, **places})

    def episode_ended(self) -> None:
        """An episode is over; its return is a point of the curve."""
        value = self.progress.episode_return
        self.progress.finished_returns.append(value)
        self._plot({f"train/{self.benchmark.CHART}": value})

    def log(self, diagnostics: Mapping[str, float]) -> None:
        """A row of train.csv, the charts and the progress line."""
        progress = self.progress
        values = self.metrics.fetch() if progress.update_step else {}
        values |= diagnostics
        mean_return = progress.take_finished()
        counters = {name: getattr(progress, name) for name in COUNTERS}
        self._tables["train"].row({**counters, "episode_return": mean_return, **values})
        self._plot(values | self._times())
        self._watch_for_collapse(diagnostics)
        shown = {"return": mean_return} if mean_return is not None else {}
        shown |= {name: value for name, value in values.items() if name.startswith("loss/")}
        self._console.progress(self.step, shown)

    def evaluating(self, result: EvaluationResult) -> None:
        """The policy is being scored: show that it goes on."""
        done, steps = len(result.ended), sum(result.lengths)
        text = f"evaluation: {done} of {len(result.scores)} episodes, {steps:,} agent steps"
        self._console.under_way(text)

    def evaluated(self, result: EvaluationResult) -> None:
        """The policy was scored: a row, a row for each episode, charts, a line."""
        progress, benchmark, values = self.progress, self.benchmark, result.scores
        progress.evaluated_at, progress.evaluation = progress.agent_step, list(values)
        score, steps = self._score(), self._steps()
        deviation = statistics.stdev(values) if len(values) > 1 else None
        self._tables["eval"].row({**steps, "episodes": len(values), "std": deviation, **score})
        for episode, (value, length) in enumerate(zip(values, result.lengths, strict=True)):
            cells = {"episode": episode, "value": value, "length": length}
            self._tables["eval_episodes"].row({**steps, **cells})
        charts = {
            f"eval/{benchmark.CHART}": score["mean"],
            "time/evaluation_seconds": result.seconds,
        }
        if score["normalized"] is not None:
            charts["eval/normalized_score"] = score["normalized"]
        self._plot(charts)
        self._say(
            f"evaluation at {self.step:,} {benchmark.STEP_NAME}: {benchmark.METRIC} "
            f"{score['mean']:.1f} ± {deviation or 0.0:.1f} over {len(values)}, "
            f"{result.seconds:.0f} s"
        )

    def preview(self, image: Tensor | None) -> None:
        """What the objective sees, uint8 (3, H, W), if it shows anything."""
        if image is not None:
            self._plot({"objective/input": image.cpu()})

    def finish(self) -> None:
        """Write `final.json`, the headline: the final policy at exactly the budget; and be done."""
        metric, values, score = self.benchmark.METRIC, self.progress.evaluation, self._score()
        final = {**self._steps(), "metric": metric, "values": values, **score}
        self.folder.write("final.json", json.dumps(final, indent=1) + "\n")
        self.folder.finish()
        self._say(
            f"finished: {metric} {score['mean']:.1f} over {len(values)}; "
            f"everything is in {self.folder.path}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Lengths of tables and charts, in bytes, all on disk, and how the tables end.

        Raises:
            OSError: rows could not be written. StorageError: the folder is not ours any more.
        """
        self.folder.check()
        for sink in self._sinks:
            self._charts |= sink.sync()
        sizes = {name: table.sync() for name, table in self._tables.items()}
        ends = {name: table.end() for name, table in self._tables.items()}
        return {"sizes": sizes, "ends": ends, "charts": dict(self._charts)}

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
            self._tables[name].size, self._tables[name].known_end = size, state["ends"][name]
        self._charts = dict(state["charts"])

    def _say(self, text: str) -> None:
        """A line on the console that log.txt has too."""
        log.info("%s", text)
        self._console.line(text)

    def _plot(self, values: Mapping[str, float | Tensor]) -> None:
        for sink in self._sinks:
            for tag, value in values.items():
                sink.add(tag, value, self.step)

    def _steps(self) -> dict[str, int]:
        return {name: getattr(self.progress, name) for name in STEP_COLUMNS}

    def _score(self) -> dict[str, Any]:
        """Mean of the last evaluation, raw and on the common scale (None where there is none)."""
        mean = statistics.fmean(self.progress.evaluation)
        normalized = self.benchmark.normalize(self.subject, mean)
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


class GrowingFile:
    """A file that only grows, until a resume cuts it back to where the checkpoint was.

    What cannot be written (disk full) waits in memory for the next attempt.

    Attributes:
        size: bytes of the file that are good; set before `open` to continue there.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.size, self._pending, self._descriptor = path, 0, b"", -1

    def open(self) -> None:
        """Open the file, but leave it as it is; CheckpointError if it is not what was saved."""
        self._descriptor = open_own(self.path)
        length = os.fstat(self._descriptor).st_size
        if length < self.size:
            raise CheckpointError(
                f"{self.path} has {length} bytes, {self.size} when the checkpoint was saved"
            )

    def cut(self) -> None:
        """Cut off what was written after `size`."""
        os.ftruncate(self._descriptor, self.size)
        self._write()

    def append(self, data: bytes) -> None:
        """Write `data` behind the rest."""
        self._pending += data
        try:
            self._write()
        except OSError as error:
            log.warning("%s cannot be written (%s) and is kept in memory", self.path, error)

    def sync(self) -> int:
        """Make all of it durable, or raise OSError; returns the file's length in bytes."""
        self._write()
        sync(self._descriptor)
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


class CsvTable(GrowingFile):
    """Rows of a CSV file with a fixed header.

    Attributes:
        known_end: how it ended at `size`, by which it is told from another run's.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        super().__init__(path)
        self.columns, self.known_end = tuple(columns), b""

    def open(self) -> None:
        """As any; CheckpointError for other columns, too. A new file gets its header by `cut`."""
        super().open()
        header = _line(self.columns)
        if not self.size:
            self._pending = header
        elif os.pread(self._descriptor, len(header), 0) != header:
            raise CheckpointError(f"{self.path} has not the columns {','.join(self.columns)}")
        elif self.end() != self.known_end:
            raise CheckpointError(f"{self.path} holds other rows than when it was saved")

    def end(self) -> bytes:
        """Some of the last bytes that are good."""
        count = min(self.size, _END)
        return os.pread(self._descriptor, count, self.size - count)

    def row(self, values: Mapping[str, float | int | str | None]) -> None:
        """Add a row; a missing column stays empty, an unknown one is a ValueError."""
        unknown = set(values) - set(self.columns)
        if unknown:
            raise ValueError(f"{self.path.name} has no column {', '.join(sorted(unknown))}")
        self.append(_line([values.get(column) for column in self.columns]))


class TensorBoard:
    """Event files, one for each start of the run, read in the order of their names.

    At a resume those of earlier starts are cut where the checkpoint was, as tables are: what is
    shown depends neither on steps nor on clocks.

    Args:
        layout: of the custom-scalars page, `{page: {chart: ["Multiline", [tags]]}}`.
        about: Markdown shown under the Text tab.
    """

    def __init__(self, folder: Path, layout: Mapping[str, Any], about: str) -> None:
        self._folder, self._layout, self._about = folder, layout, about

    def open(self, sizes: Mapping[str, int], step: int) -> None:
        """Keep `sizes` bytes of the files, by name, and begin another one behind `step`."""
        own_folder(self._folder)
        names = sorted(path.name for path in self._folder.glob(_EVENTS + 6 * "[0-9]"))
        for name in names:
            descriptor = open_own(self._folder / name)
            os.ftruncate(descriptor, min(sizes.get(name, 0), os.fstat(descriptor).st_size))
            os.close(descriptor)
        number = 1 + (int(names[-1].removeprefix(_EVENTS)) if names else 0)
        self._file = GrowingFile(self._folder / f"{_EVENTS}{number:06d}")
        self._file.open()
        self._write(step + 1, file_version="brain.Event:2")
        # For who looks on all the while: forget what came behind `step`.
        self._write(step + 1, session_log=SessionLog(status=SessionLog.START))
        if not sizes:
            self._write(0, summary=summary.custom_scalars(self._layout))
            self._write(0, summary=summary.text("about", self._about))

    def add(self, tag: str, value: float | Tensor, step: int) -> None:
        """A point, or a picture, uint8 (3, H, W)."""
        picture = isinstance(value, Tensor)
        new = (
            summary.image(tag, value, dataformats="CHW") if picture else summary.scalar(tag, value)
        )
        self._write(step, summary=new)

    def sync(self) -> dict[str, int]:
        """Make all of it durable, or raise OSError; the bytes of this start's file, by its name."""
        return {self._file.path.name: self._file.sync()}

    def close(self) -> None:
        """Write what still waits, if the disk allows it."""
        if hasattr(self, "_file"):
            self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        record = io.BytesIO()
        event = Event(wall_time=time.time(), step=step, **content)
        RecordWriter(record).write(event.SerializeToString())
        self._file.append(record.getvalue())


class WandB:
    """Weights & Biases, offline unless $WANDB_MODE says otherwise; where it fails, it is off.

    Each start is a run of its own there, and what a resume takes back stays: to look at, only.
    """

    def __init__(self, run: Path) -> None:
        self._folder, self._off = run, True

    def open(self, sizes: Mapping[str, int], step: int) -> None:
        """Begin a run there."""
        name = "-".join(self._folder.parts[-3:])
        mode = os.environ.get("WANDB_MODE", "offline")

        def begin() -> None:
            import wandb

            self._image, quiet = wandb.Image, wandb.Settings(console="off")
            names = {"project": "mlr", "group": name, "name": name}
            self._run = wandb.init(**names, dir=self._folder, mode=mode, settings=quiet)

        self._off = False
        self._try(begin)

    def add(self, tag: str, value: float | Tensor, step: int) -> None:
        """A point, or a picture, uint8 (3, H, W)."""

        def log() -> None:
            shown = value
            if isinstance(value, Tensor):
                shown = self._image(value.permute(1, 2, 0).numpy())
            self._run.log({tag: shown}, step=step)

        self._try(log)

    def sync(self) -> dict[str, int]:
        """Nothing of it is kept."""
        return {}

    def close(self) -> None:
        """End the run there."""
        self._try(lambda: self._run.finish())

    def _try(self, action: Callable[[], object]) -> None:
        if self._off:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 (whatever it raises, it is not the run's)
            log.warning("wandb is off from here on: %s: %s", type(error).__name__, error)
            self._off = True


class Console(logging.Handler):
    """Progress on a stream: a bar on a terminal, plain lines elsewhere.

    As a handler of the package's log it shows warnings.

    Args:
        total: where progress ends, in `unit`.
        unit: what is counted, such as `env steps`.
    """

    def __init__(self, total: int, unit: str, stream: TextIO) -> None:
        super().__init__(logging.WARNING)
        self._total, self._unit, self._stream = total, f" {unit}", stream
        self._terminal = stream.isatty()
        self._bar = ""  # as it was drawn last, in the line where the cursor is
        self._shown = 0.0  # when something was, on the monotonic clock

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

    def under_way(self, text: str) -> None:
        """Show what takes so long: in place of the bar, or as a line after a minute of silence."""
        silence = time.monotonic() - self._shown
        if self._terminal and silence > _REFRESH:
            self._bar = text
            self._print("")
        elif not self._terminal and silence > _SILENCE:
            self.line(text)

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
        self._shown = time.monotonic()
        erase = "\r\x1b[K" if self._bar else ""
        print(erase, text, self._bar, sep="", end="", file=self._stream, flush=True)


def package_log() -> logging.Logger:
    """The package's logger, parent of every module's; messages from INFO on pass."""
    logger = logging.getLogger(__name__.partition(".")[0])
    logger.setLevel(logging.INFO)
    return logger


def _layout(names: Sequence[str], benchmark: ModuleType) -> dict[str, Any]:
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
