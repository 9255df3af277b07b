"""The benchmark's arithmetic: steps, updates and evaluations of a budget."""

from __future__ import annotations

import pytest
from config_cases import OBJECTIVES, AgentSettings, config

from mlr_atari.games import BENCHMARK_GAMES
from mlr_atari.run.protocol import evaluations, plan, replay_capacity, updates


def test_the_published_run() -> None:
    cfg = config.load(["game=pong"], OBJECTIVES, AgentSettings)
    numbers = plan(cfg)
    assert numbers.agent_steps == 100_000
    assert numbers.agent_steps * cfg.environment.frame_skip == 400_000
    assert numbers.updates == 196_000
    assert numbers.evaluations == tuple(range(10_000, 100_001, 10_000))
    assert numbers.capacity == 100_000


@pytest.mark.parametrize("game", ["pong", "up_n_down", "boxing", BENCHMARK_GAMES[0]])
def test_every_game_has_the_same_numbers(game: str) -> None:
    first, other = (
        plan(config.load([f"game={name}"], OBJECTIVES, AgentSettings)) for name in ("pong", game)
    )
    assert first == other


def test_updates_begin_with_learning() -> None:
    assert updates(100_000, 2000, 2) == 196_000
    assert updates(100_000, 1600, 1) == 98_400
    assert updates(2001, 2000, 2) == 2
    assert updates(2000, 2000, 2) == 0
    assert updates(10, 2000, 2) == 0


def test_the_budget_itself_is_always_evaluated() -> None:
    assert evaluations(100, 30) == (30, 60, 90, 100)
    assert evaluations(90, 30) == (30, 60, 90)
    assert evaluations(10, 30) == (10,)


def test_replay_has_room_for_the_run_and_no_more() -> None:
    assert replay_capacity(1_000_000, 100_000) == 100_000
    assert replay_capacity(50_000, 100_000) == 50_000
