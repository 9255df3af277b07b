"""An environment of the user's own, any of Gymnasium's that shows pixels: held to what it declared.

A wrong picture that nobody notices is the worst fault.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from numbers import Real
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from .errors import ConfigError, RunError, SimulatorError
from .protocol import TASK_KEY
from .run.disk import one_line
from .run.process import undisturbed

_MOST_ACTIONS = 10_000  # or numbers of one; an output of the network is computed for each
_LEAST_STEPS, _MOST_STEPS = 10, 200  # of a trial, which ends once it has seen enough


# Reward, terminated, truncated, info: what a step brought, beside the picture.
Answer = tuple[float, bool, bool, Mapping[str, Any]]


class OwnEnvironment:
    """A Gymnasium environment that is taken at its word only after a look.

    It shows its observations where these are pixels, and where they are numbers what it renders.
    Faults up to its first step, and answers of a wrong form at any time, are wrong input:
    ConfigError. What it raises later is a SimulatorError, after which `reset` makes it anew.
    `frame_rate`: its steps in a second of a film; NaN if it does not say.
    """

    def __init__(
        self, name: str, kwargs: Mapping[str, Any], actions: type[gymnasium.Space[Any]]
    ) -> None:
        """Make `name`, of which `package.module:Name-v0` imports `package.module` first.

        Args: `kwargs`: of its constructor. `actions`: what its action space must be.
        """
        self._name, self._kwargs = name, dict(kwargs)
        self._played = self._broken = False
        self._step = 0  # within the episode
        self._env = self._made()
        space: Any = self._ask("have spaces", getattr, self._env, "observation_space", None)
        box = isinstance(space, spaces.Box)
        sides: Any = space.shape if box else ()
        coloured = len(sides) == 3 and not {1, 3}.isdisjoint((sides[0], sides[2]))
        pixels = box and space.dtype == np.uint8 and all(sides) and (coloured or len(sides) == 2)
        numbers = spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary
        if not (pixels or isinstance(space, numbers) or (box and len(sides) < 2)):
            raise self.fault(
                f"shows {one_line(str(space))}",
                "show uint8 pixels (H, W), (H, W, C) or (C, H, W) with 1 or 3 channels, or numbers "
                "beside a render() (gymnasium.wrappers.AddRenderObservation makes pixels of any)",
            )
        self._shape = sides if pixels else None  # of a picture as it comes
        self._renders = not pixels
        if self._renders and "render_mode" not in kwargs:
            self.close()
            self._kwargs["render_mode"] = "rgb_array"
            self._env = self._made()
        space = self._ask("have spaces", getattr, self._env, "action_space", None)
        self.action_space: Any = space
        if not (isinstance(space, actions) and spaces.flatdim(space) <= _MOST_ACTIONS):
            must = f"have actions of a {actions.__name__}, of size {_MOST_ACTIONS:,} at most"
            raise self.fault(f"acts in {one_line(str(space))}", must)
        rate = (self._ask("have metadata", getattr, self._env, "metadata") or {}).get("render_fps")
        self.frame_rate = np.nan
        if isinstance(rate, Real):
            with suppress(OverflowError):
                self.frame_rate = float(rate)

    def reset(self, seed: int) -> Mapping[str, Any]:
        """Begin the episode of `seed`; its info."""
        if self._broken:
            self.close()
            self._env = self._made()
        self._step, self._broken = 0, False
        answer = self._ask("take seed=<number>", self._env.reset, seed=seed)
        match answer:
            case [observation, Mapping() as info]:
                if not self._renders:
                    self._look(observation)
                return info
        raise self.fault(f"gives {_described(answer)}", "give (observation, a dictionary)")

    def step(self, action: Any) -> Answer:
        """Play one step of its own."""
        self._step += 1
        answer = self._ask("take an action", self._env.step, action)
        match answer:
            case [
                observation,
                reward,
                bool() | np.bool_() as terminated,
                bool() | np.bool_() as truncated,
                Mapping() as info,
            ] if (
                isinstance(reward, int | float | np.generic | np.ndarray)
                and np.ndim(reward) == 0
                and np.asarray(reward).dtype.kind in "buif"
            ):
                if not self._renders:
                    self._look(observation)
                self._played = True
                return float(reward), bool(terminated), bool(truncated), info
        must = "give (observation, a number, True or False, True or False, a dictionary)"
        raise self.fault(f"gives {_described(answer)}", must)

    def picture(self) -> np.ndarray:
        """What it shows now, uint8 (H, W, 3), always of one size."""
        if self._renders:
            self._look(self._ask("draw, made with render_mode=rgb_array", self._env.render))
        picture = np.atleast_3d(self._picture)
        if picture.shape[2] not in (1, 3):
            picture = picture.transpose(1, 2, 0)
        return np.array(np.broadcast_to(picture, (*picture.shape[:2], 3)))

    def try_out(self) -> None:
        """Play some random steps: ConfigError also for a picture that stays or is black."""
        self.reset(0)
        must = "have actions that can be drawn at random"
        self._ask(must, self.action_space.seed, 0)
        darkest = brightest = self.picture()
        over = False
        with suppress(SimulatorError):  # a run bears those
            for step in range(_MOST_STEPS):
                if over:
                    self.reset(step)
                action = self._ask(must, self.action_space.sample)
                reward, terminated, truncated, _ = self.step(action)
                if not np.isfinite(reward):
                    raise self.fault(f"gives a reward of {reward}", "give finite ones")
                over, picture = terminated or truncated, self.picture()
                darkest, brightest = np.minimum(darkest, picture), np.maximum(brightest, picture)
                changed = (darkest != brightest).any()
                if step >= _LEAST_STEPS and changed and brightest.max() > 1:
                    return
            shows = f"nothing brighter than {brightest.max()}" if changed else "the same picture"
            must = "show what happens, in pixels up to 255"
            raise self.fault(f"shows {shows} in {_MOST_STEPS} random steps", must)

    def close(self) -> None:
        """Close it; that it cannot even be closed ends nothing."""
        with suppress(RunError):
            self._ask("be closed", self._env.close)

    def fault(self, what: str, must: str, kind: type[RunError] = ConfigError) -> RunError:
        """What is wrong and when, and what it `must` do instead."""
        when = f"in step {self._step} of an episode" if self._step else "before a first step"
        return kind(f"{TASK_KEY}={self._name}: {what}, {when}; it must {must}")

    def _made(self) -> Any:
        must = f"be made with environment.kwargs={self._kwargs}"
        kwargs = {"disable_env_checker": True} | self._kwargs
        return self._ask(must, gymnasium.make, self._name, **kwargs)

    def _ask(self, must: str, ask: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """What the user's code answers; what it raises becomes an error as the class says."""
        try:
            with undisturbed():
                return ask(*args, **kwargs)
        except KeyboardInterrupt:  # is the user's
            raise
        except BaseException as error:  # such as SystemExit, or a panic in Rust
            self._broken = self._played
            what = f"its {ask.__name__} raised {type(error).__name__}: {one_line(error)}"
            kind = SimulatorError if self._played else ConfigError
            raise self.fault(what, must, kind) from error

    def _look(self, picture: Any) -> None:
        """Keep the picture, if it is one, of the declared shape or of the first drawn one's."""
        pixels = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.size
        if pixels and self._shape is None and picture.ndim == 3 and picture.shape[2] == 3:
            self._shape = picture.shape
        if not pixels or picture.shape != self._shape:
            must = f"show uint8 {self._shape or '(H, W, 3)'} from 0 to 255, as declared"
            raise self.fault(f"shows {_described(picture)}", must)
        self._picture: np.ndarray = picture


def _described(value: Any) -> str:
    """Its type, of an array its dtype and shape; of a tuple those of its parts."""
    if isinstance(value, tuple):
        return ", ".join(map(_described, value))
    return f"{getattr(value, 'dtype', type(value).__name__)} {getattr(value, 'shape', '')}".strip()
