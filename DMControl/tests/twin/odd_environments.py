"""A small environment of pixels with a fault to choose: `odd_environments:Odd-v0`."""

import itertools
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

LENGTH = 12  # steps of an episode
GAMES = itertools.count()  # "unfair": no two are alike

# By name, what a fault makes of the answer of a step, by its number.
FAULTS: dict[str, Callable[[list[Any], int], list[Any]]] = {
    "float": lambda a, step: [a[0] / 255, *a[1:]],
    "none": lambda a, step: [None if step == 5 else a[0], *a[1:]],
    "resized": lambda a, step: [a[0][: 24 - step], *a[1:]],
    "constant": lambda a, step: [np.full_like(a[0], 9), *a[1:]],
    "dark": lambda a, step: [a[0] // 200, *a[1:]],
    "array reward": lambda a, step: [a[0], np.ones(1), *a[2:]],
    "ragged reward": lambda a, step: [a[0], [1, [2, 3]], *a[2:]],
    "infinite reward": lambda a, step: [a[0], float("inf") if step == 7 else 1.0, *a[2:]],
    "no reward": lambda a, step: [a[0], None if step == 7 else 1.0, *a[2:]],
    "four values": lambda a, step: [*a[:3], a[4]],
    "number": lambda a, step: [*a[:2], 0, *a[3:]],
    "no info": lambda a, step: [*a[:4], None],
    "strange lives": lambda a, step: [*a[:4], {"lives": "three"}],
}


class Odd(gymnasium.Env[np.ndarray, Any]):
    """Shows where it is in an episode of 12 steps, which its seed moves; `fault` makes it odd."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        fault: str = "",
        actions: Any = 3,
        space: Any = None,
        blind: bool = False,
        render_mode: str | None = None,
        rate: Any = 10,
    ) -> None:
        """`actions`: how many, or (low, high) of three numbers; `blind`: pictures are rendered."""
        if fault == "constructor":
            raise FileNotFoundError("no level1.wad")
        if fault == "disturbs":
            _disturb()
        vector, pixels = spaces.Box(-1, 1, (4,)), spaces.Box(0, 255, (24, 24, 3), np.uint8)
        self.observation_space = space or (vector if blind else pixels)
        self.action_space: Any = actions
        if isinstance(actions, int):
            self.action_space = spaces.Discrete(actions, start=-1)
        elif isinstance(actions, (tuple, list)):
            self.action_space = spaces.Box(*actions, (1, 3))
        self.fault, self.blind, self.render_mode = fault, blind, render_mode
        self.metadata = {**self.metadata, "render_fps": rate}
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if self.fault == "exit":
            sys.exit("no display")
        if self.fault == "panic":
            raise type("Panic", (BaseException,), {})("unwrap")  # as libraries in Rust do
        if self.fault == "no seed" and seed is not None:
            raise TypeError("reset() got an unexpected keyword argument 'seed'")
        super().reset(seed=seed)
        self.count, self.offset = 0, int(self.np_random.integers(100))
        if self.fault == "unfair":
            self.offset = next(GAMES)
        observation = self._answer()[0]
        return observation if self.fault == "old reset" else (observation, {})

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.taken.append(action)
        self.count += 1
        if self.fault == "disturbs":
            _disturb()
        crashes = self.fault == "crash" or (self.fault == "some crash" and self.offset % 2)
        if crashes and self.count == 7:
            raise RuntimeError("the physics exploded")
        if self.fault == "first crash":
            raise RuntimeError("never works")
        return tuple(self._answer())

    def render(self) -> Any:
        return None if self.fault == "no picture" else self._picture()

    def _answer(self) -> list[Any]:
        observation = np.zeros(4, np.float32) if self.blind else self._picture()
        capped = self.fault == "capped" and self.count == 9
        answer = [observation, 1.0, self.count == LENGTH, capped, {}]
        return FAULTS[self.fault](answer, self.count) if self.fault in FAULTS else answer

    def _picture(self) -> np.ndarray:
        picture = np.zeros((24, 24, 3), np.uint8)
        picture.reshape(-1)[(self.offset + self.count * 37) % picture.size :: 5] = 200
        return picture[::-1] if self.fault == "flipped" else picture


def _disturb() -> None:
    """Change the whole process, as simulators do that were written to be alone in theirs."""
    os.chdir("/")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)


def _abstract(env: object) -> None:
    raise NotImplementedError("spaces")


spaceless = type("Spaceless", (gymnasium.Env,), {"observation_space": property(_abstract)})
gymnasium.register("Odd-v0", Odd)
gymnasium.register("Spaceless-v0", spaceless)
