"""What DMControl-100k is: its tasks, its score, and what is published on it.

Imports neither torch nor a simulator: the report reads run folders where neither is installed.
"""

import csv
import math
from pathlib import Path

from .names import is_own
from .tasks import BENCHMARK_TASKS, canonical

NAME = "DMControl"
PROTOCOL = "dmcontrol"  # what run.json says was followed, with the suite's camera 0
TASK_KEY = "task"  # section of the configuration that says what is played
TASKS, canonical_task = BENCHMARK_TASKS, canonical
SIMULATOR = "renderer"  # key of run.json that says what drew the observations
PACKAGES = ("torch", "numpy", "gymnasium", "dm_control", "mujoco", "hydra-core")
"""Whose versions run.json records."""

STEP, STEP_NAME = "env_step", "env steps"  # the x-axis, and the counter in which a budget counts
ABOUT = "The x-axis counts **env steps** (agent steps x action repeat), as the benchmark does."
METRIC, VALUE_NAME, NORMALIZED_NAME = "return", "episode return", "return / 1000"
CHART = "episode_return"  # the metric in TensorBoard, below `train/` and `eval/`
SCALE = 1000.0  # largest possible return, which published aggregates are divided by too
SCORE_RANGE = (0.0, SCALE)  # outside which no return of a task of the suite lies

# Order and colours of our methods (others follow in alphabetical order), the published ones shown
# beside them, as in the MLR paper's table, and of these the lines in learning curves and README.
METHODS = ("mlr", "mlr_official", "playvirtual", "spr", "curl", "drq", "sac", "sac_plain")
BASELINE = "sac"  # the same agent without an objective, which MLR is measured against
PUBLISHED_BENCHMARKS = ("dmcontrol100k", "dmcontrol500k")
PUBLISHED = (
    "mlr", "mlr_baseline", "playvirtual", "drq", "curl", "slac", "sac_ae", "dreamer", "planet",
)  # fmt: skip
REFERENCES = ("mlr", "mlr_baseline")
PUBLISHED_FOLDER = Path(__file__).parents[1] / "results" / "published"


def stamp(camera_id: int) -> str:
    """The protocol of a run whose pictures this camera of the suite's takes."""
    return PROTOCOL if camera_id == 0 else f"{PROTOCOL}_camera_{camera_id}"


def normalize(task: str, value: float) -> float:
    """Return / 1000; NaN for an own environment, whose returns are of any size."""
    return math.nan if is_own(task) else value / SCALE


def score_range(task: str) -> tuple[float, float]:
    """Between what a task's returns lie."""
    return (-math.inf, math.inf) if is_own(task) else SCORE_RANGE


def published_benchmark(protocol: str, preset: str, budget: int) -> str | None:
    """Name of the published benchmark that such runs may be compared with; None: no comparison."""
    names = {100_000: "dmcontrol100k", 500_000: "dmcontrol500k"}
    return names.get(budget) if (protocol, preset) == (PROTOCOL, "paper") else None


def published_scores(name: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Published (mean, standard deviation) of returns by method and task."""
    scores: dict[str, dict[str, tuple[float, float]]] = {}
    with (PUBLISHED_FOLDER / "dmcontrol_scores.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if f"dmcontrol{row['benchmark']}" == name:
                std = float(row["std"]) if row["std"] else math.nan
                scores.setdefault(row["method"], {})[row["task"]] = (float(row["mean"]), std)
    return scores
