"""Writing down what a run does: rows of its tables, charts, console lines, the final score."""

from __future__ import annotations

import json
import logging
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .. import protocol
from . import records
from .console import Console
from .folder import RunFolder
from .logger import RunLogger, Value, fetch
from .progress import LastMetrics, Progress

STEP_COLUMNS = ("agent_step", "env_step")

# Below these, by the end of a diagnostic's name, latents hardly differ from each other any more:
# the spread of unit vectors, 1 if even and 0.03 of untrained encoders, and the directions in use.
COLLAPSED = {"/projection_std": 0.01, "/effective_rank": 1.5}

log = logging.getLogger(__name__)


class Bookkeeper:
    """The records of one run, on the benchmark's own x-axis (`protocol.STEP`)."""

    def __init__(
        self,
        folder: RunFolder,
        logger: RunLogger,
        console: Console,
        progress: Progress,
        metrics: LastMetrics,
        subject: str,
    ) -> None:
        """Args: `subject`: the task or game that scores are normalised for."""
        self.folder, self.logger, self.console = folder, logger, console
        self.progress, self.metrics, self.subject = progress, metrics, subject
        self._since = (time.perf_counter(), progress.agent_step, progress.update_step)
        self._fallen: set[str] = set()

    @property
    def step(self) -> int:
        """Where the run is on the x-axis."""
        return int(getattr(self.progress, protocol.STEP))

    def episode_ended(self) -> None:
        """An episode is over; its return is a point of TensorBoard's curve."""
        progress = self.progress
        progress.finished_returns.append(progress.episode_return)
        self.logger.scalars(self.step, {f"train/{protocol.CHART}": progress.episode_return})

    def log(self, diagnostics: Mapping[str, float]) -> None:
        """A row of train.csv, the charts and the progress line."""
        progress = self.progress
        values = fetch(self.metrics.values) if progress.update_step else {}
        values |= diagnostics
        mean_return = progress.take_finished()
        counters = {name: getattr(progress, name) for name in records.COUNTERS}
        self.logger.row("train", {**counters, "episode_return": mean_return, **values})
        speeds = self._speeds()
        self.logger.scalars(self.step, values | speeds)
        self._watch_for_collapse(diagnostics)
        shown = {"return": mean_return} if mean_return is not None else {}
        shown |= {name: value for name, value in values.items() if name.startswith("loss/")}
        self.console.progress(self.step, shown)

    def evaluated(self, values: Sequence[float], lengths: Sequence[int], seconds: float) -> None:
        """The policy was scored: a row, a row for each episode, charts, a line."""
        progress = self.progress
        progress.evaluated_at, progress.evaluation = progress.agent_step, list(values)
        mean = statistics.fmean(values)
        deviation = statistics.stdev(values) if len(values) > 1 else None
        normalized = self._normalized(mean)
        steps: dict[str, Value] = {name: getattr(progress, name) for name in STEP_COLUMNS}
        row = {"episodes": len(values), "mean": mean, "std": deviation, "normalized": normalized}
        self.logger.row("eval", {**steps, **row})
        for episode, (value, length) in enumerate(zip(values, lengths, strict=True)):
            cells = {"episode": episode, "value": value, "length": length}
            self.logger.row("eval_episodes", {**steps, **cells})
        charts = {f"eval/{protocol.CHART}": mean, "time/evaluation_seconds": seconds}
        if normalized is not None:
            charts["eval/normalized_score"] = normalized
        self.logger.scalars(self.step, charts)
        self.console.line(
            f"evaluation at {self.step:,} {protocol.STEP_NAME}: {protocol.METRIC} {mean:.1f} "
            f"± {deviation or 0.0:.1f} over {len(values)}, {seconds:.0f} s"
        )

    def preview(self, image: Tensor | None) -> None:
        """What the objective sees, uint8 (3, H, W), if it shows anything."""
        if image is not None:
            self.logger.image(self.step, "objective/input", image)

    def finish(self) -> None:
        """Write `final.json`, the headline: the final policy at exactly the budget; and be done."""
        progress = self.progress
        mean = statistics.fmean(progress.evaluation)
        final: dict[str, Any] = {
            **{name: getattr(progress, name) for name in STEP_COLUMNS},
            "metric": protocol.METRIC,
            "values": progress.evaluation,
            "mean": mean,
            "normalized": self._normalized(mean),
        }
        self.folder.write("final.json", json.dumps(final, indent=1) + "\n")
        self.folder.finish()
        self.console.line(
            f"finished: {protocol.METRIC} {mean:.1f} over {len(progress.evaluation)}; "
            f"everything is in {self.folder.path}"
        )

    def _normalized(self, mean: float) -> float | None:
        """On the benchmark's common scale; None where it has none."""
        value = protocol.normalize(self.subject, mean)
        return None if math.isnan(value) else value

    def _watch_for_collapse(self, diagnostics: Mapping[str, float]) -> None:
        """Warn when a measure of how much latents differ falls to almost nothing."""
        fallen = {
            name
            for name, value in diagnostics.items()
            for end, least in COLLAPSED.items()
            if name.endswith(end) and value < least
        }
        for name in sorted(fallen - self._fallen):
            log.warning("%s fell to %.3g: the latents collapse", name, diagnostics[name])
        self._fallen = fallen

    def _speeds(self) -> dict[str, float]:
        now = (time.perf_counter(), self.progress.agent_step, self.progress.update_step)
        seconds, steps, updates = (new - old for new, old in zip(now, self._since, strict=True))
        self._since = now
        speeds = {
            "time/agent_steps_per_second": steps / seconds,
            "time/updates_per_second": updates / seconds,
        }
        spent = {f"time/{name}_s": value for name, value in self.folder.stopwatch.seconds.items()}
        return speeds | spent
