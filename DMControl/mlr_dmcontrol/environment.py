"""Control tasks from pixels. Imports no torch: worker processes use it."""

import logging
import os
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
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
from .tasks import SUITE_TASKS, canonical

log = logging.getLogger(__name__)

COLOURS = 3  # channels of a frame
VIDEO_SIZE = 320  # pixels, side of what `render` returns of a task of the suite
_UNLIMITED = 1e9  # beyond it a limit is none: the suite writes +-1e10, others the largest float


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
    """A task of the suite, or the user's own, whose observations are stacks of frames.

    Observations are uint8 (S*3, H, W): S frames of one agent step each, oldest first; a reset
    repeats the first frame. Actions are float32 (A,) in [-1, 1]. Every episode has its own seed and
    does not depend on what was played before. An error of the simulator, SimulatorError from `step`
    or `reset`, ends the episode.

    Attributes:
        obs_shape: (S*3, H, W). action_dim: A. episode_over: whether only `reset` is possible now.
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
        """Load the task; an own one that is given `episode_seed`, as for training, is tried out.

        Args: `episode_seed`: seed of the k-th episode, for `reset()` without a seed.
        Raises: ConfigError: unknown task or camera, no renderer, an own environment that is odd.
        """
        self.task, self.settings = canonical(task), settings
        self._episode_seed = episode_seed
        self.simulator = (OwnTask if is_own(self.task) else SuiteTask)(self.task, settings)
        if isinstance(self.simulator, OwnTask) and episode_seed:
            self.simulator.try_out()
        self.physics: Any = getattr(self.simulator, "physics", None)
        self._episode = 0  # episodes begun by a reset without a seed
        self._seed: int | None = None  # of the open episode, as are:
        self._actions: list[np.ndarray] = []
        self._env_step = 0
        self._stack: deque[np.ndarray] = deque(maxlen=settings.frame_stack)
        self.episode_over = True
        self.frame_rate = self.simulator.frame_rate / settings.action_repeat
        self.action_dim = len(self.simulator.low)
        side = settings.image_size
        self.obs_shape = (settings.frame_stack * COLOURS, side, side)
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
        """Begin the episode of `seed`, or the next one of `episode_seed` (ValueError: neither)."""
        super().reset(seed=seed)
        if seed is None:
            if self._episode_seed is None:
                raise ValueError("reset needs a seed, or the environment an `episode_seed`")
            seed = self._episode_seed(self._episode)
            self._episode += 1
        self._begin(seed)
        return self.observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play `action` for `action_repeat` env steps, or up to the end, and sum the rewards.

        Returns: observation, reward, terminated (the task ended), truncated (time is up), {}.
        Raises: gymnasium.error.ResetNeeded: the episode is over. SimulatorError: see the class.
        """
        reward, terminated, truncated = self._advance(action)
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

        Returns: whether the observation is the saved one, bit for bit. If not (another renderer, an
        own environment that its seed does not fix), which is logged, the episode counts as over.
        """
        self._episode, actions = state["episode"], state["actions"]
        self._abandon()
        if state["seed"] is None:
            return True
        restored = False
        with suppress(SimulatorError, gymnasium.error.ResetNeeded):
            self._begin(state["seed"])
            for left, action in zip(range(len(actions), 0, -1), actions, strict=True):
                self._advance(np.array(action), draw=left <= self.settings.frame_stack)
            restored = self.observation.tobytes() == state["observation"]
        if not restored:
            log.warning("%s cannot be restored as it was saved; a new episode begins", self.task)
            self._abandon()
        return restored

    def _begin(self, seed: int) -> None:
        self._abandon()
        self.simulator.reset(seed)
        frame = self.simulator.frame(self.settings.image_size)
        self._stack.extend([frame] * self.settings.frame_stack)
        self._seed, self._env_step, self.episode_over = seed, 0, False

    def _abandon(self) -> None:
        """There is no episode any more."""
        self._seed, self.episode_over = None, True
        self._actions.clear()
        self._stack.clear()

    def _advance(self, action: np.ndarray, draw: bool = True) -> tuple[float, bool, bool]:
        """A step: reward, terminated, truncated."""
        if self.episode_over:
            raise gymnasium.error.ResetNeeded("the episode is over; call reset first")
        action = np.array(action, np.float32)
        self._actions.append(action)
        low, high = self.simulator.low, self.simulator.high
        control = low + (action.astype(np.float64) + 1) / 2 * (high - low)
        total = 0.0
        try:
            for _ in range(self.settings.action_repeat):
                reward, terminated, truncated, _ = self.simulator.step(control)
                total += reward
                self._env_step += 1
                truncated = truncated or self._env_step >= self.settings.max_steps
                if terminated or truncated:
                    self.episode_over = True
                    break
            if draw:
                self._stack.append(self.simulator.frame(self.settings.image_size))
        except SimulatorError:
            self._abandon()
            raise
        return float(total), terminated, truncated and not terminated


class SuiteTask:
    """A task of the DeepMind Control suite; controls are float64 (A,) in [low, high]."""

    def __init__(self, task: str, settings: EnvironmentSettings) -> None:
        if settings.kwargs:
            raise ConfigError(f"environment.kwargs={settings.kwargs}: {task} takes none; leave out")
        if not os.environ.get("MUJOCO_GL"):
            choose_renderer()
        from absl import logging as absl  # here: dm_control binds its renderer at import
        from dm_control import suite

        absl.set_verbosity(absl.ERROR)  # some models are written in MuJoCo's older dialect
        self._task, self._camera_id = task, settings.camera_id
        # Only a first seed: every episode seeds the task's random state again.
        self._control: Any = suite.load(*SUITE_TASKS[task], task_kwargs={"random": 0})
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
        """Begin the episode of `seed`."""
        self._control.task.random.seed(seed)
        self._ask(self._control.reset)

    def step(self, action: np.ndarray) -> Answer:
        """One env step with a control."""
        timestep = self._ask(self._control.step, action)
        terminated = bool(timestep.last() and timestep.discount == 0)
        return timestep.reward, terminated, timestep.last() and not terminated, {}

    def frame(self, size: int) -> np.ndarray:
        """The scene, uint8 (3, size, size)."""
        from dm_control.mujoco.engine import Camera

        if size not in self._cameras:  # to build its scene anew for each frame costs a millisecond
            self._cameras[size] = Camera(self.physics, size, size, camera_id=self._camera_id)
        return np.ascontiguousarray(self._cameras[size].render().transpose(2, 0, 1))

    def picture(self) -> np.ndarray:
        """The scene for videos, uint8 (VIDEO_SIZE, VIDEO_SIZE, 3)."""
        return self.frame(VIDEO_SIZE).transpose(1, 2, 0)

    def identity(self) -> dict[str, str]:
        """The rules it is played by, and what draws it."""
        from OpenGL import GL

        with self.physics.contexts.gl.make_current() as context:
            name = context.call(GL.glGetString, GL.GL_RENDERER).decode()
        renderer, camera = Renderer(os.environ["MUJOCO_GL"], name), self._camera_id
        return {"protocol": stamp(camera), "camera": str(camera), "renderer": str(renderer)}

    def close(self) -> None:
        """Free the renderer, once; OSMesa prints a traceback at exit otherwise."""
        if self._control is not None:
            self._cameras.clear()
            self.physics.free()
            self._control = None

    def _ask(self, ask: Callable[..., Any], *args: Any) -> Any:
        from dm_control.rl.control import PhysicsError
        from mujoco import FatalError

        try:
            return ask(*args)
        except (PhysicsError, FatalError) as error:
            raise SimulatorError(f"{TASK_KEY}={self._task}: {one_line(error)}") from error


class OwnTask(OwnEnvironment):
    """An own environment behind the interface of `SuiteTask`; its pictures are made square."""

    def __init__(self, task: str, settings: EnvironmentSettings) -> None:
        super().__init__(task, settings.kwargs, gymnasium.spaces.Box)
        space = self.action_space
        low, high = space.low >= -_UNLIMITED, space.high <= _UNLIMITED
        if space.dtype.kind != "f" or not low.size or (low != high).any():
            must = "have actions of real numbers, each with two limits or none"
            raise self.fault(f"acts in {one_line(str(space))}", must)
        self.low = np.where(low, space.low, -1.0).astype(np.float64).ravel()
        self.high = np.where(high, space.high, 1.0).astype(np.float64).ravel()

    def step(self, action: np.ndarray) -> Answer:
        """One env step with a control."""
        space = self.action_space
        action = action.astype(space.dtype).reshape(space.shape)
        return super().step(np.clip(action, space.low, space.high))  # the last bit may be outside

    def frame(self, size: int) -> np.ndarray:
        """What it shows, uint8 (3, size, size): a longer side averaged, a shorter one repeated."""
        from PIL import Image

        picture = Image.fromarray(self.picture())
        columns, rows = picture.size
        shrunk = picture.resize((min(columns, size), min(rows, size)), Image.Resampling.BOX)
        square = np.asarray(shrunk.resize((size, size), Image.Resampling.NEAREST))
        return np.ascontiguousarray(square.transpose(2, 0, 1))

    def identity(self) -> dict[str, str]:
        """The rules it is played by, and what draws it."""
        return {"protocol": PROTOCOL, "renderer": f"its own (gymnasium {gymnasium.__version__})"}
