"""The physical state that the probe predicts, against MuJoCo's own numbers."""

from typing import Any

import numpy as np
import pytest

from mlr_dmcontrol.environment import EnvironmentSettings, PixelControlEnv
from mlr_dmcontrol.probe.world import labels


def played(task: str) -> tuple[Any, dict[str, float]]:
    """The simulator and its labels."""
    settings = EnvironmentSettings(
        image_size=16, frame_stack=1, action_repeat=2, camera_id=0, fast_render=True
    )
    env = PixelControlEnv(task, settings)
    env.reset(seed=3)
    for _ in range(5):
        env.step(np.full(env.action_dim, 0.7, np.float32))
    return env.physics, labels(env)


def test_hinges_are_sine_and_cosine() -> None:
    physics, values = played("cartpole_swingup")
    (slider, hinge), (speed, turn) = physics.data.qpos, physics.data.qvel
    expected = {"slider": slider, "hinge_1 sine": np.sin(hinge), "hinge_1 cosine": np.cos(hinge)}
    expected |= {"slider velocity": speed, "hinge_1 velocity": turn}
    assert values == pytest.approx(expected)


def test_where_the_camera_goes_too_is_left_out() -> None:
    physics, values = played("cheetah_run")
    assert "rootx" not in values
    assert values["rootz"] == physics.named.data.qpos["rootz"]
    assert values["rootx velocity"] == physics.named.data.qvel["rootx"]
    assert len(values) == 1 + 2 * 7 + physics.model.nv


def test_free_and_ball_joints_are_whole() -> None:
    physics, values = played("quadruped_walk")
    hinges = int((physics.model.jnt_type == 3).sum())
    assert len(values) == physics.model.nq + hinges + physics.model.nv
    assert np.isfinite(list(values.values())).all()
    assert "root turn z velocity" in values
