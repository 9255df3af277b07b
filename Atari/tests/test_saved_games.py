"""Games that are saved go on exactly as they would have, here and in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from record_trajectories import drawn_actions, game_env, play

from mlr_atari.games import BENCHMARK_GAMES

TREE = Path(__file__).parents[1]
FEW = ("breakout", "qbert")
CATCH = "pixel_game:Catch-v0"


@pytest.mark.parametrize("protocol", ["atari100k", "atari100k_sticky"])
@pytest.mark.parametrize("game", ["breakout", "qbert"])
def test_a_saved_game_goes_on_as_it_would_have(game: str, protocol: str) -> None:
    env, other = (game_env(game, protocol=protocol) for _ in range(2))
    env.reset()
    other.reset()
    actions = drawn_actions(env.num_actions, 700)
    play(other, actions[:50])  # somewhere else
    for start in range(0, 700, 100):
        assert other.load_state_dict(env.state_dict())
        assert other.state_dict() == env.state_dict()
        piece = actions[start : start + 100]
        assert play(other, piece) == play(env, piece)


@pytest.mark.parametrize("moment", ["life_lost", "game_over"])
def test_a_game_saved_before_a_reset_goes_on(moment: str) -> None:
    env, other = game_env("breakout"), game_env("breakout")
    env.reset()
    other.reset()
    for action in drawn_actions(4, 2000):
        _, _, terminated, _, info = env.step(action)
        if info[moment]:
            break
        if terminated:
            env.reset()
    assert other.load_state_dict(env.state_dict())
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])
    assert play(env, drawn_actions(4, 60)) == play(other, drawn_actions(4, 60))


def test_saving_changes_nothing() -> None:
    saved, untouched = game_env("ms_pacman"), game_env("ms_pacman")
    saved.reset()
    untouched.reset()
    for start in range(0, 420, 7):
        piece = drawn_actions(9, 420)[start : start + 7]
        assert play(saved, piece) == play(untouched, piece)
        saved.state_dict()


def test_a_state_that_is_not_the_games_own_is_noticed() -> None:
    env = game_env("pong")
    env.reset()
    play(env, [0, 1, 2])
    state = env.state_dict()
    torn = {**state, "before": state["before"][:5000]}
    reached = {**state["reached"], "snapshot": state["before"]}
    for wrong in (torn, {**state, "seed": state["seed"] + 1}, {**state, "reached": reached}):
        assert not env.load_state_dict(wrong)
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(0)
        assert env.reset()[1]["game_steps"] == 0
    assert env.load_state_dict(state)


CHILD = """
import sys, torch
from record_trajectories import drawn_actions, game_env, play
for game, state in torch.load(sys.argv[1], weights_only=True).items():
    env = game_env(game)
    assert env.load_state_dict(state)
    print(game, play(env, drawn_actions(env.num_actions, 500, seed=1))[-1])
"""


def _continue_elsewhere(games: tuple[str, ...], folder: Path) -> None:
    """Save each game mid-way, go on for 2,000 frames here and in another process."""
    states, wanted = {}, []
    for game in games:
        env = game_env(game)
        env.reset()
        play(env, drawn_actions(env.num_actions, 123))
        states[game] = env.state_dict()
        wanted.append(f"{game} {play(env, drawn_actions(env.num_actions, 500, seed=1))[-1]}")
    torch.save(states, folder / "states.pt")
    shown = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder / "states.pt")],
        env={**os.environ, "PYTHONPATH": f"{TREE / 'tests'}{os.pathsep}{TREE}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines() == wanted


def test_another_process_goes_on_with_a_saved_game(tmp_path: Path) -> None:
    _continue_elsewhere((*FEW, CATCH), tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_another_process_goes_on_with_every_saved_game(tmp_path: Path) -> None:
    _continue_elsewhere(BENCHMARK_GAMES, tmp_path)
