"""The benchmark's arithmetic: steps, updates and evaluations of a budget, for every task."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from config_cases import FOR_ONE

from mlr_dmcontrol import protocol
from mlr_dmcontrol.protocol import (
    agent_steps,
    evaluations,
    plan,
    updates,
)
from mlr_dmcontrol.settings import load

REPEAT = {
    "cartpole_swingup": 8,
    "reacher_easy": 4,
    "ball_in_cup_catch": 4,
    "cheetah_run": 4,
    "finger_spin": 2,
    "walker_walk": 2,
    "hopper_hop": 4,
}
# (budget, action repeat): agent steps, updates (published code)
NUMBERS = {
    (100_000, 8): (12_500, 11_500),
    (100_000, 4): (25_000, 24_000),
    (100_000, 2): (50_000, 49_000),
    (500_000, 8): (62_500, 61_500),
    (500_000, 4): (125_000, 124_000),
    (500_000, 2): (250_000, 249_000),
}

TREE = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("budget", [100_000, 500_000])
@pytest.mark.parametrize("task", FOR_ONE)
def test_every_task_and_budget(task: str, budget: int) -> None:
    cfg = load([f"task={task}", f"budget={budget}"])
    numbers = plan(cfg)
    assert (numbers.agent_steps, numbers.updates) == NUMBERS[budget, REPEAT[task]]
    env_steps = [step * REPEAT[task] for step in numbers.evaluations]
    assert env_steps == list(range(10_000, budget + 1, 10_000))
    assert numbers.capacity == min(numbers.agent_steps, 100_000)


def test_updates_begin_with_learning() -> None:
    assert updates(8008, 8, 1000) == 1
    assert updates(8000, 8, 1000) == 0
    assert updates(80, 8, 1000) == 0


def test_the_budget_itself_is_always_evaluated() -> None:
    assert evaluations(100, 2, 30) == (15, 30, 45, 50)
    assert evaluations(90, 2, 30) == (15, 30, 45)
    assert evaluations(10, 2, 30) == (5,)


def test_evaluations_wait_for_the_end_of_a_decision() -> None:
    steps = evaluations(96, 8, 20)  # due at 20, 40, 60, 80 env steps
    assert [step * 8 for step in steps] == [24, 40, 64, 80, 96]
    assert evaluations(16, 8, 1) == (1, 2)
    assert agent_steps(96, 8) == 12


def test_replay_has_room_for_the_run_and_no_more() -> None:
    words = ["task=walker_walk", "budget=20000"]
    for capacity, room in ((1000, 1000), (100_000, 10_000)):
        wanted = [*words, f"replay.capacity={capacity}"]
        assert plan(load(wanted)).capacity == room


def test_scores_are_shares_of_the_largest_return() -> None:
    assert protocol.normalize("walker_walk", 850.0) == 0.85


def test_the_report_needs_neither_torch_nor_simulator() -> None:
    code = (
        "import sys; from mlr_dmcontrol import protocol; "
        "assert not {'torch', 'dm_control', 'mujoco', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=TREE, check=True)
