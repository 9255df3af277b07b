"""How far a run has come, and what it writes down and shows of that: CSV tables, TensorBoard,
log.txt, console and final.json.

The tables are the scientific record: they hold no wall-clock values, and their numbers read back
exactly. After a resume tables and charts continue at the very byte of the checkpoint, so that an
interrupted run leaves the same files as an uninterrupted one.
"""

import csv
import fnmatch
import importlib
import io
import json
import logging
import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import summary

from ..errors import CheckpointError, SimulatorError
from .disk import essential, names, open_own, own_folder, patiently, sync
from .evaluation import MOST_FAILURES, EvaluationResult
from .folder import RunFolder
from .metrics import LatestMetrics

STEPS = ("agent_step", "env_step")
COUNTERS = (*STEPS, "update_step", "episode")

# What shows whether an objective still learns, by the end of a diagnostic's name, and below what
# latents hardly differ from each other any more: the spread of unit vectors, 1 if even and 0.03 of
# untrained encoders, and the directions in use.
HEALTH = {"cosine_similarity": -math.inf, "projection_std": 0.01, "effective_rank": 1.5}

_SILENCE = 60.0  # seconds
_END = 200  # bytes
_EVENTS = "events.out.tfevents.start_"  # and the start's number; six digits
_PACKAGE = logging.getLogger(__name__.partition(".")[0])  # parent of every module's logger

Values = Mapping[str, float | Tensor]  # points of charts, and pictures, uint8 (3, H, W)

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """Counters, each with its unit in its name."""

    agent_step: int = 0  # decisions taken
    env_step: int = 0  # simulator steps
    update_step: int = 0  # updates of the agent
    episode: int = 0  # episodes begun
    episode_return: float = 0.0  # of the open episode, in raw reward
    finished_returns: list[float] = field(default_factory=list)  # since the last row of train.csv
    failures: int = 0  # episodes that ended because the simulator itself failed
    failures_in_a_row: int = 0
    failed_episode: int = -1  # the last one
    evaluated_at: int = -1  # agent step of the last evaluation
    evaluation: list[float] = field(default_factory=list)  # its episodes' scores

    def begin_episode(self) -> None:
        self.episode += 1
        self.episode_return = 0.0

    def step(self, reward: float, env_steps: int) -> None:
        """One decision was carried out, over `env_steps` simulator steps."""
        self.agent_step += 1
        self.env_step += env_steps
        self.episode_return += reward

    @contextmanager
    def simulator_may_fail(self) -> Iterator[None]:
        """Where the simulator itself fails within, the open episode is over, and that is all.

        Raises: SimulatorError: so were too many episodes, one after another.
        """
        try:
            yield
        except SimulatorError as error:
            follows = self.failed_episode == self.episode - 1
            self.failures_in_a_row = self.failures_in_a_row + 1 if follows else 1
            self.failures, self.failed_episode = self.failures + 1, self.episode
            log.warning("the simulator ends episode %d: %s", self.episode, error)
            if self.failures_in_a_row == MOST_FAILURES:
                text = f"{error}; so it went in {MOST_FAILURES} episodes in a row"
                raise SimulatorError(text) from error

    def watched(self) -> dict[str, float]:
        """What must be finite, and when; a reward that is not stays in its episode's return."""
        returns = sum(self.finished_returns) + self.episode_return
        return {"agent_step": self.agent_step, "episode_returns": returns}

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in asdict(self):
            setattr(self, name, state[name])


class SaveSchedule:
    """When a checkpoint is due: by minutes, by agent steps, or both; 0 means never."""

    def __init__(self, minutes: float, steps: int) -> None:
        self._seconds, self._steps = 60.0 * minutes, steps
        self.saved(0)

    def due(self, agent_step: int) -> bool:
        """Whether one is, at `agent_step`; not where the last one was, unless by time."""
        by_time = 0 < self._seconds <= time.monotonic() - self._time
        by_steps = self._steps > 0 and agent_step % self._steps == 0
        return by_time or (by_steps and agent_step != self._agent_step)

    def saved(self, agent_step: int) -> None:
        """A checkpoint was written, tried or restored at `agent_step`: time counts from now on."""
        self._time, self._agent_step = time.monotonic(), agent_step


