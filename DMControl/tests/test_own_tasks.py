"""Own continuous environments: shown and acted in as the suite's tasks are."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from mlr_dmcontrol.environment import EnvironmentSettings, OwnTask, PixelControlEnv
from mlr_dmcontrol.errors import ConfigError, SimulatorError

ODD = "odd_environments:Odd-v0"


def made(repeat: int = 1, max_steps: int = 10, **kwargs: Any) -> PixelControlEnv:
    kwargs = {"actions": (-1.0, 3.0), **kwargs}
    settings = EnvironmentSettings(
        image_size=16,
        frame_stack=2,
        action_repeat=repeat,
        max_steps=max_steps,
        camera_id=0,
        fast_render=False,
        kwargs=kwargs,
    )
    return PixelControlEnv(ODD, settings, lambda k: 100 + k)


def taken(env: PixelControlEnv) -> list[Any]:
    """The actions that reached the user's environment."""
    assert isinstance(env.simulator, OwnTask)
    return env.simulator._env.unwrapped.taken  # type: ignore[no-any-return]


def test_actions_are_rescaled_and_repeated() -> None:
    with made(repeat=4) as env:
        obs, _ = env.reset()
        assert (obs.shape, env.action_dim, env.frame_rate) == ((6, 16, 16), 3, 10 / 4)
        assert (obs[:3] == obs[3:]).all()
        again, reward, terminated, truncated, _ = env.step(np.array([-1, 0, 1], np.float32))
        assert (reward, terminated, truncated) == (4, False, False)
        assert (again[:3] == obs[3:]).all() and (again[3:] != obs[3:]).any()
        np.testing.assert_array_equal(taken(env)[-4:], [[[-1, 1, 3]]] * 4)
        env.step(np.zeros(3))
        assert env.step(np.zeros(3))[1:4] == (2, False, True)  # after max_steps, two more
        assert env.render().shape == (24, 24, 3)


def test_without_limits_actions_are_what_the_agent_says() -> None:
    with made(actions=(-np.inf, np.inf)) as env:
        env.reset()
        env.step(np.array([-1, 0, 1], np.float32))
        np.testing.assert_array_equal(taken(env)[-1], [[-1, 0, 1]])


def test_its_own_ends_stay_apart() -> None:
    for fault, steps, ends in (("", 10, (False, True)), ("capped", 9, (False, True))):
        with made(fault=fault) as env:
            env.reset()
            assert [env.step(np.zeros(3))[2:4] for _ in range(steps)][-1] == ends
    with made(repeat=2, max_steps=100) as env:
        env.reset()
        assert [env.step(np.zeros(3))[2:4] for _ in range(6)][-1] == (True, False)


@pytest.mark.parametrize("fault, same", [("", True), ("unfair", False)])
def test_an_episode_is_restored_by_playing_it_again(
    fault: str, same: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with made(fault=fault) as env, made(fault=fault) as other:
        env.reset()
        for _ in range(4):
            env.step(np.full(3, 0.3))
        assert other.load_state_dict(env.state_dict()) == same
        assert ("cannot be restored" in caplog.text) != same
        assert other.episode_over != same
        if same:
            for one, two in zip(env.step(np.ones(3)), other.step(np.ones(3)), strict=True):
                np.testing.assert_array_equal(one, two)


def test_a_crash_ends_the_episode() -> None:
    with made(fault="crash") as env, made(fault="crash") as other:
        env.reset()
        with pytest.raises(SimulatorError):
            for _ in range(7):
                env.step(np.zeros(3))
        assert env.episode_over
        assert other.load_state_dict(env.state_dict())
        assert (env.reset()[0] == other.reset()[0]).all()


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"actions": 3}, "actions must be Box"),
        ({"actions": (0.0, np.inf)}, "two limits or none"),
        ({"actions": gymnasium.spaces.Box(0, 9, (2,), np.int64)}, "real numbers"),
        ({"fault": "no reward"}, "reward None in step 7"),  # in a trial, before training
    ],
)
def test_what_is_odd_is_refused(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made(**kwargs)
