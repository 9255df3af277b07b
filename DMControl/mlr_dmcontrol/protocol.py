"""What DMControl-100k is: its tasks, what a budget means, its score, and what is published on it.

Imports neither torch nor a simulator: the report reads run folders where neither is installed.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .names import folder_name, is_own
from .tasks import BENCHMARK_TASKS, canonical

if TYPE_CHECKING:
    from .settings import Config

NAME = "DMControl"
PROTOCOL = "dmcontrol"
"""What run.json says was followed, with the suite's camera 0."""
TASK_KEY = "task"
"""Section of the configuration that says what is played."""
TASKS, canonical_task = BENCHMARK_TASKS, canonical

STEP = "env_step"
"""The counter that is the x-axis, and in which a budget counts."""
STEP_NAME = "env steps"
ABOUT = "The x-axis counts **env steps** (agent steps x action repeat), as the benchmark does."
METRIC = "return"
CHART = "episode_return"
"""The metric's name in TensorBoard, below `train/` and `eval/`."""
VALUE_NAME = "episode return"
NORMALIZED_NAME = "return / 1000"
SCALE = 1000.0
"""Largest possible return: 1000 env steps with a reward in [0, 1]. Published aggregates are
returns and are divided by it too."""
SCORE_RANGE = (0.0, SCALE)
"""No return of a task of the suite lies outside."""
PROFILE_RANGE = (0.0, 1.0)
"""Normalised scores over which performance profiles are drawn."""

PACKAGES = ("torch", "numpy", "gymnasium", "dm_control", "mujoco", "kornia", "hydra-core")
"""Whose versions run.json records."""
SIMULATOR = "renderer"
"""Key of run.json that says what drew the observations."""

METHODS = ("mlr", "mlr_official", "playvirtual", "spr", "curl", "drq", "sac", "sac_plain")
"""Order and colours of our methods; others follow in alphabetical order."""
BASELINE = "sac"
"""The same agent without an objective, which MLR is measured against."""
PUBLISHED_BENCHMARKS = ("dmcontrol100k", "dmcontrol500k")
PUBLISHED = (
    "mlr", "mlr_baseline", "playvirtual", "drq", "curl", "slac", "sac_ae", "dreamer", "planet",
)  # fmt: skip
"""Published methods shown beside ours, as in the MLR paper's table."""
TABLE_ONLY: tuple[str, ...] = ()
"""Published rows that are left out of figures, whose scale they would set."""
REFERENCES = ("mlr", "mlr_baseline")
"""Published methods drawn as lines in the learning curves and shown in the README."""
PUBLISHED_FOLDER = Path(__file__).parents[1] / "results" / "published"


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    agent_steps: int  # decisions in the whole run
    env_steps: int  # simulator steps in the whole run
    updates: int  # of the agent
    evaluations: tuple[int, ...]  # agent steps after which to evaluate; the last is the end
    capacity: int  # transitions that the replay has room for


def plan(cfg: Config) -> Plan:
    """The numbers of a configured run."""
    repeat = cfg.environment.action_repeat
    steps = agent_steps(cfg.budget, repeat)
    return Plan(
        agent_steps=steps,
        env_steps=steps * repeat,
        updates=updates(cfg.budget, repeat, cfg.agent.learning_starts),
        evaluations=evaluations(cfg.budget, repeat, cfg.evaluation.every),
        capacity=min(cfg.replay.capacity, steps),
    )


def agent_steps(budget: int, action_repeat: int) -> int:
    """Decisions in `budget` env steps: one is `action_repeat` of them."""
    return budget // action_repeat


def updates(budget: int, action_repeat: int, learning_starts: int) -> int:
    """Updates in `budget` env steps: one per agent step once learning has started."""
    return max(0, agent_steps(budget, action_repeat) - learning_starts)


def evaluations(budget: int, action_repeat: int, every: int) -> tuple[int, ...]:
    """Agent steps at which the policy is scored: every `every` env steps, and at the budget.

    A multiple of `every` that no decision ends on is scored at the next decision's end.
    """
    last = agent_steps(budget, action_repeat)
    marks = (-(-mark // action_repeat) for mark in range(every, budget, every))
    return tuple(sorted({*(mark for mark in marks if mark < last), last}))


def stamp(camera_id: int) -> str:
    """The protocol of a run whose pictures this camera of the suite's takes."""
    return PROTOCOL if camera_id == 0 else f"{PROTOCOL}_camera_{camera_id}"


def run_path(cfg: Config) -> Path:
    """The folder that the configuration decides: `<runs_dir>/<task>/<agent>[-tag]/seed_<seed>`."""
    method = f"{cfg.agent.name}-{cfg.tag}" if cfg.tag else cfg.agent.name
    return Path(cfg.runs_dir) / folder_name(cfg.task.name) / method / f"seed_{cfg.seed}"


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
