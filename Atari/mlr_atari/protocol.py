"""What Atari-100k is: its games, its score, and what is published on it.

Imports neither torch nor an emulator: the report reads run folders where neither is installed.
"""

import csv
import math
from functools import cache
from pathlib import Path

from .games import BENCHMARK_GAMES, canonical

NAME = "Atari-100k"
TASK_KEY = "game"  # section of the configuration that says what is played
TASKS, canonical_task = BENCHMARK_GAMES, canonical
SIMULATOR = "emulator"  # key of run.json that says what drew the observations
PACKAGES = (
    "torch", "numpy", "gymnasium", "ale-py", "opencv-python-headless", "hydra-core",
)  # fmt: skip
"""Whose versions run.json records."""

STEP, STEP_NAME = "agent_step", "agent steps"  # the x-axis, and in what a budget counts
ABOUT = "The x-axis counts **agent steps** (four emulator frames each), as the benchmark does."
METRIC, VALUE_NAME, NORMALIZED_NAME = "score", "game score", "human-normalised score"
CHART = "game_score"  # the metric in TensorBoard, below `train/` and `eval/`
SCALE = 1.0  # published aggregates are human-normalised already
SCORE_RANGE = (-math.inf, math.inf)  # outside which no score lies

# Order and colours of our methods (others follow in alphabetical order), the published ones shown
# beside them, as in the MLR paper's table, and of these the lines in learning curves and README.
METHODS = (
    "mlr", "mlr_official", "playvirtual", "spr", "curl", "drq", "drq_eps", "rainbow", "der",
)  # fmt: skip
BASELINE = "rainbow"  # the same agent without an objective, which MLR is measured against
PUBLISHED_BENCHMARKS = ("atari100k",)
PUBLISHED = (
    "mlr", "mlr_baseline", "playvirtual", "spr", "drq_eps", "drq", "curl", "otrainbow", "der",
    "random", "human",
)  # fmt: skip
REFERENCES = ("mlr", "mlr_baseline")
PUBLISHED_FOLDER = Path(__file__).parents[1] / "results" / "published"


def normalize(task: str, value: float) -> float:
    """(score - random) / (human - random); NaN for a game that has no published human score."""
    scores = published_scores("atari100k")
    if task not in scores["human"]:
        return math.nan
    low, high = scores["random"][task][0], scores["human"][task][0]
    return (value - low) / (high - low)


def score_range(task: str) -> tuple[float, float]:
    """Between what a game's scores lie."""
    return SCORE_RANGE


def published_benchmark(protocol: str, preset: str, budget: int) -> str | None:
    """Name of the published benchmark that such runs may be compared with; None: no comparison."""
    same = protocol == "atari100k" and preset == "paper" and budget == 100_000
    return "atari100k" if same else None


@cache
def published_scores(name: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Published (mean, standard deviation over seeds or NaN) of raw scores by method and game."""
    deviations = {}
    with (PUBLISHED_FOLDER / f"{name}_seed_std.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            deviations[row["method"], row["game"]] = float(row["std"])
    scores: dict[str, dict[str, tuple[float, float]]] = {}
    with (PUBLISHED_FOLDER / f"{name}_scores.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            method, game = row["method"], row["game"]
            cell = float(row["score"]), deviations.get((method, game), math.nan)
            scores.setdefault(method, {})[game] = cell
    return scores
