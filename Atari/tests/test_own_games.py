"""Own games: any Gymnasium game of pixels is played by the same rules; what is not is refused."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import gymnasium
import imageio.v2 as imageio
import numpy as np
import pytest
from record_trajectories import SETTINGS, game_env, play

from mlr_atari.environment import EnvironmentSettings, OwnGame, make_environment
from mlr_atari.errors import ConfigError, SimulatorError
from mlr_atari.rainbow import evaluation_noise
from mlr_atari.run.evaluation import EvaluationEnvs, evaluate, record_video

CATCH = "pixel_game:Catch-v0"
ODD = "odd_environments:Odd-v0"


def test_an_own_game_keeps_the_rules() -> None:
    env = game_env(CATCH, image_size=40, frame_skip=1)
    assert isinstance(env, OwnGame)
    obs, info = env.reset()
    assert obs.shape == (4, 40, 40)
    assert set(np.unique(obs[-1])) == {0, 128, 255}, "small pictures stay sharp"
    lost = steps = 0
    while not info["game_over"]:
        obs, reward, terminated, truncated, info = env.step(0)
        steps += 1
        assert reward == np.sign(info["raw_reward"])
        assert not truncated
        lost += info["life_lost"]
        assert terminated == (info["life_lost"] or info["game_over"])
        if info["life_lost"]:
            assert not obs[:3].any()
            env.reset()
    assert info["game_steps"] == steps
    assert lost == 2 or info["score"] > 4
    assert env.render().shape == (10, 10, 3)


def test_it_is_evaluated_in_other_processes_and_filmed(tmp_path: Path) -> None:
    settings = EnvironmentSettings(**{**vars(SETTINGS), "image_size": 20, "frame_skip": 1})
    factory = partial(make_environment, CATCH, settings, training=False, seed=1)

    def policy(obs: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
        return evaluation_noise(generators, 3).random_action.numpy()

    results = []
    for processes, places in ((0, 1), (2, 4)):
        with closing(EvaluationEnvs(factory, places, processes)) as envs:
            results.append(evaluate(policy, envs, 5, lambda number: 7 + number))
    assert results[0] is not None and results[1] is not None
    assert results[0].scores == results[1].scores
    assert results[0].lengths == results[1].lengths
    assert len(set(results[0].lengths)) > 1
    assert record_video(policy, factory(), 7, tmp_path / "film") == results[0].scores[0]
    with imageio.get_reader(tmp_path / "film.mp4") as film:
        assert film.count_frames() == results[0].lengths[0] + 1


@pytest.mark.parametrize("shape", [(1, 200, 3), (400, 10, 3), (100, 90, 3)])
def test_no_pixel_is_left_out(shape: tuple[int, ...]) -> None:
    """Bright lines, of which a resize by the nearest pixel would drop some or all."""
    space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
    env = game_env(ODD, training=False, image_size=36, kwargs={"space": space})
    picture = np.zeros(shape, np.uint8)
    picture[::2, ::5] = 200
    env._own._look(picture)  # type: ignore[attr-defined]
    frame = env._frame()  # type: ignore[attr-defined]
    assert frame.shape == (36, 36)
    assert frame.mean() == pytest.approx(picture.mean(), rel=0.25)
    assert env.render().shape == shape


def test_steps_are_held_and_actions_begin_where_the_space_does() -> None:
    env = game_env(ODD, frame_skip=5)
    env.reset()
    _, reward, terminated, truncated, info = env.step(0)
    assert (reward, info["raw_reward"], terminated, truncated) == (1.0, 5.0, False, False)
    assert env._own._env.unwrapped.taken[-5:] == [-1] * 5  # type: ignore[attr-defined]
    env.step(1)
    assert env.step(2)[2:4] == (True, False)
    env.close()


def test_a_game_that_is_not_reproducible_is_noticed() -> None:
    for fault, same in [("", True), ("unfair", False)]:
        env, other = (game_env(ODD, frame_skip=1, kwargs={"fault": fault}) for _ in range(2))
        env.reset()
        play(env, [0, 1, 1])
        assert other.load_state_dict(env.state_dict()) == same
        assert other.game_over != same


def test_a_crash_ends_the_game() -> None:
    env, other = (game_env(ODD, frame_skip=1, kwargs={"fault": "crash"}) for _ in range(2))
    env.reset()
    with pytest.raises(SimulatorError):
        play(env, [0] * 7)
    assert env.game_over and env.episode_over
    assert other.load_state_dict(env.state_dict())
    assert other.game_over
    assert (env.reset()[0] == other.reset()[0]).all()


# --- wrong input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("game", "kwargs", "message"),
    [
        ("pogn", {}, "did you mean pong"),
        ("Pendulum-v1", {}, "actions must be Discrete"),
        (ODD, {"fault": "strange lives"}, "lives.*'three'"),
    ],
)
def test_a_game_that_cannot_be_played_is_refused(
    game: str, kwargs: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        env = game_env(game, kwargs=kwargs)
        env.reset()
        env.step(0)