@dataclass
class Records:
    """Everything that a run leaves behind beside its checkpoints.

    Entered as a context manager it sends the package's messages to `log.txt`, and its own and
    all warnings to the console; tables and charts begin with `open`, once the state was restored.
    """

    folder: RunFolder
    progress: Progress
    metrics: LatestMetrics  # columns of `train.csv`
    diagnostics: Sequence[str]  # names of more of them
    benchmark: ModuleType  # `protocol`: what things are called, and how scores are compared
    subject: str  # the task or game, for which scores are normalised
    budget: int  # where progress ends, on the x-axis
    sinks: Sequence[str]  # who gets the charts, of `tensorboard` and `wandb`

    def __post_init__(self) -> None:
        names, path = (*self.metrics.values, *self.diagnostics), self.folder.path
        columns = {
            "train": (*COUNTERS, "episode_return", *names),
            "eval": (*STEPS, "episodes", "mean", "std", "normalized"),
            "eval_episodes": (*STEPS, "episode", "value", "length"),
        }
        self._tables = {name: _CsvTable(path / f"{name}.csv", columns[name]) for name in columns}
        self._sinks: list[_TensorBoard | _WandB] = []
        if "tensorboard" in self.sinks:
            self._sinks.append(_TensorBoard(path / "tb", _introduction(names, self.benchmark)))
        if "wandb" in self.sinks:
            self._sinks.append(_WandB(path))
        self._charts: dict[str, int] = {}  # TensorBoard's files, and their bytes that are good
        self._console = _Console()
        self._collapsed: set[str] = set()

    @property
    def step(self) -> int:
        """Where the run is on the x-axis."""
        return int(getattr(self.progress, self.benchmark.STEP))

    def __enter__(self) -> "Records":
        path = self.folder.path / "log.txt"
        with essential(f"{path} cannot be written"):
            text = os.fdopen(patiently(open_own, path, os.O_APPEND), "a", encoding="utf-8")
        self._log_file = logging.StreamHandler(text)
        # What a full disk does not take is missing there, and ends nothing.
        self._log_file.handleError = lambda record: None  # type: ignore[method-assign]
        self._log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        _PACKAGE.setLevel(logging.INFO)
        _PACKAGE.addHandler(self._log_file)
        _PACKAGE.addHandler(self._console)
        _PACKAGE.propagate = False  # some libraries print whatever reaches the root
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _PACKAGE.removeHandler(self._console)  # there the script says it, once
        self._console.close()
        if isinstance(error, Exception):
            log.error("%s: %s", type(error).__name__, error)
        for file in (*self._tables.values(), *self._sinks):
            file.close()
        _PACKAGE.removeHandler(self._log_file)
        with suppress(OSError):
            self._log_file.stream.close()
        _PACKAGE.propagate = True

    def open(self, facts: Mapping[str, object]) -> None:
        """Continue tables and charts at the restored position, or start them; show `facts`.

        Raises: CheckpointError: a table was damaged; none was changed. StorageError.
        """
        folder = self.folder.path
        with essential(f"{folder} cannot be written"):
            for table in self._tables.values():
                patiently(table.open)
            for table in self._tables.values():
                patiently(table.cut)
            for sink in self._sinks:
                patiently(sink.begin, self._charts, self.step)
        self._since, self._began = self._now(), (time.monotonic(), self.step)
        facts = {**facts, "folder": folder, "curves": f"tensorboard --logdir {folder.parents[2]}"}
        width = max(map(len, facts))
        log.info("MLR on %s", self.benchmark.NAME)
        for name, value in facts.items():
            text = f"{value:,}" if isinstance(value, int) else value
            log.info("  %s  %s", name.replace("_", " ").ljust(width), text)

    def episode_ended(self) -> None:
        """An episode is over; its return is a point of the curve."""
        value = self.progress.episode_return
        self.progress.finished_returns.append(value)
        self._plot({f"train/{self.benchmark.CHART}": value})

    def log(self, diagnostics: Mapping[str, float]) -> None:
        """A row of train.csv, the charts, the progress line, and whether the latents collapse."""
        progress = self.progress
        values = self.metrics.fetch() if progress.update_step else {}
        values |= diagnostics
        returns, progress.finished_returns = progress.finished_returns, []
        mean_return = sum(returns) / len(returns) if returns else None
        counters = {name: getattr(progress, name) for name in COUNTERS}
        self._tables["train"].row({**counters, "episode_return": mean_return, **values})
        self._plot(values | self._times())
        limits = {name: HEALTH.get(name.rpartition("/")[2], -math.inf) for name in diagnostics}
        collapsed = {name for name in diagnostics if diagnostics[name] < limits[name]}
        for name in sorted(collapsed - self._collapsed):
            log.warning("%s fell to %.3g: the latents collapse", name, diagnostics[name])
        self._collapsed = collapsed
        shown = {"return": mean_return} if mean_return is not None else {}
        shown |= {name: value for name, value in values.items() if name.startswith("loss/")}
        numbers = "".join(f", {name} {value:.4g}" for name, value in shown.items())
        seconds, steps = time.monotonic() - self._began[0], self.step - self._began[1]
        left = timedelta(seconds=round((self.budget - self.step) * seconds / steps))
        done = f"{self.step:,} of {self.budget:,} {self.benchmark.STEP_NAME}"
        text = f"{done}, {left} left, {steps / seconds:.1f} a second{numbers}"
        log.info("%s", text, extra={"share": self.step / self.budget})

    def evaluating(self, result: EvaluationResult) -> None:
        """The policy is being scored: show after a minute of silence that it goes on."""
        if time.monotonic() - self._console.shown > _SILENCE:
            log.info("evaluation: %s", result)

    def evaluated(self, result: EvaluationResult) -> None:
        """The policy was scored: a row, one for each episode, charts, a line."""
        progress, benchmark, values = self.progress, self.benchmark, result.scores
        progress.evaluated_at, progress.evaluation = progress.agent_step, list(values)
        spread, score = statistics.stdev(values) if len(values) > 1 else None, self._score()
        steps, mean = {name: score[name] for name in STEPS}, score["mean"]
        self._tables["eval"].row({**score, "episodes": len(values), "std": spread})
        for episode, (value, length) in enumerate(zip(values, result.lengths, strict=True)):
            cells = {"episode": episode, "value": value, "length": length}
            self._tables["eval_episodes"].row({**steps, **cells})
        charts = {f"eval/{benchmark.CHART}": mean, "time/evaluation_seconds": result.seconds}
        if score["normalized"] is not None:
            charts["eval/normalized_score"] = score["normalized"]
        self._plot(charts)
        text = f"{mean:.1f} ± {spread or 0.0:.1f} over {len(values)}, {result.seconds:.0f} s"
        where = f"evaluation at {self.step:,} {benchmark.STEP_NAME}"
        log.info("%s: %s %s", where, benchmark.METRIC, text)

    def preview(self, image: Tensor | None) -> None:
        """What the objective sees, uint8 (3, H, W), if it shows anything."""
        if image is not None:
            self._plot({"objective/input": image.cpu()})

    def finish(self) -> None:
        """Write `final.json`, the headline: the final policy at exactly the budget; and be done."""
        metric, values, score = self.benchmark.METRIC, self.progress.evaluation, self._score()
        final = {**score, "metric": metric, "values": values}
        self.folder.write("final.json", json.dumps(final, indent=1) + "\n")
        self.folder.finish()
        text = f"{metric} {score['mean']:.1f} over {len(values)}"
        log.info("finished: %s; everything is in %s", text, self.folder.path)

    def state_dict(self) -> dict[str, Any]:
        """Lengths of tables and charts, in bytes, all on disk, and how the tables end.

        Raises: OSError: rows could not be written. StorageError: the folder is not ours any more.
        """
        self.folder.check()
        for sink in self._sinks:
            if isinstance(sink, _TensorBoard):
                self._charts[sink.path.name] = sink.sync()
        sizes = {name: table.sync() for name, table in self._tables.items()}
        ends = {name: table.end() for name, table in self._tables.items()}
        return {"sizes": sizes, "ends": ends, "charts": dict(self._charts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken; what was written later is cut off by `open`."""
        for name, table in self._tables.items():
            table.size, table.known_end = state["sizes"][name], state["ends"][name]
        self._charts = dict(state["charts"])

    def _plot(self, values: Values) -> None:
        for sink in self._sinks:
            sink.add(values, self.step)

    def _score(self) -> dict[str, Any]:
        """When the last evaluation was; its mean, raw and on the common scale, if there is one."""
        mean = statistics.fmean(self.progress.evaluation)
        scaled = self.benchmark.normalize(self.subject, mean)
        steps = {name: getattr(self.progress, name) for name in STEPS}
        return {**steps, "mean": mean, "normalized": None if math.isnan(scaled) else scaled}

    def _times(self) -> dict[str, float]:
        """Speeds since the last call, and the seconds spent by phase."""
        before, self._since = self._since, self._now()
        seconds, steps, updates = (new - old for new, old in zip(self._since, before, strict=True))
        rates = {
            "time/agent_steps_per_second": steps / seconds,
            "time/updates_per_second": updates / seconds,
        }
        return rates | {f"time/{name}_s": spent for name, spent in self.folder.seconds.items()}

    def _now(self) -> tuple[float, int, int]:
        return time.perf_counter(), self.progress.agent_step, self.progress.update_step


class _GrowingFile:
    """A file that only grows, until a resume cuts it back to where the checkpoint was.

    What cannot be written (disk full) waits in memory for the next attempt.
    """

    def __init__(self, path: Path, header: bytes = b"") -> None:
        self.path, self._header, self._pending, self._descriptor = path, header, b"", -1
        self.size, self.known_end = 0, b""  # good bytes, set before `open`, and how they end

    def open(self) -> None:
        """Open the file, but leave it as it is; CheckpointError if it is not what was saved."""
        self._descriptor = open_own(self.path)
        if not self.size:
            self._pending = self._header
        elif os.pread(self._descriptor, len(self._header), 0) != self._header:
            columns = self._header.decode().strip()
            raise CheckpointError(f"{self.path} has not the columns {columns}")
        elif self.end() != self.known_end:
            raise CheckpointError(f"{self.path} holds other rows than when it was saved, or fewer")

    def cut(self) -> None:
        os.ftruncate(self._descriptor, self.size)
        self.write()

    def end(self) -> bytes:
        count = min(self.size, _END)
        return os.pread(self._descriptor, count, self.size - count)

    def append(self, data: bytes) -> None:
        self._pending += data
        try:
            self.write()
        except OSError as error:
            log.warning("%s cannot be written (%s) and is kept in memory", self.path, error)

    def write(self) -> None:
        """Write what waits at its position, over a partly written row; or raise OSError."""
        while self._pending:
            written = os.pwrite(self._descriptor, self._pending, self.size)
            self.size += written
            self._pending = self._pending[written:]

    def sync(self) -> int:
        """Make all of it durable, or raise OSError; returns the file's length in bytes."""
        self.write()
        sync(self._descriptor)
        return self.size

    def close(self) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):
                self.write()
            with suppress(OSError):  # as NFS may answer; what a checkpoint needs was synced
                os.close(self._descriptor)


class _CsvTable(_GrowingFile):
    """Rows under a fixed header; floats in the shortest form that reads back."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._columns = tuple(columns)
        super().__init__(path, self._line(dict(zip(columns, columns, strict=True))))

    def row(self, values: Mapping[str, Any]) -> None:
        self.append(self._line(values))

    def _line(self, values: Mapping[str, Any]) -> bytes:
        """A missing column stays empty, an unknown one is a ValueError."""
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerow(values)
        return text.getvalue().encode()


class _TensorBoard(_GrowingFile):
    """Event files, one for each start of the run, read in the order of their names.

    At a resume those of earlier starts are cut where the checkpoint was, as tables are: what is
    shown depends neither on steps nor on clocks. A new run begins with the summaries `first`.
    """

    def __init__(self, folder: Path, first: Sequence[object]) -> None:
        self._folder, self._first = folder, first
        super().__init__(folder)

    def begin(self, sizes: Mapping[str, int], step: int) -> None:
        """Keep `sizes` bytes of the files, by name, and begin another one behind `step`."""
        own_folder(self._folder)
        known = fnmatch.filter(names(self._folder), _EVENTS + 6 * "[0-9]")
        for name in known:
            descriptor = open_own(self._folder / name)
            os.ftruncate(descriptor, min(sizes.get(name, 0), os.fstat(descriptor).st_size))
            os.close(descriptor)
        number = 1 + (int(known[-1].removeprefix(_EVENTS)) if known else 0)
        self.path = self._folder / f"{_EVENTS}{number:06d}"
        self.open()
        self._event(step + 1, file_version="brain.Event:2")
        # For who looks on all the while: forget what came behind `step`.
        self._event(step + 1, session_log=SessionLog(status=SessionLog.START))
        for first in self._first if not sizes else ():
            self._event(0, summary=first)

    def add(self, values: Values, step: int) -> None:
        for tag, value in values.items():
            if isinstance(value, Tensor):
                self._event(step, summary=summary.image(tag, value, dataformats="CHW"))
            else:
                self._event(step, summary=summary.scalar(tag, value))

    def _event(self, step: int, **content: Any) -> None:
        record, event = io.BytesIO(), Event(wall_time=time.time(), step=step, **content)
        RecordWriter(record).write(event.SerializeToString())
        self.append(record.getvalue())


class _WandB:
    """Weights & Biases, offline unless $WANDB_MODE says otherwise; where it fails, it is off.

    Each start is a run of its own there, and what a resume takes back stays: to look at, only.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run: Any = None  # none where it is off

    def begin(self, sizes: Mapping[str, int], step: int) -> None:
        with self._or_off():
            self._wandb: Any = importlib.import_module("wandb")
            name = "-".join(self._folder.parts[-3:])
            mode = os.environ.get("WANDB_MODE") or "offline"
            names = {"project": "mlr", "group": name, "name": name, "dir": self._folder}
            quiet = self._wandb.Settings(console="off")
            self._run = self._wandb.init(**names, mode=mode, settings=quiet)

    def add(self, values: Values, step: int) -> None:
        with self._or_off():
            for tag, value in values.items() if self._run else ():
                if isinstance(value, Tensor):
                    value = self._wandb.Image(value.permute(1, 2, 0).numpy())
                self._run.log({tag: value}, step=step)

    def close(self) -> None:
        with self._or_off():
            if self._run:
                self._run.finish()

    @contextmanager
    def _or_off(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 (whatever it raises, it is not the run's)
            log.warning("wandb is off from here on: %s: %s", type(error).__name__, error)
            self._run = None


class _Console(logging.Handler):
    """Shows warnings, and all that this module says, on the standard error.

    On a terminal what has a `share` is a bar, over which the next one is written.
    """

    shown = 0.0  # when it did last, on the monotonic clock
    _bar = False  # whether one stands in the line of the cursor

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        elif record.name != __name__:
            return
        terminal = getattr(sys.stderr, "isatty", bool)()  # what stands there may have none
        share = getattr(record, "share", None) if terminal else None
        if share is not None:
            width = shutil.get_terminal_size().columns - 1
            text = f"[{'#' * round(20 * share):<20}] {text}"[:width]
        erase = "\r\x1b[K" if self._bar else ""
        end = "\n" if share is None else ""
        print(f"{erase}{text}", end=end, file=sys.stderr, flush=True)
        self._bar, self.shown = share is not None, time.monotonic()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar:
            print(file=sys.stderr, flush=True)
        super().close()


def _introduction(names: Sequence[str], benchmark: ModuleType) -> tuple[Any, Any]:
    """The custom-scalars page, charts that matter (Scalars has all of them), and the text page."""
    score = [f"{kind}/{benchmark.CHART}" for kind in ("eval", "train")]
    charts = {
        "score": {benchmark.METRIC: score, "normalized": ["eval/normalized_score"]},
        "losses": {name: [name] for name in names if name.startswith("loss/")},
        "representation": {name: [name] for name in names if name.rpartition("/")[2] in HEALTH},
        "speed": {"agent steps per second": ["time/agent_steps_per_second"]},
    }
    layout = {
        page: {title.removeprefix("loss/"): ["Multiline", tags] for title, tags in content.items()}
        for page, content in charts.items()
        if content
    }
    return summary.custom_scalars(layout), summary.text("about", benchmark.ABOUT)
