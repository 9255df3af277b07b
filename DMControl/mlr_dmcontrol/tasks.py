"""Names of the tasks: the six of the benchmark, and every other one of the suite."""

import re

from . import names
from .errors import ConfigError

# The six tasks that the paper reports (its table 2).
BENCHMARK_TASKS = (
    "ball_in_cup_catch", "cartpole_swingup", "cheetah_run", "finger_spin", "reacher_easy",
    "walker_walk",
)  # fmt: skip

# A sweep's `task=dev`: an easy and a hard one of them, for trying out an idea.
DEVELOPMENT_TASKS = ("cartpole_swingup", "cheetah_run")

# Domains and tasks of `dm_control.suite`; a test compares them with the installed package.
_SUITE = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": (
        "balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles",
    ),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}  # fmt: skip

# What `dm_control.suite.load` wants, by name: `ball_in_cup_catch` is (`ball_in_cup`, `catch`).
SUITE_TASKS = {f"{domain}_{task}": (domain, task) for domain in _SUITE for task in _SUITE[domain]}


def canonical(name: str) -> str:
    """As `names.canonical`: the `domain_task` name of any spelling, or a Gymnasium id."""
    elsewhere = r"_(features|vision)\b|^(cmu_humanoid|rodent)_|manipulation|locomotion"
    if ":" not in name and re.search(elsewhere, name.lower()):
        remedy = "see OWN_ENVIRONMENTS.md to train on one of dm_control.manipulation or locomotion"
        raise ConfigError(f"task={name}: is no task of dm_control.suite; {remedy}")
    return names.canonical("task", name, list(SUITE_TASKS), BENCHMARK_TASKS)
