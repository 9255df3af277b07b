"""The benchmark's arithmetic: steps, updates and evaluations of a budget."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from mlr_atari import protocol
from mlr_atari.settings import Workload, load

TREE = Path(__file__).resolve().parents[1]


def test_the_published_run() -> None:
    scored = tuple(range(10_000, 100_001, 10_000))
    assert load(["game=pong"]).workload == Workload(100_000, 400_000, 196_000, scored, 100_000)


@pytest.mark.parametrize(
    ("budget", "every", "scored"),
    [(20_000, 6000, (6000, 12000, 18000, 20000)), (9000, 9000, (9000,))],
)
def test_the_budget_itself_is_always_evaluated(
    budget: int, every: int, scored: Sequence[int]
) -> None:
    words = [f"budget={budget}", f"evaluation.every={every}", "replay.capacity=5000"]
    numbers = load(["game=pong", *words]).workload
    assert numbers.evaluations == scored
    assert numbers.capacity == 5000


def test_a_game_without_a_human_score_has_no_normalised_one() -> None:
    assert protocol.normalize("up_n_down", 11693.2) == pytest.approx(1.0)
    assert math.isnan(protocol.normalize("space_invaders", 100.0))
    assert math.isnan(protocol.normalize("my.package:Game-v0", 5.0))
