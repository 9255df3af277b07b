"""The physical state of a suite task as numbers that a regression can predict."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FREE, _BALL, _SLIDE, _HINGE = range(4)  # MuJoCo's joint types
_TRACKING = (1, 2)  # camera modes that follow a body: track, trackcom
_AXES = ("x", "y", "z")
_QUATERNION = ("w", "i", "j", "k")


def state_names(physics: Any, camera_id: int) -> tuple[str, ...]:
    """Names of what `state` returns, (V,)."""
    return tuple(name for name, _ in _positions(physics, camera_id)) + tuple(
        f"{name} velocity" for name, _ in _velocities(physics)
    )


def state(physics: Any, camera_id: int) -> NDArray[np.float64]:
    """Positions, hinges as sine and cosine, then velocities, (V,).

    Where a body is along the floor is left out if the camera follows it: no picture shows that.

    Args: `physics`: dm_control's. `camera_id`: what the pictures are taken with.
    """
    positions = [value for _, value in _positions(physics, camera_id)]
    return np.array([*positions, *(value for _, value in _velocities(physics))])


def _positions(physics: Any, camera_id: int) -> list[tuple[str, float]]:
    model, found = physics.model, []
    followed = model.cam_bodyid[camera_id] if _follows(model, camera_id) else None
    for joint, kind, at in _joints(model, model.jnt_qposadr):
        name, value = model.id2name(joint, "joint") or f"joint {joint}", physics.data.qpos[at:]
        unseen = model.jnt_bodyid[joint] == followed
        if kind == _HINGE:
            found += [(f"{name} sine", np.sin(value[0])), (f"{name} cosine", np.cos(value[0]))]
        elif kind == _SLIDE:
            found += [] if unseen and _horizontal(model, joint) else [(name, value[0])]
        elif kind == _BALL:
            found += [(f"{name} {part}", value[i]) for i, part in enumerate(_QUATERNION)]
        else:
            parts = list(enumerate((*_AXES, *_QUATERNION)))
            found += [(f"{name} {part}", value[i]) for i, part in parts[2 if unseen else 0 :]]
    return found


def _velocities(physics: Any) -> list[tuple[str, float]]:
    model, found = physics.model, []
    turns = [f"turn {axis}" for axis in _AXES]
    parts = {_FREE: [*_AXES, *turns], _BALL: turns, _SLIDE: [""], _HINGE: [""]}
    for joint, kind, at in _joints(model, model.jnt_dofadr):
        name = model.id2name(joint, "joint") or f"joint {joint}"
        for i, part in enumerate(parts[kind]):
            found.append((f"{name} {part}".strip(), physics.data.qvel[at + i]))
    return found


def _joints(model: Any, addresses: Any) -> list[tuple[int, int, int]]:
    """Number, type, and address of each joint."""
    return [(i, int(model.jnt_type[i]), int(addresses[i])) for i in range(model.njnt)]


def _follows(model: Any, camera_id: int) -> bool:
    return camera_id >= 0 and int(model.cam_mode[camera_id]) in _TRACKING


def _horizontal(model: Any, joint: int) -> bool:
    return bool(abs(model.jnt_axis[joint][2]) < 0.5)
