"""All that the report knows of Atari-100k; the rest of this package is the same as DMControl's."""

from __future__ import annotations

import csv
import math
from functools import cache
from pathlib import Path

from ..games import BENCHMARK_GAMES as TASKS
from ..games import canonical as canonical_task

__all__ = ["TASKS", "canonical_task"]

NAME = "Atari-100k"
TASK_KEY = "game"
VALUE_NAME = "game score"
NORMALIZED_NAME = "human-normalised score"
STEP_COLUMN = "agent_step"
STEP_NAME = "agent steps"
SIMULATOR = "emulator"
"""Key of run.json that says what drew the observations."""
SCALE = 1.0
"""Published aggregates are human-normalised already."""
PROFILE_RANGE = (0.0, 2.0)
"""Normalised scores over which performance profiles are drawn."""

METHODS = (
    "mlr", "mlr_official", "playvirtual", "spr", "curl", "drq", "drq_eps", "rainbow", "der",
)  # fmt: skip
"""Order and colours of our methods; others follow in alphabetical order."""
PUBLISHED_BENCHMARKS = ("atari100k",)
PUBLISHED = (
    "mlr", "mlr_baseline", "playvirtual", "spr", "drq_eps", "drq", "curl", "otrainbow", "der",
    "random", "human",
)  # fmt: skip
"""Published methods shown beside ours, as in the MLR paper's table."""
TABLE_ONLY: tuple[str, ...] = ("random", "human")
"""Published rows that are left out of figures, whose scale they would set."""
REFERENCES = ("mlr", "mlr_baseline")
"""Published methods drawn as lines in the learning curves and shown in the README."""
FOLDER = Path(__file__).parents[2] / "results" / "published"


def normalize(task: str, value: float) -> float:
    """(score - random) / (human - random); NaN for a game that has no published human score."""
    scores = published_scores("atari100k")
    if task not in scores["human"]:
        return math.nan
    low, high = scores["random"][task][0], scores["human"][task][0]
    return (value - low) / (high - low)


def published_benchmark(protocol: str, preset: str, budget: int) -> str | None:
    """Name of the published benchmark that such runs may be compared with; None: no comparison."""
    same = protocol == "atari100k" and preset == "paper" and budget == 100_000
    return "atari100k" if same else None


@cache
def published_scores(name: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Published (mean, standard deviation over seeds or NaN) of raw scores by method and game."""
    deviations = {}
    with (FOLDER / f"{name}_seed_std.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            deviations[row["method"], row["game"]] = float(row["std"])
    scores: dict[str, dict[str, tuple[float, float]]] = {}
    with (FOLDER / f"{name}_scores.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            method, game = row["method"], row["game"]
            cell = float(row["score"]), deviations.get((method, game), math.nan)
            scores.setdefault(method, {})[game] = cell
    return scores
