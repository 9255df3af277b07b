"""The physical state that the probe predicts, against MuJoCo's own numbers."""

from __future__ import annotations

import numpy as np
import pytest

from mlr_dmcontrol.environment import EnvironmentSettings, PixelControlEnv
from mlr_dmcontrol.probe.world import state


def played(task: str) -> tuple[PixelControlEnv, dict[str, float]]:
    settings = EnvironmentSettings(
        image_size=16, frame_stack=1, action_repeat=2, camera_id=0, fast_render=True
    )
    env = PixelControlEnv(task, settings)
    env.reset(seed=3)
    for _ in range(5):
        env.step(np.full(env.action_dim, 0.7, np.float32))
    return env, state(env.physics, 0)


def test_hinges_are_sine_and_cosine() -> None:
    env, values = played("cartpole_swingup")
    (slider, hinge), velocity = env.physics.data.qpos, env.physics.data.qvel
    assert values == {
        "slider": slider,
        "hinge_1 sine": pytest.approx(np.sin(hinge)),
        "hinge_1 cosine": pytest.approx(np.cos(hinge)),
        "slider velocity": velocity[0],
        "hinge_1 velocity": velocity[1],
    }
    env.close()


@pytest.mark.parametrize(("task", "hinges"), [("cheetah_run", 7), ("walker_walk", 7)])
def test_where_the_camera_goes_too_is_left_out(task: str, hinges: int) -> None:
    env, values = played(task)
    assert "rootx" not in values
    assert values["rootz"] == env.physics.named.data.qpos["rootz"]
    assert values["rootx velocity"] == env.physics.named.data.qvel["rootx"]
    assert len(values) == 1 + 2 * hinges + env.physics.model.nv
    env.close()


def test_free_and_ball_joints_are_whole() -> None:
    env, values = played("quadruped_walk")
    model = env.physics.model
    hinges = int((model.jnt_type == 3).sum())
    assert len(values) == model.nq + hinges + model.nv
    assert np.isfinite(list(values.values())).all()
    assert "root turn z velocity" in values
    env.close()
