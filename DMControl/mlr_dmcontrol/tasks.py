"""Names of the tasks: the six of the benchmark, every other one of the suite, and their spellings.

Needs no simulator, so that a misspelt name is refused at once.
"""

from __future__ import annotations

import re

from .errors import ConfigError, suggestion

# The six tasks that the paper reports (its table 2).
BENCHMARK_TASKS = (
    "ball_in_cup_catch",
    "cartpole_swingup",
    "cheetah_run",
    "finger_spin",
    "reacher_easy",
    "walker_walk",
)

# A sweep's `task=dev`: an easy and a hard one of them, for trying out an idea.
DEVELOPMENT_TASKS = ("cartpole_swingup", "cheetah_run")

# Domains and tasks of `dm_control.suite`; a test compares them with the installed package.
_SUITE = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": (
        "balance",
        "balance_sparse",
        "swingup",
        "swingup_sparse",
        "two_poles",
        "three_poles",
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
}

_PARTS = {f"{domain}_{task}": (domain, task) for domain in _SUITE for task in _SUITE[domain]}

SUITE_TASKS = tuple(_PARTS)


def _letters(name: str) -> str:
    """What all spellings of a name share: `CartpoleSwingup`, `cartpole/swingup`, ..."""
    name = re.sub(r"^dm_control/|-v\d+$", "", name.strip())
    return re.sub(r"[^a-z0-9]", "", name.lower())


_BY_LETTERS = {_letters(name): name for name in SUITE_TASKS}


def canonical(name: str) -> str:
    """The `domain_task` name that any spelling stands for: `Cartpole/Swingup` is
    `cartpole_swingup`.

    Raises:
        ConfigError: no task of the suite is called that; suggests the nearest.
    """
    letters = _letters(name)
    if letters in _BY_LETTERS:
        return _BY_LETTERS[letters]
    otherwise = f"use one of {', '.join(BENCHMARK_TASKS)}, or another task of the dm_control suite"
    remedy = suggestion(name.lower(), SUITE_TASKS, otherwise)
    raise ConfigError(f"task={name}: no such task; {remedy}")


def domain_and_task(name: str) -> tuple[str, str]:
    """What `dm_control.suite.load` wants: `ball_in_cup_catch` is (`ball_in_cup`, `catch`).

    Raises:
        ConfigError: as `canonical`.
    """
    return _PARTS[canonical(name)]
