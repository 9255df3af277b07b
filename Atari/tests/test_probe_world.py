"""Addresses of objects point at what is seen to move."""

import numpy as np
import pytest

from mlr_atari.environment import EnvironmentSettings, GameEnv
from mlr_atari.errors import ConfigError
from mlr_atari.probe.world import environment_of, labels
from mlr_atari.settings import load

SETTINGS = EnvironmentSettings(
    protocol="atari100k", emulator="ale_py", image_size=84, frame_stack=1, frame_skip=4
)
# Colour of an object, the rows and columns where nothing else has it, and its axis.
VISIBLE = [
    ("pong", "player y", (92, 186, 92), slice(34, 194), slice(130, 160), 0),
    ("pong", "enemy y", (213, 130, 74), slice(34, 194), slice(0, 30), 0),
    ("breakout", "player x", (200, 72, 72), slice(188, 194), slice(8, 152), 1),
    ("freeway", "player y", (252, 252, 84), slice(15, 195), slice(40, 56), 0),
    ("boxing", "player x", (214, 214, 214), slice(30, 180), slice(30, 130), 1),
    ("boxing", "enemy y", (0, 0, 0), slice(36, 176), slice(34, 126), 0),
    ("amidar", "player x", (252, 252, 84), slice(8, 170), slice(0, 160), 1),
    ("amidar", "player y", (252, 252, 84), slice(8, 170), slice(0, 160), 0),
    ("amidar", "enemies x, mean", (135, 183, 84), slice(8, 170), slice(0, 160), 1),
]


@pytest.mark.parametrize(("game", "name", "colour", "rows", "columns", "axis"), VISIBLE)
def test_a_byte_follows_what_is_drawn(
    game: str, name: str, colour: tuple[int, ...], rows: slice, columns: slice, axis: int
) -> None:
    env, random = GameEnv(game, SETTINGS, training=False, seed=0), np.random.default_rng(0)
    env.reset(seed=1)
    seen, stored, action = [], [], 0
    for step in range(400):
        action = int(random.integers(env.num_actions)) if step % 6 == 0 else action
        if env.episode_over:
            env.reset(seed=step)
        env.step(action)
        places = np.argwhere((env.render()[rows, columns] == colour).all(-1))
        if len(places):
            seen.append(places[:, axis].mean())
            stored.append(labels(env)[name])
    assert len(seen) > 200
    assert abs(np.corrcoef(seen, stored)[0, 1]) > 0.9


def test_other_games_are_refused() -> None:
    with pytest.raises(ConfigError, match="game=krull: where it keeps its objects is not known"):
        environment_of(load(["game=krull"]))
