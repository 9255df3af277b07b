"""An environment of the user's own: any of Gymnasium's that shows pixels.

What it answers is held against what it declared: in every step as far as that costs nothing, and
before a run by a trial with random actions. A wrong picture that nobody notices is the worst fault.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from .errors import ConfigError, SimulatorError
from .run.disk import one_line

_LEAST_STEPS, _MOST_STEPS = 10, 200  # of a trial, which ends once it has seen enough
_NUMBERS = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a step brought, beside the picture."""

    reward: float
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]


class OwnEnvironment:
    """A Gymnasium environment that is taken at its word only after a look.

    It shows its observations where these are pixels, and where they are numbers what it renders.
    Faults up to its first step, and answers of a wrong form at any time, are wrong input:
    ConfigError. What it raises later is a SimulatorError, after which `reset` makes it anew.

    Attributes:
        action_space: of the kind that was asked for.
        frame_rate: its steps in a second of a film; NaN if it does not say.
    """

    def __init__(
        self, key: str, name: str, kwargs: Mapping[str, Any], actions: type[gymnasium.Space[Any]]
    ) -> None:
        """Make the environment `name`; `package.module:Name-v0` imports `package.module` first.

        Args:
            key: of the configuration that holds the name.
            kwargs: arguments of its constructor.
            actions: what its action space must be.

        Raises:
            ConfigError: it cannot be made, or acts or shows otherwise.
        """
        self._title, self._name, self._kwargs = f"{key}={name}", name, dict(kwargs)
        self._played = self._broken = False
        self._step = 0  # within the episode
        self._picture = np.zeros((1, 1, 3), np.uint8)
        self._env: Any = self._made()
        space: Any = getattr(self._env, "observation_space", None)
        box = isinstance(space, spaces.Box)
        self._renders = not (box and space.dtype == np.uint8 and _is_pixels(space.shape))
        if self._renders and not isinstance(space, _NUMBERS) and not (box and len(space.shape) < 2):
            raise ConfigError(
                f"{self._title}: shows {one_line(str(space))}; observations must be uint8 pixels "
                "(H, W), (H, W, C) or (C, H, W) with 1 or 3 channels, or numbers beside a render() "
                "(gymnasium.wrappers.AddRenderObservation makes pixels of any)"
            )
        self._shape = None if self._renders else space.shape  # of a picture as it comes
        if self._renders and "render_mode" not in kwargs:
            self.close()
            self._kwargs["render_mode"] = "rgb_array"
            self._env = self._made()
        self.action_space: Any = getattr(self._env, "action_space", None)
        if not isinstance(self.action_space, actions):
            acts = f"acts in {one_line(str(self.action_space))}; actions must be {actions.__name__}"
            raise ConfigError(f"{self._title}: {acts}")
        rate = self._env.metadata.get("render_fps")
        self.frame_rate = float(rate) if isinstance(rate, Real) else np.nan

    def reset(self, seed: int) -> Mapping[str, Any]:
        """Begin the episode of `seed`; its info. Raises: as the class says."""
        if self._broken:
            self.close()
            self._env = self._made()
        self._step, self._broken = 0, False
        must = "take seed=<number> and give (observation, info)"
        (info,) = self._seen(
            ("observation", "info"), self._ask("reset", must, lambda: self._env.reset(seed=seed))
        )
        return info  # type: ignore[no-any-return]

    def step(self, action: Any) -> Answer:
        """Play one step of its own. Raises: as the class says."""
        self._step += 1
        answer = self._ask("step", "take an action", lambda: self._env.step(action))
        reward, *ends, info = self._seen(("observation", *Answer._fields), answer)
        number = np.asarray(reward)
        if number.shape != () or number.dtype.kind not in "buif":
            raise self.fault(f"gives the reward {_described(reward)}", "a number")
        if not all(isinstance(end, bool | np.bool_) for end in ends):
            raise self.fault(f"gives {ends} as terminated and truncated", "True or False each")
        self._played = True
        return Answer(float(number), bool(ends[0]), bool(ends[1]), info)

    def picture(self) -> np.ndarray:
        """What it shows now, uint8 (H, W, 3), always of one size. Raises: as the class says."""
        if self._renders:
            must = "draw, once made with render_mode=rgb_array"
            self._look(self._ask("render", must, lambda: self._env.render()))
        picture = self._picture if self._picture.ndim == 3 else self._picture[..., None]
        if picture.shape[2] not in (1, 3):
            picture = picture.transpose(1, 2, 0)
        return np.array(np.broadcast_to(picture, (*picture.shape[:2], 3)))

    def try_out(self) -> None:
        """Play random actions for some steps, to find what is wrong before a run begins.

        Raises:
            ConfigError: an answer of a wrong form, or pictures that never change or are black.
        """
        self.reset(0)
        self.action_space.seed(0)
        first, over, changed, brightest = self.picture(), False, False, 0
        with suppress(SimulatorError):  # a run bears those
            for step in range(_MOST_STEPS):
                if over:
                    self.reset(step)
                answer = self.step(self.action_space.sample())
                over = answer.terminated or answer.truncated
                picture = self.picture()
                changed = changed or not np.array_equal(picture, first)
                brightest = max(brightest, int(picture.max()))
                if step >= _LEAST_STEPS and changed and brightest > 1:
                    return
            shows = f"nothing brighter than {brightest}" if changed else "the same picture"
            must = "it must show what happens, in pixels up to 255"
            raise ConfigError(f"{self._title}: shows {shows} in {_MOST_STEPS} random steps; {must}")

    def close(self) -> None:
        """Close it; that it cannot even be closed ends nothing."""
        try:
            self._env.close()
        except Exception as error:  # noqa: BLE001 (the user's code may raise anything)
            log.warning("%s: its close raised %s", self._title, one_line(repr(error)))

    def fault(self, what: str, must: str) -> ConfigError:
        """An answer of a wrong form as an error: what it `must` be instead."""
        when = f"in step {self._step} of an episode" if self._step else "at reset"
        return ConfigError(f"{self._title}: {what} {when}; it must be {must}")

    def _made(self) -> Any:
        make: Any = partial(gymnasium.make, self._name, disable_env_checker=True)
        must = f"be made with environment.kwargs={self._kwargs}"
        return self._ask("constructor", must, lambda: make(**self._kwargs))

    def _ask(self, what: str, must: str, ask: Callable[[], Any]) -> Any:
        """What the user's code answers; what it raises becomes an error as the class says."""
        try:
            return ask()
        except Exception as error:
            text = f"{self._title}: its {what} raised {type(error).__name__}: {one_line(error)}"
            if not self._played:
                raise ConfigError(f"{text}; it must {must}") from error
            self._broken = True
            step = f"in step {self._step} of an episode; the next one begins it anew"
            raise SimulatorError(f"{text}, {step}") from error

    def _seen(self, form: tuple[str, ...], answer: Any) -> tuple[Any, ...]:
        """The answer, if it has that form, but for the observation, which is looked at."""
        if not isinstance(answer, tuple) or len(answer) != len(form):
            gives = f"{len(answer)} values" if isinstance(answer, tuple) else _described(answer)
            raise self.fault(f"gives {gives}", f"({', '.join(form)}), as since Gymnasium 0.26")
        observation, *others = answer
        if not isinstance(others[-1], Mapping):
            raise self.fault(f"gives {_described(others[-1])} as info", "a dictionary")
        if not self._renders:
            self._look(observation)
        return tuple(others)

    def _look(self, picture: Any) -> None:
        """Keep the picture, if it is one, of the declared shape or of the first drawn one's."""
        pixels = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.size
        if pixels and self._shape is None and picture.ndim == 3 and picture.shape[2] == 3:
            self._shape = picture.shape
        if not pixels or picture.shape != self._shape:
            wanted = self._shape or "(H, W, 3)"
            raise self.fault(f"shows {_described(picture)}", f"uint8 {wanted}, as declared")
        self._picture = picture


def _is_pixels(shape: tuple[int, ...]) -> bool:
    coloured = len(shape) == 3 and not {shape[0], shape[2]}.isdisjoint({1, 3})
    return all(shape) and (coloured or len(shape) == 2)


def _described(value: Any) -> str:
    """A value by its kind, and an array by its type, shape and range."""
    if not isinstance(value, np.ndarray):
        return "None" if value is None else f"a {type(value).__name__}"
    known = value.size and value.dtype.kind in "buif"
    return f"{value.dtype} {value.shape}" + (f" in [{value.min()}, {value.max()}]" if known else "")
