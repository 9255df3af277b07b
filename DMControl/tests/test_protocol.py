"""The benchmark's arithmetic: steps, updates and evaluations of a budget; its score."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from config_cases import FOR_ONE

from mlr_dmcontrol import protocol
from mlr_dmcontrol.protocol import agent_steps, evaluations, plan, updates
from mlr_dmcontrol.settings import load

# By action repeat: agent steps and updates of 100k env steps (published code).
NUMBERS = {8: (12_500, 11_500), 4: (25_000, 24_000), 2: (50_000, 49_000)}


@pytest.mark.parametrize("task", FOR_ONE)
def test_every_task_at_both_budgets(task: str) -> None:
    repeat = int(FOR_ONE[task]["environment.action_repeat"])
    steps, learnt = NUMBERS[repeat]
    for times in (1, 5):
        numbers = plan(load([f"task={task}", f"budget={times}00k"]))
        assert numbers.agent_steps == times * steps
        assert numbers.updates == times * steps - (steps - learnt)
        env_steps = [step * repeat for step in numbers.evaluations]
        assert env_steps == list(range(10_000, times * 100_000 + 1, 10_000))
        assert numbers.capacity == min(numbers.agent_steps, 100_000)


def test_updates_begin_with_learning() -> None:
    assert [updates(budget, 8, 1000) for budget in (80, 8000, 8008)] == [0, 0, 1]


def test_the_budget_itself_is_always_evaluated() -> None:
    assert evaluations(100, 2, 30) == (15, 30, 45, 50)
    assert evaluations(90, 2, 30) == (15, 30, 45)
    assert evaluations(10, 2, 30) == (5,)


def test_evaluations_wait_for_the_end_of_a_decision() -> None:
    steps = evaluations(96, 8, 20)  # due at 20, 40, 60, 80 env steps
    assert [step * 8 for step in steps] == [24, 40, 64, 80, 96]
    assert evaluations(16, 8, 1) == (1, 2)
    assert agent_steps(96, 8) == 12


def test_replay_has_no_more_room_than_it_was_given() -> None:
    assert plan(load(["budget=20000", "replay.capacity=1100"])).capacity == 1100


def test_scores_are_shares_of_the_largest_return() -> None:
    assert protocol.normalize("walker_walk", 850.0) == 0.85
    assert protocol.score_range("walker_walk") == (0, 1000)


def test_scores_of_an_own_environment_are_of_any_size() -> None:
    assert protocol.score_range("module:Own-v0") == (-math.inf, math.inf)
    assert math.isnan(protocol.normalize("module:Own-v0", 850.0))


def test_the_report_needs_neither_torch_nor_simulator() -> None:
    code = (
        "import sys; from mlr_dmcontrol import protocol; "
        "assert not {'torch', 'dm_control', 'mujoco', 'pandas'} & set(sys.modules)"
    )
    tree = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True)
