"""Evaluation: the same scores however the games are spread, and films of them."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from record_trajectories import SETTINGS, game_env

from mlr_atari.environment import EnvironmentSettings
from mlr_atari.errors import RunError
from mlr_atari.run.evaluation import (
    EvaluationResult,
    Policy,
    evaluate,
    record_video,
)
from mlr_atari.run.seeding import episode_seed
from mlr_atari.run.workers import EvaluationEnvs

CATCH = "pixel_game:Catch-v0"
SMALL = EnvironmentSettings(**{**vars(SETTINGS), "image_size": 20, "frame_skip": 1})
SEEDS = partial(episode_seed, 7, "evaluation")


def _random(obs: np.ndarray, uniform: np.ndarray, random_action: np.ndarray) -> np.ndarray:
    assert len(obs) == len(uniform) == len(random_action)
    return random_action


def _careful(obs: np.ndarray, uniform: np.ndarray, random_action: np.ndarray) -> np.ndarray:
    """Follows the ball, mostly."""
    newest = obs[:, -1]
    ball = np.argmax((newest[:, :-2] == 255).any(1), axis=1)
    paddle = np.argmax(newest[:, -1] == 128, axis=1)
    greedy = np.where(ball < paddle, 1, np.where(ball > paddle + 2, 2, 0))
    return np.where(uniform < 0.2, random_action, greedy)


def _played(
    act: Policy, games: int, num_envs: int, processes: int = 0, game: str = CATCH
) -> EvaluationResult:
    settings = SMALL if game == CATCH else SETTINGS
    with EvaluationEnvs(game, settings, num_envs, seed=1, processes=processes) as envs:
        result = evaluate(act, envs, games, SEEDS)
    assert result is not None
    return result


def _one_by_one(act: Policy, games: int) -> EvaluationResult:
    """The plain version: every game alone, from its first step to its last."""
    scores, lengths = [], []
    for number in range(games):
        env = game_env(CATCH, training=False, image_size=20, frame_skip=1)
        noise = np.random.default_rng([SEEDS(number), 1])
        obs, info = env.reset(seed=SEEDS(number))
        while not info["game_over"]:
            uniform = np.array([noise.random(dtype=np.float32)])
            action = act(obs[None], uniform, np.array([noise.integers(3)]))[0]
            obs, _, _, _, info = env.step(action)
        scores.append(info["score"])
        lengths.append(info["game_steps"])
    return EvaluationResult(scores, lengths)


@pytest.mark.parametrize("act", [_random, _careful])
def test_games_in_lockstep_are_the_games_one_by_one(act: Policy) -> None:
    wanted = _one_by_one(act, 13)
    assert len(set(wanted.lengths)) > 2
    for num_envs in (1, 4, 13, 20):
        assert _played(act, 13, num_envs) == wanted
    assert wanted.mean_score == np.mean(wanted.scores)


def test_the_number_of_processes_does_not_matter() -> None:
    here = _played(_careful, 7, 5)
    assert _played(_careful, 7, 5, processes=3) == here
    assert here.mean_score > _played(_random, 7, 5).mean_score


def test_real_games_are_played_to_their_end() -> None:
    result = _played(_random, 2, 2, game="pong")
    assert all(-21 <= score <= -15 for score in result.scores)
    assert min(result.lengths) > 700
    assert result.lengths[0] != result.lengths[1]


def test_evaluation_stops_when_asked() -> None:
    asked = iter(range(1000))
    with EvaluationEnvs(CATCH, SMALL, 3, seed=1) as envs:
        assert evaluate(_random, envs, 3, SEEDS, should_stop=lambda: next(asked) == 5) is None
        # What was left unfinished does not show in the next evaluation.
        assert evaluate(_random, envs, 3, SEEDS) == _one_by_one(_random, 3)


def test_a_worker_that_dies_is_an_error_and_not_a_hang() -> None:
    with EvaluationEnvs(CATCH, SMALL, 2, seed=1, processes=2) as envs:
        assert envs.num_actions == 3
        os.kill(envs._members[1]._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        with pytest.raises(RunError, match="worker ended with code -9"):
            evaluate(_random, envs, 2, SEEDS)


def test_a_worker_tells_what_went_wrong() -> None:
    with (
        EvaluationEnvs("pogn", SMALL, 1, seed=1, processes=1) as envs,
        pytest.raises(RuntimeError, match="did you mean pong"),
    ):
        evaluate(_random, envs, 1, SEEDS)


@pytest.mark.parametrize("game, rows", [(CATCH, 160), ("breakout", 210)])
def test_films(tmp_path: Path, game: str, rows: int) -> None:
    env = game_env(game, training=False, **({"frame_skip": 1} if game == CATCH else {}))
    path = tmp_path / "video" / "final"
    score = record_video(_random, env, SEEDS(0), path)
    wanted = _played(_random, 1, 1, game=game)
    assert score == wanted.scores[0]
    with imageio.get_reader(path.with_suffix(".mp4")) as film:
        assert film.count_frames() == wanted.lengths[0] + 1
        assert film.get_data(0).shape[0] == rows
    assert len(imageio.mimread(path.with_suffix(".gif"), memtest=False)) > 5
