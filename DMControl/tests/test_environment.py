"""Suite tasks from pixels: what an observation is, when an episode ends, exact restoring."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from play_on import digest

from mlr_dmcontrol.environment import (
    VIDEO_SIZE,
    EnvironmentSettings,
    PixelControlEnv,
)
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.run.evaluation import EvaluationEnvs, evaluate, record_video
from mlr_dmcontrol.tasks import BENCHMARK_TASKS, SUITE_TASKS

TREE = Path(__file__).resolve().parents[1]
SMALL = EnvironmentSettings(
    image_size=24, frame_stack=3, action_repeat=8, camera_id=0, fast_render=True
)
PAPER = dataclasses.replace(SMALL, image_size=100, action_repeat=4, fast_render=False)


def make(task: str = "cartpole_swingup", **changes: Any) -> PixelControlEnv:
    settings = dataclasses.replace(SMALL, **changes)
    return PixelControlEnv(task, settings, lambda k: 100 + k)


@pytest.fixture
def env() -> Iterator[PixelControlEnv]:
    with make() as made:
        yield made


@pytest.fixture(scope="module")
def used() -> Iterator[PixelControlEnv]:
    """Like `env`, but something was played in it before."""
    with make() as made:
        made.reset(seed=9)
        play(made, 5)
        yield made


def play(env: PixelControlEnv, steps: int, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [env.step(rng.uniform(-1, 1, env.action_space.shape)) for _ in range(steps)]


def test_is_a_gymnasium_environment(env: PixelControlEnv) -> None:
    check_env(env, skip_render_check=True)


def test_published_observation() -> None:
    with PixelControlEnv("cheetah/run", PAPER, lambda k: k) as env:
        obs, info = env.reset()
        assert obs.shape == (9, 100, 100)
        assert obs.dtype == np.uint8
        assert info == {}
        assert env.action_space.shape == (6,)
        assert env.frame_rate == pytest.approx(25)
        frames = obs.reshape(3, 3, 100, 100)
        assert (frames == frames[0]).all()  # the first frame, repeated
        assert frames.std() > 10
        # Channels first, as rendered: red, green, blue. The sky of this model is blue.
        assert frames[0, 2, :20].mean() > frames[0, 0, :20].mean()
        _ = [next_obs for next_obs, *_ in play(env, 3)]
        assert env.render().shape == (VIDEO_SIZE, VIDEO_SIZE, 3)


def test_stack_moves_by_one_frame(env: PixelControlEnv) -> None:
    first, _ = env.reset()
    observations = [obs for obs, *_ in play(env, 5)]
    assert (observations[0][:6] == first[3:]).all()
    for before, after in pairwise(observations):
        assert (after[:6] == before[3:]).all()
    assert (observations[-1][6:] != first[6:]).any()
    assert (env.frame == observations[-1][6:]).all()
    assert not np.shares_memory(observations[-1], observations[-2])


def test_an_episode_depends_on_its_seed_alone() -> None:
    """Not on earlier episodes: reacher edits its model at each reset."""
    with make("reacher_easy") as old, make("reacher_easy") as fresh:
        old.reset(seed=1)
        play(old, 30)
        old.reset(seed=2)
        assert (old.reset(seed=3)[0] == fresh.reset(seed=3)[0]).all()
        for one, other in zip(play(old, 10), play(fresh, 10), strict=True):
            assert (one[0] == other[0]).all()
            assert one[1:] == other[1:]
        assert (old.reset(seed=4)[0] != fresh.reset(seed=3)[0]).any()


def test_episodes_are_numbered(env: PixelControlEnv) -> None:
    numbered = [env.reset()[0] for _ in range(3)]
    env.reset(seed=5)  # does not count
    numbered.append(env.reset()[0])
    for k, obs in enumerate(numbered):
        assert (obs == env.reset(seed=100 + k)[0]).all()
    with PixelControlEnv("cartpole_swingup", SMALL) as unseeded, pytest.raises(ValueError):
        unseeded.reset()


def test_reward_is_summed_over_the_repeat() -> None:
    with make(action_repeat=1) as single, make(action_repeat=8) as repeated:
        single.reset(seed=1)
        repeated.reset(seed=1)
        for action in np.linspace(-1, 1, 5)[:, None]:
            singles = [single.step(action) for _ in range(8)]
            obs, reward, *_ = repeated.step(action)
            assert reward == pytest.approx(sum(each[1] for each in singles), abs=1e-12)
            assert (obs[6:] == singles[-1][0][6:]).all()


@pytest.mark.parametrize("task, repeat", [("cartpole_balance", 3), ("lqr_lqr_2_1", 300)])
def test_time_limit_is_truncation(task: str, repeat: int) -> None:
    """Also when the repeat does not divide it, and for a task without a limit of its own."""
    with make(task, action_repeat=repeat, image_size=16) as env:
        env.reset()
        steps = [env.step(np.zeros(1)) for _ in range(-(-SMALL.max_steps // repeat))]
        assert [step[2:4] for step in steps[:-1]] == [(False, False)] * (len(steps) - 1)
        assert steps[-1][2:4] == (False, True)
        if task == "cartpole_balance":  # about 1 an env step, of which the last step has but one
            assert steps[0][1] > 2.9
            assert steps[-1][1] <= 1
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(np.zeros(1))
        env.reset()
        assert env.step(np.zeros(1))[2:4] == (False, False)


def test_the_tasks_own_end_is_termination() -> None:
    """LQR ends when its state is zero."""
    with make("lqr_lqr_2_1") as env:
        env.reset()
        assert play(env, 1)[0][2:4] == (False, False)
        physics = env.physics
        with physics.reset_context():
            physics.set_state(np.zeros_like(physics.get_state()))
        *_, terminated, truncated, _ = env.step(np.zeros(1))
        assert (terminated, truncated) == (True, False)
        assert env._env_step < 2 * SMALL.action_repeat  # the repeat was cut short


def test_actions_are_scaled_to_what_the_actuators_take() -> None:
    with make("quadruped_walk", action_repeat=1, image_size=16) as env:
        spec = env.simulator._control.action_spec()
        assert len(np.unique(spec.maximum)) > 1
        env.reset()
        for action, control in (
            (-1, spec.minimum),
            (1, spec.maximum),
            (0, spec.maximum / 2 + spec.minimum / 2),
        ):
            env.step(np.full(12, action))
            np.testing.assert_allclose(env.physics.control(), control, atol=1e-12)


def test_fast_render_changes_pixels_only() -> None:
    with make(fast_render=False) as exact, make(fast_render=True) as fast:
        difference = exact.reset(seed=1)[0].astype(int) - fast.reset(seed=1)[0]
        assert 0 < np.abs(difference).mean() < 10
        for one, other in zip(play(exact, 5), play(fast, 5), strict=True):
            assert one[1:] == other[1:]


def test_a_camera_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"environment\.camera_id=2: .*use 0 to 1"):
        make(camera_id=2)


def run(arguments: list[str], **settings: str) -> str:
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=TREE,
        env=os.environ | {"PYTHONPATH": str(TREE)} | settings,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout.strip()


@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_needs_no_torch_and_closes_quietly(backend: str) -> None:
    """OSMesa complains at exit unless it is closed, once or twice."""
    settings = {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    context = "import mujoco; c = mujoco.GLContext(64, 64); c.make_current(); c.free()"
    drawn = subprocess.run(
        [sys.executable, "-c", context], env=os.environ | settings, capture_output=True, check=False
    )
    if drawn.returncode != 0:
        pytest.skip(f"{backend} does not draw on this machine")
    code = (
        "import sys; from mlr_dmcontrol.environment import *;"
        f"env = PixelControlEnv('cheetah_run', {SMALL!r}); env.reset(seed=0); env.render();"
        "env.close(); env.close(); assert 'torch' not in sys.modules"
    )
    run(["-c", code], **settings)


def test_evaluated_in_another_process_and_filmed(tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, action_repeat=100)
    factory = partial(PixelControlEnv, "reacher_easy", settings)

    def policy(obs: np.ndarray, generators: object) -> np.ndarray:
        return np.sin(obs.reshape(len(obs), 2, -1).mean(-1)).astype(np.float32)

    results = []
    for processes in (0, 1):
        with closing(EvaluationEnvs(factory, 2, processes, full_batches=True)) as envs:
            results.append(evaluate(policy, envs, 3, lambda number: 7 + number))
    assert results[0] == results[1]
    assert results[0] is not None
    assert results[0].lengths == [10, 10, 10]
    with factory() as env:
        assert record_video(policy, env, 7, tmp_path / "film") == results[0].scores[0]
    with imageio.get_reader(tmp_path / "film.mp4") as film:
        assert film.get_data(0).shape == (VIDEO_SIZE, VIDEO_SIZE, 3)
        assert film.count_frames() == 11


# ---- restoring ----------------------------------------------------------------------------------


def save(env: PixelControlEnv, path: Path) -> Path:
    settings = dataclasses.asdict(env.settings)
    saved = {"task": env.task, "settings": settings, "state": env.state_dict()}
    path.write_text(json.dumps(saved, default=bytes.hex))  # without torch: it starts faster
    return path


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 40, 125])
def test_restored_at_any_moment(
    env: PixelControlEnv, used: PixelControlEnv, steps: int, tmp_path: Path
) -> None:
    """At a reset, with a stack half full, mid-episode, and when the episode is over."""
    env.reset()
    play(env, steps)
    torch.save(env.state_dict(), tmp_path / "env.pt")
    saved = torch.load(tmp_path / "env.pt", weights_only=True)
    assert used.load_state_dict(saved)
    assert used.episode_over == env.episode_over == (steps == 125)
    assert digest(used, 30) == digest(env, 30)


def test_saving_changes_nothing(env: PixelControlEnv, used: PixelControlEnv) -> None:
    env.reset(seed=1)
    used.reset(seed=1)
    for _ in range(20):
        env.state_dict()
        assert (play(env, 1)[0][0] == play(used, 1)[0][0]).all()


def test_a_rebuilt_observation_that_differs_is_reported(env: PixelControlEnv) -> None:
    env.reset()
    play(env, 10)
    state = env.state_dict()
    pixels = bytearray(state["observation"])
    pixels[1000] ^= 1
    assert not env.load_state_dict(state | {"observation": bytes(pixels)})
    assert env.load_state_dict(state)


@pytest.mark.parametrize("task", ["reacher_easy", "walker_walk"])
def test_restored_in_a_new_process(task: str, tmp_path: Path) -> None:
    with make(task) as env:
        env.reset()
        play(env, 37)
        path = save(env, tmp_path / "env.json")
        assert run(["tests/play_on.py", str(path), "100"]) == digest(env, 100)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("task", SUITE_TASKS)
def test_every_task_of_the_suite_is_restored(task: str, tmp_path: Path) -> None:
    settings, steps = (PAPER, 800) if task in BENCHMARK_TASKS else (SMALL, 100)
    with (
        PixelControlEnv(task, settings, lambda k: 100 + k) as env,
        PixelControlEnv(task, settings, lambda k: 100 + k) as used,
    ):
        used.reset(seed=2)
        play(used, 30)
        assert (used.reset()[0] == env.reset()[0]).all()
        assert env.frame.std() > 0
        play(env, 37)
        path = save(env, tmp_path / "env.json")
        assert run(["tests/play_on.py", str(path), str(steps)]) == digest(env, steps)
