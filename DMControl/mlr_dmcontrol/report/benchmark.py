"""All that the report knows of DMControl; the rest of this package is the same as Atari's."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from ..tasks import BENCHMARK_TASKS as TASKS
from ..tasks import canonical as canonical_task

__all__ = ["TASKS", "canonical_task"]

NAME = "DMControl"
TASK_KEY = "task"
VALUE_NAME = "episode return"
NORMALIZED_NAME = "return / 1000"
STEP_COLUMN = "env_step"
STEP_NAME = "environment steps"
SIMULATOR = "renderer"
"""Key of run.json that says what drew the observations."""
SCALE = 1000.0
"""Largest possible return; published aggregates are returns and are divided by it too."""
PROFILE_RANGE = (0.0, 1.0)
"""Normalised scores over which performance profiles are drawn."""

METHODS = ("mlr", "mlr_official", "playvirtual", "spr", "curl", "drq", "sac", "sac_plain")
"""Order and colours of our methods; others follow in alphabetical order."""
PUBLISHED_BENCHMARKS = ("dmcontrol100k", "dmcontrol500k")
PUBLISHED = (
    "mlr", "mlr_baseline", "playvirtual", "drq", "curl", "slac", "sac_ae", "dreamer", "planet",
)  # fmt: skip
"""Published methods shown beside ours, as in the MLR paper's table."""
TABLE_ONLY: tuple[str, ...] = ()
"""Published rows that are left out of figures, whose scale they would set."""
REFERENCES = ("mlr", "mlr_baseline")
"""Published methods drawn as lines in the learning curves and shown in the README."""
FOLDER = Path(__file__).parents[2] / "results" / "published"


def normalize(task: str, value: float) -> float:
    """Return / 1000; every task of the suite has returns between 0 and 1000."""
    return value / SCALE


def published_benchmark(protocol: str, preset: str, budget: int) -> str | None:
    """Name of the published benchmark that such runs may be compared with; None: no comparison."""
    names = {100_000: "dmcontrol100k", 500_000: "dmcontrol500k"}
    return names.get(budget) if preset == "paper" else None


def published_scores(name: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Published (mean, standard deviation) of returns by method and task."""
    scores: dict[str, dict[str, tuple[float, float]]] = {}
    with (FOLDER / "dmcontrol_scores.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if f"dmcontrol{row['benchmark']}" == name:
                std = float(row["std"]) if row["std"] else math.nan
                scores.setdefault(row["method"], {})[row["task"]] = (float(row["mean"]), std)
    return scores
