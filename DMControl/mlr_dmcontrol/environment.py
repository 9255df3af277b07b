"""Tasks of the DeepMind Control suite from pixels. Imports no torch: worker processes use it."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from .errors import ConfigError
from .protocol import PROTOCOL
from .renderer import Renderer, choose_renderer
from .run.schema import bounded
from .tasks import canonical, domain_and_task

log = logging.getLogger(__name__)

EPISODE_LENGTH = 1000  # env steps; the suite's own limit, and ours for its tasks that have none
COLOURS = 3  # channels of a frame
VIDEO_SIZE = 320  # pixels, side of what `render` returns
_UNLIMITED = 1e9  # the suite gives an actuator without limits the range +-1e10


@dataclass(frozen=True, kw_only=True)
class EnvironmentSettings:
    """Keys of the section `environment`."""

    image_size: int = bounded(16, 480)  # pixels; 480 is what the suite's models can render
    frame_stack: int = bounded(1, 64)  # frames in an observation
    action_repeat: int = bounded(1, EPISODE_LENGTH)  # env steps per agent step
    camera_id: int = bounded(-1)  # the model's camera; -1 is the free one
    fast_render: bool  # no shadows and no multisampling


class PixelControlEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A suite task whose observations are stacks of rendered frames.

    Observations are uint8 (S*3, H, W): S frames of one agent step each, oldest first; a reset
    repeats the first frame. Actions are float32 (A,) in [-1, 1]. A step repeats its action
    `action_repeat` times, or fewer at the episode's end, and sums the rewards.

    Every episode has its own seed, so its start does not depend on what was played before.

    Attributes:
        obs_shape: (S*3, H, W). action_dim: A, numbers of an action.
        episode_over: whether only `reset` is possible now.
        frame_rate: agent steps in a second of simulated time.
        physics: the simulator's own model and data, to be looked at only.
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
            episode_seed: seed of the k-th episode, for `reset()` without a seed.

        Raises:
            ConfigError: unknown task, the task has no such camera, or no renderer works.
        """
        self.task, self.settings = canonical(task), settings
        self._episode_seed = episode_seed
        self._control = _load(self.task)
        self.physics = self._control.physics
        cameras = self.physics.model.ncam
        if settings.camera_id >= cameras:
            raise ConfigError(
                f"environment.camera_id={settings.camera_id}: {self.task} has no such camera; "
                f"use 0 to {cameras - 1}, or -1"
            )
        self._low, self._high = _action_range(self._control.action_spec())
        if settings.fast_render:
            quality = self.physics.model.vis.quality
            quality.offsamples = quality.shadowsize = 0
        self._cameras: dict[int, Any] = {}
        self._episode = 0  # episodes begun by a reset without a seed
        self._seed: int | None = None  # of the open episode
        self._actions: list[np.ndarray] = []  # of the open episode
        self._env_step = 0  # within the episode
        self.episode_over = True
        self.frame_rate = 1 / (self._control.control_timestep() * settings.action_repeat)
        self.action_dim = len(self._low)
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
            ValueError: neither a seed nor `episode_seed` is there.
        """
        super().reset(seed=seed)
        if seed is None:
            if self._episode_seed is None:
                raise ValueError("reset needs a seed, or the environment an `episode_seed`")
            seed = self._episode_seed(self._episode)
            self._episode += 1
        self._begin(seed)
        self._stack.extend([self._frame()] * self.settings.frame_stack)
        return self.observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Repeat `action`, float32 (A,) in [-1, 1], and sum the rewards.

        Returns:
            Observation, reward, terminated (the task ended), truncated (time is up), {}.

        Raises:
            gymnasium.error.ResetNeeded: the episode is over.
        """
        reward, terminated, truncated = self._advance(action)
        self._stack.append(self._frame())
        return self.observation, reward, terminated, truncated, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The scene as a larger picture for videos, uint8 (VIDEO_SIZE, VIDEO_SIZE, 3)."""
        return self._picture(VIDEO_SIZE).copy()

    def close(self) -> None:
        """Free the renderer; OSMesa prints a traceback at exit otherwise."""
        if self._control is not None:
            self._cameras.clear()
            self.physics.free()
            self._control = None

    def identity(self) -> dict[str, str]:
        """What is played, by which rules and drawn by what, for the run's records."""
        from OpenGL import GL

        with self.physics.contexts.gl.make_current() as context:
            name = context.call(GL.glGetString, GL.GL_RENDERER).decode()
        renderer = Renderer(os.environ["MUJOCO_GL"], name)
        return {"task": self.task, "protocol": PROTOCOL, "renderer": str(renderer)}

    def state_dict(self) -> dict[str, Any]:
        """The open episode as its seed and actions, and the observation they led to."""
        return {
            "episode": self._episode,
            "seed": self._seed,
            "actions": [action.tolist() for action in self._actions],
            "observation": self.observation.tobytes() if self._stack else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Play the saved episode again up to where it was; nothing is drawn but its last frames.

        Returns:
            Whether the observation is the saved one, bit for bit. If not (another renderer or
            version of the simulator), which is logged, the episode counts as over.
        """
        self._episode = state["episode"]
        if state["seed"] is None:
            return True
        self._begin(state["seed"])
        actions, depth = state["actions"], self.settings.frame_stack
        if len(actions) < depth:
            self._stack.extend([self._frame()] * depth)
        for number, action in enumerate(actions):
            self._advance(action)
            if number >= len(actions) - depth:
                self._stack.append(self._frame())
        restored = self.observation.tobytes() == state["observation"]
        if not restored:
            log.warning("%s cannot be restored as it was saved; a new episode begins", self.task)
            self.episode_over = True
        return restored

    def _begin(self, seed: int) -> None:
        self._control.task.random.seed(seed)
        self._control.reset()
        self._seed, self._env_step, self.episode_over = seed, 0, False
        self._actions.clear()
        self._stack.clear()

    def _advance(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """The simulator's part of a step: reward, terminated, truncated."""
        if self.episode_over:
            raise gymnasium.error.ResetNeeded("the episode is over; call reset first")
        action = np.array(action, np.float32)
        self._actions.append(action)
        control = self._low + (action.astype(np.float64) + 1) / 2 * (self._high - self._low)
        reward, terminated, truncated = 0.0, False, False
        for _ in range(self.settings.action_repeat):
            timestep = self._control.step(control)
            reward += timestep.reward
            self._env_step += 1
            terminated = timestep.last() and timestep.discount == 0
            truncated = not terminated and (timestep.last() or self._env_step == EPISODE_LENGTH)
            if terminated or truncated:
                break
        self.episode_over = terminated or truncated
        return float(reward), terminated, truncated

    def _frame(self) -> np.ndarray:
        """The scene as the agent sees it, uint8 (3, H, W)."""
        return np.ascontiguousarray(self._picture(self.settings.image_size).transpose(2, 0, 1))

    def _picture(self, size: int) -> np.ndarray:
        """The scene, uint8 (size, size, 3); valid until the next call."""
        if size not in self._cameras:
            self._cameras[size] = _camera(self.physics, size, self.settings.camera_id)
        picture: np.ndarray = self._cameras[size].render()
        return picture


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


def _action_range(spec: Any) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest control, float64 (A,); [-1, 1] for actuators without limits."""
    unlimited = spec.maximum > _UNLIMITED
    return np.where(unlimited, -1.0, spec.minimum), np.where(unlimited, 1.0, spec.maximum)


def _camera(physics: Any, size: int, camera_id: int) -> Any:
    """A camera that is kept: building its scene anew for each frame costs a millisecond."""
    from dm_control.mujoco.engine import Camera

    return Camera(physics, height=size, width=size, camera_id=camera_id)
