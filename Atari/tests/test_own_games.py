"""Own games: any Gymnasium game of pixels is played by the same rules; what is not is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v2 as imageio
import numpy as np
import pixel_game
import pytest
from record_trajectories import SETTINGS, game_env, play

from mlr_atari.environment import CustomEnv, EnvironmentSettings, make_environment
from mlr_atari.errors import ConfigError
from mlr_atari.rainbow import evaluation_noise
from mlr_atari.run.evaluation import EvaluationEnvs, evaluate, record_video

CATCH = "pixel_game:Catch-v0"


# --- own games ------------------------------------------------------------------------------------


def test_an_own_game_keeps_the_rules() -> None:
    env = game_env(CATCH, image_size=40, frame_skip=1)
    assert isinstance(env, CustomEnv)
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
    assert results[0] == results[1]
    assert results[0] is not None
    assert len(set(results[0].lengths)) > 1
    assert record_video(policy, factory(), 7, tmp_path / "film") == results[0].scores[0]
    with imageio.get_reader(tmp_path / "film.mp4") as film:
        assert film.count_frames() == results[0].lengths[0] + 1


def test_the_pixel_game_can_be_won_but_not_by_chance() -> None:
    """Who knows the drift catches every ball; who moves at random misses most."""

    def scores(policy: Callable[[pixel_game.Catch], int]) -> list[float]:
        game, found = pixel_game.Catch(), []
        for seed in range(40):
            game.reset(seed=seed)
            score, over = 0.0, False
            while not over:
                _, reward, over, _, _ = game.step(policy(game))
                score += reward
            found.append(score)
        return found

    def perfect(game: pixel_game.Catch) -> int:
        column, drift = game.column, game.drift
        for _ in range(game.size - 1 - game.row):
            drift = drift if 0 <= column + drift < game.size else -drift
            column += drift
        # One of the paddle's two cells; move only while neither is there.
        if game.position > column:
            return pixel_game.LEFT
        return pixel_game.RIGHT if column > game.position + 1 else pixel_game.STAY

    random = np.random.default_rng(0)
    assert min(scores(perfect)) == 10
    assert np.mean(scores(lambda _: int(random.integers(3)))) < 0


class Shapes(gymnasium.Env):
    """Shows pixels in any layout; says nothing about lives; random unless it is `fair`."""

    def __init__(self, layout: tuple[int, ...] = (20, 30, 3), fair: bool = True) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, layout, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(2, start=1)
        self.fair = fair

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.random = np.random.default_rng(seed if self.fair else None)
        self.count = 0
        return self._look(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert action in (1, 2)
        self.count += 1
        return self._look(), 2.5, False, self.count == 9, {}

    def _look(self) -> np.ndarray:
        return self.random.integers(256, size=self.observation_space.shape, dtype=np.uint8)


gymnasium.register("Shapes-v0", entry_point=Shapes)
gymnasium.register("Unfair-v0", entry_point=Shapes, kwargs={"fair": False})
for number, layout in enumerate([(20, 30), (20, 30, 1), (1, 20, 30), (3, 20, 30), (100, 90, 3)]):
    gymnasium.register(f"Layout-v{number}", entry_point=Shapes, kwargs={"layout": layout})
gymnasium.register("Wrong-v0", entry_point=Shapes, kwargs={"layout": (20, 30, 4)})


@pytest.mark.parametrize("game", ["Shapes-v0", *(f"Layout-v{number}" for number in range(5))])
def test_own_games_may_show_pixels_in_any_layout(game: str) -> None:
    env = game_env(game, image_size=36, frame_skip=2)
    obs, _ = env.reset()
    assert obs.shape == (4, 36, 36)
    obs, reward, terminated, truncated, info = env.step(0)
    assert (reward, info["raw_reward"], terminated, truncated) == (1.0, 5.0, False, False)
    for _ in range(4):
        truncated = env.step(1)[3]
    assert truncated
    assert env.render().ndim == 3
    env.close()


def test_a_game_that_is_not_reproducible_is_noticed() -> None:
    for game, same in [("Shapes-v0", True), ("Unfair-v0", False)]:
        env, other = game_env(game), game_env(game)
        env.reset()
        play(env, [0, 1, 1])
        assert other.load_state_dict(env.state_dict()) == same
        assert other.reset()[1]["game_steps"] == 0


# --- wrong input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("pogn", "did you mean pong"),
        ("CartPole-v1", "observations must be"),
        ("Wrong-v0", "observations must be"),
        ("Pendulum-v1", "actions must be Discrete"),
        ("no_such_package:Game-v0", "Gymnasium cannot make it"),
        ("pixel_game:Other-v0", "Gymnasium cannot make it"),
    ],
)
def test_a_game_that_cannot_be_played_is_refused(game: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_environment(game, SETTINGS, training=True, seed=0)
