"""The benchmark's arithmetic: steps, updates and evaluations of a budget; its score."""

import math
from collections.abc import Sequence

import pytest
from config_cases import FOR_ONE

from mlr_dmcontrol import protocol
from mlr_dmcontrol.settings import load

# By action repeat: agent steps and updates of 100k env steps (published code).
NUMBERS = {8: (12_500, 11_500), 4: (25_000, 24_000), 2: (50_000, 49_000)}


@pytest.mark.parametrize("task", FOR_ONE)
def test_every_task_at_both_budgets(task: str) -> None:
    repeat = int(FOR_ONE[task]["environment.action_repeat"])
    steps, learnt = NUMBERS[repeat]
    for times in (1, 5):
        numbers = load([f"task={task}", f"budget={times}00k"]).workload
        assert numbers.agent_steps == times * steps
        assert numbers.updates == times * steps - (steps - learnt)
        env_steps = [step * repeat for step in numbers.evaluations]
        assert env_steps == list(range(10_000, times * 100_000 + 1, 10_000))
        assert numbers.capacity == min(numbers.agent_steps, 100_000)


@pytest.mark.parametrize(
    ("budget", "repeat", "every", "scored"),
    [(960, 8, 204, (26, 51, 77, 102, 120)), (200, 8, 5, range(1, 26))],
)
def test_evaluations_wait_for_the_end_of_a_decision(
    budget: int, repeat: int, every: int, scored: Sequence[int]
) -> None:
    words = [f"budget={budget}", f"environment.action_repeat={repeat}", f"evaluation.every={every}"]
    words += ["task=hopper_hop", "preset=smoke", "agent.learning_starts=20", "replay.capacity=24"]
    numbers = load(words).workload
    assert numbers.evaluations == tuple(scored)
    assert numbers.capacity == 24


def test_scores_of_an_own_environment_are_of_any_size() -> None:
    assert protocol.score_range("walker_walk") == (0, 1000)
    assert protocol.score_range("module:Own-v0") == (-math.inf, math.inf)
    assert math.isnan(protocol.normalize("module:Own-v0", 850.0))
