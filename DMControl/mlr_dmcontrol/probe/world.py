"""What the probe needs of DMControl: the simulator and its state, agents, their encoders."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..augmentation import center_crop, to_float
from ..environment import PixelControlEnv
from ..errors import ConfigError
from ..names import is_own
from ..sac import SAC
from ..settings import Config

PICTURE = ("image_size", "frame_stack", "fast_render")  # settings that change no state
EVERY = 1  # decisions between samples

_FREE, _BALL, _SLIDE, _HINGE = range(4)  # MuJoCo's joint types
_TRACKING = (1, 2)  # camera modes that follow a body: track, trackcom
_QUATERNION = ("w", "i", "j", "k")
_TURNS = ("turn x", "turn y", "turn z")
_PLACES = {_FREE: ("x", "y", "z", *_QUATERNION), _BALL: _QUATERNION}
_SPEEDS = {_FREE: ("x", "y", "z", *_TURNS), _BALL: _TURNS, _SLIDE: ("",), _HINGE: ("",)}

Agent = SAC
Environment = PixelControlEnv


def environment_of(cfg: Config) -> PixelControlEnv:
    """The run's simulator.

    Raises: ConfigError: an own environment, whose state is not known.
    """
    if is_own(cfg.task.name):
        raise ConfigError(
            f"task={cfg.task.name}: its state is not known; use a run of a task of the suite"
        )
    return PixelControlEnv(cfg.task.name, cfg.environment)


def seen(agent: SAC, obs: NDArray[np.uint8]) -> Tensor:
    """What an evaluation shows the encoder of observations (N, S*C, H, W); still uint8."""
    return center_crop(torch.from_numpy(obs), agent.settings.crop_size)


@torch.no_grad()
def latents(agent: SAC, images: Tensor) -> NDArray[np.float32]:
    """uint8 images as `seen` gives them -> latents (N, Z)."""
    return agent.encoder(to_float(images.to(agent.device))).cpu().numpy()


def random_action(env: PixelControlEnv, draws: np.random.Generator) -> NDArray[np.float32]:
    """Uniform."""
    return draws.uniform(-1.0, 1.0, env.action_dim).astype(np.float32)


def labels(env: PixelControlEnv) -> dict[str, float]:
    """What the newest picture shows: positions, hinges as sine and cosine; then velocities.

    Where a body is along the floor is left out if the camera follows it: no picture shows that.
    """
    physics: Any = env.physics
    model, data, camera = physics.model, physics.data, env.settings.camera_id
    follows = camera >= 0 and int(model.cam_mode[camera]) in _TRACKING
    followed = model.cam_bodyid[camera] if follows else None
    places, speeds = dict[str, float](), dict[str, float]()
    for joint, kind in enumerate(model.jnt_type):
        name = model.id2name(joint, "joint") or f"joint {joint}"
        place, speed = data.qpos[model.jnt_qposadr[joint] :], data.qvel[model.jnt_dofadr[joint] :]
        unseen = model.jnt_bodyid[joint] == followed
        if kind == _HINGE:
            places |= {f"{name} sine": np.sin(place[0]), f"{name} cosine": np.cos(place[0])}
        elif kind != _SLIDE:
            parts = zip(_PLACES[kind], place, strict=False)
            places |= {f"{name} {p}": at for p, at in parts if not (unseen and p in ("x", "y"))}
        elif not unseen or abs(model.jnt_axis[joint][2]) >= 0.5:
            places[name] = place[0]
        for part, value in zip(_SPEEDS[kind], speed, strict=False):
            speeds[f"{name} {part}".strip() + " velocity"] = value
    return places | speeds
