"""What an own environment hands out is held against what it declared, in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from odd_environments import LENGTH

from mlr_dmcontrol.errors import ConfigError, SimulatorError
from mlr_dmcontrol.names import canonical, folder_name, is_own
from mlr_dmcontrol.own_environment import OwnEnvironment

ODD = "odd_environments:Odd-v0"


def made(**kwargs: Any) -> OwnEnvironment:
    return OwnEnvironment("task", ODD, kwargs, spaces.Discrete)


@pytest.mark.parametrize("kwargs", [{}, {"blind": True}, {"fault": "flipped"}])
def test_pictures_are_the_observations_or_what_is_rendered(kwargs: dict[str, Any]) -> None:
    env = made(**kwargs)
    env.try_out()
    env.reset(seed=5)
    first = env.picture()
    assert (first.shape, first.dtype, env.frame_rate) == ((24, 24, 3), np.uint8, 10)
    assert env.step(-1)[:3] == (1.0, False, False)
    assert (env.picture() != first).any()
    assert [env.step(0).terminated for _ in range(LENGTH - 1)] == [False] * (LENGTH - 2) + [True]
    env.reset(seed=5)
    assert (env.picture() == first).all()
    env.close()


def test_terminated_and_truncated_stay_apart() -> None:
    env = made(fault="capped")
    env.reset(seed=0)
    assert [env.step(0)[1:3] for _ in range(9)] == [(False, False)] * 8 + [(False, True)]


@pytest.mark.parametrize(
    "layout, shown",
    [((20, 30), 2), ((20, 30, 1), 2), ((1, 20, 30), 2), ((3, 20, 30), 2), ((1, 200, 3), 1)],
)
def test_pixels_come_in_any_layout(layout: tuple[int, ...], shown: int) -> None:
    env = OwnEnvironment("task", ODD, {"space": spaces.Box(0, 255, layout, np.uint8)}, spaces.Space)
    env._look(np.zeros(layout, np.uint8))
    assert env.picture().shape == ((20, 30, 3) if shown == 2 else layout)


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"fault": "int64"}, ["int64 (24, 24, 3) in [0, 200]", "uint8 (24, 24, 3)"]),
        ({"fault": "float"}, ["float64", "at reset", "uint8"]),
        ({"fault": "none"}, ["shows None in step 5", "uint8"]),
        ({"fault": "flat"}, ["uint8 (24, 24) in", "(24, 24, 3)"]),
        ({"fault": "resized"}, ["(23, 24, 3)", "in step 1"]),
        ({"fault": "constant"}, ["the same picture"]),
        ({"fault": "dark"}, ["nothing brighter than 1"]),
        ({"fault": "array reward"}, ["reward float64 (1,)", "a number"]),
        ({"fault": "no reward"}, ["reward None in step 7", "a number"]),
        ({"fault": "four values"}, ["4 values", "terminated, truncated, info"]),
        ({"fault": "number"}, ["terminated and truncated", "True or False"]),
        ({"fault": "no info"}, ["None as info", "dictionary"]),
        ({"fault": "no seed"}, ["reset raised TypeError", "seed="]),
        ({"fault": "old reset"}, ["at reset", "(observation, info)"]),
        ({"fault": "first crash"}, ["step raised RuntimeError: never works"]),
        ({"fault": "no picture", "blind": True}, ["shows None at reset", "uint8 (H, W, 3)"]),
        ({"fault": "constructor"}, ["FileNotFoundError: no level1.wad", "environment.kwargs="]),
        ({"nonsense": 1}, ["TypeError", "nonsense", "environment.kwargs="]),
        ({"actions": [-1, 1]}, ["acts in Box", "Discrete"]),
        ({"actions": None}, ["acts in None", "Discrete"]),
        ({"space": spaces.Box(0, 255, (0, 4), np.uint8)}, ["(0, 4)", "uint8 pixels"]),
        ({"space": spaces.Dict(image=spaces.Discrete(2))}, ["Dict", "AddRenderObservation"]),
        ({"space": spaces.Box(0, 1, (24, 24, 3), np.float32)}, ["float32", "uint8"]),
        ({"space": spaces.Box(0, 255, (24, 24, 4), np.uint8)}, ["(24, 24, 4)", "1 or 3 channels"]),
    ],
)
def test_what_is_odd_is_said_in_one_line(kwargs: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        made(**kwargs).try_out()
    text = str(error.value)
    assert text.startswith(f"task={ODD}: ")
    assert "\n" not in text and "; " in text
    assert not [word for word in words if word not in text], text


@pytest.mark.parametrize("name", ["no_such_module:Odd-v0", "odd_environments:Other-v0"])
def test_what_is_not_there_is_said_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^task={name}: its constructor raised .*; "):
        OwnEnvironment("task", name, {}, spaces.Discrete)


def test_a_crash_ends_the_episode_and_the_next_one_begins_anew() -> None:
    env = made(fault="crash")
    env.try_out()  # bears it too
    for seed in (1, 2):
        env.reset(seed=seed)
        for _ in range(6):
            env.step(0)
        with pytest.raises(
            SimulatorError, match="ConnectionResetError: the server is gone.*step 7"
        ):
            env.step(0)


def test_a_frame_rate_that_is_no_number_is_unknown() -> None:
    assert np.isnan([made(fps=None).frame_rate, made(fps="fast").frame_rate]).all()


def test_own_names() -> None:
    for name in ("my_package.games:Own/Catch-v0", "CartPole-v1"):  # the latter is Gymnasium's
        assert canonical("task", name, ["walker"], ["walker"]) == name
        assert is_own(name)
    assert folder_name("my_package.games:Own/Catch-v0") == "my_package.games-Own-Catch-v0"
    for name, problem in (("a b:Catch", "not a Gymnasium id"), ("Never-v3", "no such task")):
        with pytest.raises(ConfigError, match=f"^task={name}: {problem}"):
            canonical("task", name, ["walker"], ["walker"])
