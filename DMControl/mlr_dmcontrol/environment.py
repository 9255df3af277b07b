"""Control tasks from pixels. Imports no torch: worker processes use it."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from .errors import ConfigError, SimulatorError
from .names import is_own
from .own_environment import Answer, OwnEnvironment
from .protocol import PROTOCOL, TASK_KEY, stamp
from .renderer import Renderer, choose_renderer
from .run.disk import one_line
from .run.schema import bounded
from .tasks import canonical, domain_and_task

log = logging.getLogger(__name__)

COLOURS = 3  # channels of a frame
VIDEO_SIZE = 320  # pixels, side of what `render` returns of a task of the suite
_UNLIMITED = 1e9  # the suite gives an actuator without limits the range +-1e10


@dataclass(frozen=True, kw_only=True)
class EnvironmentSettings:
    """Keys of the section `environment`."""

    image_size: int = bounded(16, 480)  # pixels; 480 is what the suite's models can render
    frame_stack: int = bounded(1, 64)  # frames in an observation
    action_repeat: int = bounded(1, 1000)  # env steps per agent step
    max_steps: int = bounded(1, default=1000)  # env steps of an episode, at most
    camera_id: int = bounded(-1)  # the model's camera; -1 is the free one
    fast_render: bool  # no shadows and no multisampling
    kwargs: dict[str, Any] = field(default_factory=dict)  # of the constructor of an own environment


class PixelControlEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A task whose observations are stacks of frames: one of the suite, or the user's own.

    Observations are uint8 (S*3, H, W): S frames of one agent step each, oldest first; a reset
    repeats the first frame. Actions are float32 (A,) in [-1, 1]. A step repeats its action
    `action_repeat` times, or fewer at the episode's end, and sums the rewards.

    Every episode has its own seed, so its start does not depend on what was played before. An
    error of the simulator, SimulatorError from `step` or `reset`, ends the episode.

    Attributes:
        obs_shape: (S*3, H, W). action_dim: A, numbers of an action.
        episode_over: whether only `reset` is possible now.
        frame_rate: agent steps in a second of simulated time.
        physics: of a task of the suite the model and its data, to be looked at only.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (an attribute of gymnasium's)
    render_mode = "rgb_array"

    def __init__(
        self,
        task: str,
        settings: EnvironmentSettings,
        episode_seed: Callable[[int], int] | None = None,
    ) -> None:
        """Load the task; a renderer is chosen now if none was.

        Args:
            task: name in any spelling that `tasks.canonical` knows.
            episode_seed: seed of the k-th episode, for `reset()` without a seed; an own environment
                that is given one, as for training, is tried out first.

        Raises:
            ConfigError: unknown task, the task has no such camera, no renderer works, or an own
                environment is not as it should be.
        """
        self.task, self.settings = canonical(task), settings
        self._episode_seed = episode_seed
        kind = OwnTask if is_own(self.task) else SuiteTask
        self.simulator = kind(self.task, settings)
        if isinstance(self.simulator, OwnTask) and episode_seed is not None:
            self.simulator.try_out()
        self.physics: Any = getattr(self.simulator, "physics", None)
        self._episode = 0  # episodes begun by a reset without a seed
        self._seed: int | None = None  # of the open episode
        self._actions: list[np.ndarray] = []  # of the open episode
        self._env_step = 0  # within the episode
        self.episode_over = True
        self.frame_rate = self.simulator.frame_rate / settings.action_repeat
        self.action_dim = len(self.simulator.low)
        side = settings.image_size
        self.obs_shape = (settings.frame_stack * COLOURS, side, side)
        self._stack: deque[np.ndarray] = deque(maxlen=settings.frame_stack)
        self.observation_space = gymnasium.spaces.Box(0, 255, self.obs_shape, np.uint8)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.action_dim,), np.float32)

    @property
    def observation(self) -> np.ndarray:
        """The latest observation, uint8 (S*3, H, W)."""
        return np.concatenate(self._stack)

    @property
    def frame(self) -> np.ndarray:
        """The newest frame of the observation, uint8 (3, H, W): what a replay stores."""
        return self._stack[-1]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode: the one of `seed`, or the next one of `episode_seed`.

        Raises:
            ValueError: neither a seed nor `episode_seed` is there. SimulatorError: see the class.
        """
        super().reset(seed=seed)
        if seed is None:
            if self._episode_seed is None:
                raise ValueError("reset needs a seed, or the environment an `episode_seed`")
            seed = self._episode_seed(self._episode)
            self._episode += 1
        self._begin(seed)
        return self.observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Repeat `action`, float32 (A,) in [-1, 1], and sum the rewards.

        Returns:
            Observation, reward, terminated (the task ended), truncated (time is up), {}.

        Raises:
            gymnasium.error.ResetNeeded: the episode is over. SimulatorError: see the class.
        """
        try:
            reward, terminated, truncated = self._advance(action)
            self._stack.append(self._frame())
        except SimulatorError:
            self._abandon()
            raise
        return self.observation, reward, terminated, truncated, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The scene for videos, uint8 (rows, columns, 3)."""
        return self.simulator.picture()

    def close(self) -> None:
        """Free the simulator."""
        self.simulator.close()

    def identity(self) -> dict[str, str]:
        """What is played, by which rules and drawn by what, for the run's records."""
        return {"task": self.task, **self.simulator.identity()}

    def state_dict(self) -> dict[str, Any]:
        """The open episode as its seed and actions, and the observation they led to."""
        return {
            "episode": self._episode,
            "seed": self._seed,
            "actions": [action.tolist() for action in self._actions],
            "observation": self.observation.tobytes() if self._stack else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Play the saved episode again up to where it was, drawing its first and its last frames.

        Returns:
            Whether the observation is the saved one, bit for bit. If not (another renderer or
            version of the simulator, an own environment that its seed does not fix), which is
            logged, the episode counts as over.
        """
        self._episode, actions = state["episode"], state["actions"]
        self._abandon()
        if state["seed"] is None:
            return True
        try:
            self._begin(state["seed"])
            for number, action in enumerate(actions):
                self._advance(np.array(action))
                if number >= len(actions) - self.settings.frame_stack:
                    self._stack.append(self._frame())
            restored = self.observation.tobytes() == state["observation"]
        except (SimulatorError, gymnasium.error.ResetNeeded):
            restored = False
        if not restored:
            log.warning("%s cannot be restored as it was saved; a new episode begins", self.task)
            self._abandon()
        return restored

    def _begin(self, seed: int) -> None:
        self._abandon()
        self.simulator.reset(seed)
        self._stack.extend([self._frame()] * self.settings.frame_stack)
        self._seed, self._env_step, self.episode_over = seed, 0, False

    def _abandon(self) -> None:
        """There is no episode any more."""
        self._seed, self.episode_over = None, True
        self._actions.clear()
        self._stack.clear()

    def _advance(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """The simulator's part of a step: reward, terminated, truncated."""
        if self.episode_over:
            raise gymnasium.error.ResetNeeded("the episode is over; call reset first")
        action = np.array(action, np.float32)
        self._actions.append(action)
        low, high = self.simulator.low, self.simulator.high
        control = low + (action.astype(np.float64) + 1) / 2 * (high - low)
        reward, terminated, truncated = 0.0, False, False
        for _ in range(self.settings.action_repeat):
            gain, terminated, truncated, _ = self.simulator.step(control)
            reward += gain
            self._env_step += 1
            time_is_up = truncated or self._env_step >= self.settings.max_steps
            truncated = time_is_up and not terminated
            if terminated or truncated:
                break
        self.episode_over = terminated or truncated
        return float(reward), terminated, truncated

    def _frame(self) -> np.ndarray:
        """The scene as the agent sees it, uint8 (3, H, W)."""
        picture = self.simulator.square(self.settings.image_size)
        return np.ascontiguousarray(picture.transpose(2, 0, 1))


class SuiteTask:
    """A task of the DeepMind Control suite.

    Attributes:
        low, high: lowest and highest control, float64 (A,).
        frame_rate: env steps in a second of simulated time.
        physics: dm_control's, the model and its data.
    """

    def __init__(self, task: str, settings: EnvironmentSettings) -> None:
        """Raises: ConfigError: the task has no such camera, or no renderer works."""
        self._task, self._camera_id = task, settings.camera_id
        self._control = _load(task)
        self.physics = self._control.physics
        cameras = self.physics.model.ncam
        if settings.camera_id >= cameras:
            raise ConfigError(
                f"environment.camera_id={settings.camera_id}: {task} has no such camera; "
                f"use 0 to {cameras - 1}, or -1"
            )
        spec = self._control.action_spec()
        unlimited = spec.maximum > _UNLIMITED
        self.low = np.where(unlimited, -1.0, spec.minimum)
        self.high = np.where(unlimited, 1.0, spec.maximum)
        if settings.fast_render:
            quality = self.physics.model.vis.quality
            quality.offsamples = quality.shadowsize = 0
        self.frame_rate = 1 / self._control.control_timestep()
        self._cameras: dict[int, Any] = {}

    def reset(self, seed: int) -> None:
        """Begin the episode of `seed`. Raises: SimulatorError."""
        self._control.task.random.seed(seed)
        with self._errors():
            self._control.reset()

    def step(self, action: np.ndarray) -> Answer:
        """One env step with float64 (A,) between `low` and `high`. Raises: SimulatorError."""
        with self._errors():
            timestep = self._control.step(action)
        terminated = bool(timestep.last() and timestep.discount == 0)
        return Answer(timestep.reward, terminated, timestep.last() and not terminated, {})

    def square(self, size: int) -> np.ndarray:
        """The scene, uint8 (size, size, 3); valid until the next call."""
        from dm_control.mujoco.engine import Camera

        if size not in self._cameras:  # to build its scene anew for each frame costs a millisecond
            camera_id = self._camera_id
            self._cameras[size] = Camera(self.physics, size, size, camera_id=camera_id)
        picture: np.ndarray = self._cameras[size].render()
        return picture

    def picture(self) -> np.ndarray:
        """The scene for videos, uint8 (VIDEO_SIZE, VIDEO_SIZE, 3)."""
        return self.square(VIDEO_SIZE).copy()

    def identity(self) -> dict[str, str]:
        """By which rules it is played, and what draws it."""
        from OpenGL import GL

        with self.physics.contexts.gl.make_current() as context:
            name = context.call(GL.glGetString, GL.GL_RENDERER).decode()
        renderer = Renderer(os.environ["MUJOCO_GL"], name)
        camera = str(self._camera_id)
        return {"protocol": stamp(self._camera_id), "camera": camera, "renderer": str(renderer)}

    def close(self) -> None:
        """Free the renderer, once; OSMesa prints a traceback at exit otherwise."""
        if self._control is not None:
            self._cameras.clear()
            self.physics.free()
            self._control = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What the simulator raises, as a SimulatorError."""
        from dm_control.rl.control import PhysicsError
        from mujoco import FatalError

        try:
            yield
        except (PhysicsError, FatalError) as error:
            raise SimulatorError(f"{TASK_KEY}={self._task}: {one_line(error)}") from error


class OwnTask(OwnEnvironment):
    """An own environment behind the interface of `SuiteTask`; its pictures are made square."""

    def __init__(self, task: str, settings: EnvironmentSettings) -> None:
        """Raises: ConfigError: as OwnEnvironment, or an action has only one limit."""
        super().__init__(TASK_KEY, task, settings.kwargs, gymnasium.spaces.Box)
        space = self.action_space
        low, high = np.isfinite(space.low), np.isfinite(space.high)
        if space.dtype.kind != "f" or (low != high).any():
            raise ConfigError(
                f"{TASK_KEY}={task}: acts in {one_line(str(space))}; actions must be real "
                "numbers, each with two limits or none"
            )
        self.low = np.where(low, space.low, -1.0).astype(np.float64).ravel()
        self.high = np.where(high, space.high, 1.0).astype(np.float64).ravel()

    def step(self, action: np.ndarray) -> Answer:
        """One env step with float64 (A,) between `low` and `high`. Raises: as OwnEnvironment."""
        space = self.action_space
        action = action.astype(space.dtype).reshape(space.shape)
        return super().step(np.clip(action, space.low, space.high))  # the last bit may be outside

    def square(self, size: int) -> np.ndarray:
        """What it shows, uint8 (size, size, 3): a longer side averaged, a shorter one repeated."""
        from PIL import Image

        picture = Image.fromarray(self.picture())
        columns, rows = picture.size
        shrunk = picture.resize((min(columns, size), min(rows, size)), Image.Resampling.BOX)
        return np.asarray(shrunk.resize((size, size), Image.Resampling.NEAREST))

    def identity(self) -> dict[str, str]:
        """By which rules it is played, and what draws it."""
        return {"protocol": PROTOCOL, "renderer": f"its own (gymnasium {gymnasium.__version__})"}


def _load(task: str) -> Any:
    """The suite's environment. dm_control binds its renderer at import, hence imported here."""
    if "MUJOCO_GL" not in os.environ:
        choose_renderer()
    from absl import logging as absl
    from dm_control import suite

    domain, name = domain_and_task(task)
    verbosity = absl.get_verbosity()
    absl.set_verbosity(absl.ERROR)  # some models are written in MuJoCo's older dialect
    try:
        # Only a first seed: every episode seeds the task's random state again.
        return suite.load(domain, name, task_kwargs={"random": 0})
    finally:
        absl.set_verbosity(verbosity)
