"""What an own environment hands out is held against what it declared, in one line."""

import logging
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from odd_environments import LENGTH

from mlr_dmcontrol.errors import ConfigError, SimulatorError
from mlr_dmcontrol.names import canonical, is_own
from mlr_dmcontrol.own_environment import OwnEnvironment
from mlr_dmcontrol.protocol import TASK_KEY

ODD = "odd_environments:Odd-v0"


class Unseeded(spaces.Discrete):
    def seed(self, seed: Any = None) -> Any:
        raise RuntimeError("no chance")


def made(name: str = ODD, **kwargs: Any) -> OwnEnvironment:
    return OwnEnvironment(name, kwargs, spaces.Discrete)


@pytest.mark.parametrize(
    "kwargs", [{"disable_env_checker": True}, {"blind": True}, {"fault": "flipped"}]
)
def test_pictures_are_the_observations_or_what_is_rendered(kwargs: dict[str, Any]) -> None:
    env = made(**kwargs)
    env.try_out()
    env.reset(seed=5)
    first = env.picture()
    assert (first.shape, first.dtype, env.frame_rate) == ((24, 24, 3), np.uint8, 10)
    assert env.step(-1) == (1.0, False, False, {})
    assert (env.picture() != first).any()
    assert [env.step(0)[1] for _ in range(LENGTH - 1)] == [False] * (LENGTH - 2) + [True]
    env.reset(seed=5)
    assert (env.picture() == first).all()
    env.close()


@pytest.mark.parametrize(
    "layout, shown",
    [
        ((20, 30), (20, 30, 3)),
        ((20, 30, 1), (20, 30, 3)),
        ((3, 20, 30), (20, 30, 3)),
        ((1, 200, 3), (1, 200, 3)),
    ],
)
def test_pixels_come_in_any_layout(layout: tuple[int, ...], shown: tuple[int, ...]) -> None:
    env = made(space=spaces.Box(0, 255, layout, np.uint8))
    env._look(np.zeros(layout, np.uint8))
    assert env.picture().shape == shown


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"fault": "float"}, ["float64 (24, 24, 3), before a first", "(24, 24, 3) from 0 to 255"]),
        ({"fault": "none"}, ["shows NoneType, in step 5"]),
        ({"fault": "resized"}, ["(23, 24, 3), in step 1"]),
        ({"fault": "constant"}, ["the same picture"]),
        ({"fault": "dark"}, ["nothing brighter than 1"]),
        ({"fault": "array reward"}, ["float64 (1,)", "a number"]),
        ({"fault": "infinite reward"}, ["a reward of inf, in step 7"]),
        ({"fault": "ragged reward"}, ["list", "a number"]),
        ({"fault": "no reward"}, ["NoneType, bool, bool, dict, in step 7", "a number"]),
        ({"fault": "four values"}, ["give (observation, a number"]),
        ({"fault": "number"}, ["float, int, bool", "True or False"]),
        ({"fault": "no info"}, ["NoneType", "a dictionary"]),
        ({"fault": "no seed"}, ["reset raised TypeError", "seed="]),
        ({"fault": "old reset"}, ["give (observation, a dictionary)"]),
        ({"fault": "exit"}, ["reset raised SystemExit: no display"]),
        ({"fault": "panic"}, ["reset raised Panic: unwrap"]),
        ({"fault": "first crash"}, ["step raised RuntimeError: never works"]),
        ({"fault": "no picture", "blind": True}, ["shows NoneType", "uint8 (H, W, 3)"]),
        ({"fault": "constructor"}, ["FileNotFoundError: no level1.wad", "environment.kwargs="]),
        ({"name": "odd_environments:Spaceless-v0"}, ["NotImplementedError: spaces", "have spaces"]),
        ({"name": "no_such_module:Odd-v0"}, ["ModuleNotFoundError", "be made"]),
        ({"actions": [-1, 1]}, ["acts in Box", "Discrete"]),
        ({"actions": Unseeded(3)}, ["seed raised RuntimeError: no chance", "at random"]),
        ({"actions": 10**9}, ["acts in Discrete(1000000000", "10,000 at most"]),
        ({"space": spaces.Dict(image=spaces.Discrete(2))}, ["Dict", "AddRenderObservation"]),
        ({"space": spaces.Box}, ["class", "show uint8 pixels"]),
        ({"space": spaces.Box(0, 1, (24, 24, 3), np.float32)}, ["float32", "uint8"]),
        ({"space": spaces.Box(0, 255, (24, 24, 4), np.uint8)}, ["(24, 24, 4)", "1 or 3 channels"]),
    ],
)
def test_what_is_odd_is_said_in_one_line(kwargs: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        made(**kwargs).try_out()
    text = str(error.value)
    assert text.startswith(f"{TASK_KEY}={kwargs.get('name', ODD)}: ")
    assert "\n" not in text and "; it must " in text
    assert not [word for word in words if word not in text], text


@pytest.mark.parametrize("rate", [None, "30", [30], 10**400])
def test_a_useless_frame_rate_is_none(rate: Any) -> None:
    assert np.isnan(made(rate=rate).frame_rate)


def test_a_crash_ends_the_episode_and_the_next_one_begins_anew() -> None:
    env = made(fault="crash")
    env.try_out()  # bears it too
    for seed in (1, 2):
        env.reset(seed=seed)
        for _ in range(6):
            env.step(0)
        with pytest.raises(SimulatorError, match="the physics exploded.*step 7"):
            env.step(0)


def test_what_it_changes_of_the_process_is_put_back() -> None:
    def process() -> tuple[object, ...]:
        heard, level = signal.getsignal(signal.SIGTERM), logging.root.manager.disable
        return Path.cwd(), heard, level, torch.get_default_dtype(), torch.is_grad_enabled()

    before, env = process(), made(fault="disturbs")
    assert process() == before
    env.try_out()
    assert process() == before


def test_own_names() -> None:
    for name in ("my_package.games:Own/Catch-v0", "CartPole-v1"):  # the latter is Gymnasium's
        assert canonical("task", name, ["walker"], ["walker"]) == name
        assert is_own(name)
    for name, problem in (("a b:Catch", "not a Gymnasium id"), ("Never-v3", "no such task")):
        with pytest.raises(ConfigError, match=f"^task={name}: {problem}"):
            canonical("task", name, ["walker"], ["walker"])
