"""Tasks from pixels: what an observation is, when an episode ends, exact restoring."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from gymnasium.utils.env_checker import check_env

from mlr_dmcontrol.environment import VIDEO_SIZE, EnvironmentSettings, PixelControlEnv
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.renderer import choose_renderer
from mlr_dmcontrol.tasks import BENCHMARK_TASKS, SUITE_TASKS, canonical

TREE = Path(__file__).resolve().parents[1]
SMALL = EnvironmentSettings(
    image_size=24, frame_stack=3, action_repeat=8, camera_id=0, fast_render=True
)
PAPER = {"image_size": 100, "action_repeat": 4, "fast_render": False}


def make(task: str = "cartpole_swingup", **changes: Any) -> PixelControlEnv:
    return PixelControlEnv(task, dataclasses.replace(SMALL, **changes), lambda k: 100 + k)


@pytest.fixture
def env() -> Iterator[PixelControlEnv]:
    with make() as made:
        made.reset()
        yield made


@pytest.fixture(scope="module")
def used() -> Iterator[PixelControlEnv]:
    """Like `env`, but something was played in it before."""
    with make() as made:
        made.reset(seed=9)
        play(made, 5)
        yield made


def play(env: PixelControlEnv, steps: int, seed: int = 0) -> list[Any]:
    """What random actions bring, through resets."""
    rng, seen = np.random.default_rng(seed), []
    for _ in range(steps):
        if env.episode_over:
            env.reset()
        seen.append(env.step(rng.uniform(-1, 1, env.action_space.shape)))
    return seen


def assert_same(one: list[Any], other: list[Any]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert (mine[0] == theirs[0]).all() and mine[1:] == theirs[1:]


def test_is_a_gymnasium_environment(env: PixelControlEnv) -> None:
    check_env(env, skip_render_check=True)


def test_published_observation() -> None:
    with make("cheetah/run", **PAPER) as env:
        obs, _ = env.reset()
        assert (obs.shape, obs.dtype, env.action_space.shape) == ((9, 100, 100), np.uint8, (6,))
        assert env.frame_rate == pytest.approx(25)
        frames = obs.reshape(3, 3, 100, 100)
        assert (frames == frames[0]).all()  # the first frame, repeated
        # Channels first, as rendered: red, green, blue. The sky of this model is blue.
        assert frames[0, 2, :20].mean() > frames[0, 0, :20].mean() + 10
        assert env.render().shape == (VIDEO_SIZE, VIDEO_SIZE, 3)


def test_stack_moves_by_one_frame(env: PixelControlEnv) -> None:
    observations = [env.observation, *(obs for obs, *_ in play(env, 5))]
    for before, after in pairwise(observations):
        assert (after[:6] == before[3:]).all() and not np.shares_memory(before, after)
    assert (env.frame == observations[-1][6:]).all() and (env.frame != observations[0][6:]).any()


def test_an_episode_depends_on_its_seed_alone() -> None:
    """Not on earlier episodes: reacher edits its model at each reset."""
    with make("reacher_easy") as old, make("reacher_easy") as fresh:
        old.reset(seed=1)
        play(old, 30)
        old.reset(seed=2)
        assert (old.reset(seed=3)[0] == fresh.reset(seed=3)[0]).all()
        assert_same(play(old, 10), play(fresh, 10))
        assert (old.reset(seed=4)[0] != fresh.reset(seed=3)[0]).any()


def test_episodes_are_numbered(env: PixelControlEnv) -> None:
    numbered = [env.observation, env.reset()[0]]
    env.reset(seed=5)  # does not count
    numbered.append(env.reset()[0])
    for k, obs in enumerate(numbered):
        assert (obs == env.reset(seed=100 + k)[0]).all()


def test_reward_is_summed_over_the_repeat() -> None:
    with make(action_repeat=1) as single, make(action_repeat=8) as repeated:
        single.reset(seed=1)
        repeated.reset(seed=1)
        for action in np.linspace(-1, 1, 5)[:, None]:
            singles = [single.step(action) for _ in range(8)]
            obs, reward, *_ = repeated.step(action)
            assert reward == pytest.approx(sum(step[1] for step in singles), abs=1e-12)
            assert (obs[6:] == singles[-1][0][6:]).all()


@pytest.mark.parametrize("task, repeat", [("cartpole_balance", 3), ("lqr_lqr_2_1", 300)])
def test_time_limit_is_truncation(task: str, repeat: int) -> None:
    """Also when the repeat does not divide it, and for a task without a limit of its own."""
    with make(task, action_repeat=repeat, image_size=16) as env:
        env.reset()
        steps = [env.step(np.zeros(1)) for _ in range(-(-SMALL.max_steps // repeat))]
        assert [step[2:4] for step in steps] == [(False, False)] * (len(steps) - 1) + [
            (False, True)
        ]
        if task == "cartpole_balance":  # about 1 an env step, of which the last step has but one
            assert steps[0][1] > 2.9 and steps[-1][1] <= 1
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(np.zeros(1))
        env.reset()
        assert env.step(np.zeros(1))[2:4] == (False, False)


def test_the_tasks_own_end_is_termination() -> None:
    """LQR ends when its state is zero."""
    with make("lqr_lqr_2_1") as env:
        env.reset()
        with env.physics.reset_context():
            env.physics.set_state(np.zeros_like(env.physics.get_state()))
        assert env.step(np.zeros(1))[2:4] == (True, False)
        assert env._env_step < SMALL.action_repeat  # which was cut short


def test_actions_are_scaled_to_what_the_actuators_take() -> None:
    with make("quadruped_walk", action_repeat=1, image_size=16) as env:
        spec = env.simulator._control.action_spec()
        assert len(np.unique(spec.maximum)) > 1
        middle = spec.maximum / 2 + spec.minimum / 2
        env.reset()
        for action, control in ((-1, spec.minimum), (1, spec.maximum), (0, middle)):
            env.step(np.full(12, action))
            np.testing.assert_allclose(env.physics.control(), control, atol=1e-12)


def test_fast_render_changes_pixels_only(env: PixelControlEnv) -> None:
    with make(fast_render=False) as exact:
        difference = exact.reset()[0].astype(int) - env.observation
        assert 0 < np.abs(difference).mean() < 10
        for one, other in zip(play(exact, 5), play(env, 5), strict=True):
            assert one[1:] == other[1:]


@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_closes_quietly(backend: str) -> None:
    """OSMesa complains at exit unless it is closed, once or twice."""
    settings = os.environ | {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    context = "import mujoco; c = mujoco.GLContext(64, 64); c.make_current(); c.free()"
    play = (
        "from mlr_dmcontrol.environment import *;"
        f"env = PixelControlEnv('cheetah_run', {SMALL!r}); env.reset(seed=0); env.render();"
        "env.close(); env.close()"
    )
    drawn, played = (
        subprocess.run([sys.executable, "-c", code], env=settings, cwd=TREE, capture_output=True)
        for code in (context, play)
    )
    if drawn.returncode != 0:
        pytest.skip(f"{backend} does not draw on this machine")
    assert (played.returncode, played.stderr) == (0, b"")


# ---- restoring ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 40, 125])
def test_restored_at_any_moment(
    env: PixelControlEnv, used: PixelControlEnv, steps: int, tmp_path: Path
) -> None:
    """At a reset, with a stack half full, mid-episode, and when the episode is over."""
    play(env, steps)
    torch.save(env.state_dict(), tmp_path / "env.pt")
    assert used.load_state_dict(torch.load(tmp_path / "env.pt", weights_only=True))
    assert used.episode_over == env.episode_over == (steps == 125)
    assert_same(play(used, 30), play(env, 30))


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("task", SUITE_TASKS)
def test_every_task_of_the_suite_is_restored(task: str) -> None:
    settings, steps = (PAPER, 800) if task in BENCHMARK_TASKS else ({}, 100)
    with make(task, **settings) as env, make(task, **settings) as used:
        used.reset(seed=2)
        play(used, 30)
        assert (used.reset()[0] == env.reset()[0]).all()
        assert env.frame.std() > 0
        play(env, 37)
        assert used.load_state_dict(env.state_dict())
        assert_same(play(used, steps), play(env, steps))


# ---- own environments ---------------------------------------------------------------------------


def own(repeat: int = 1, max_steps: int = 10, **kwargs: Any) -> PixelControlEnv:
    sizes = {"image_size": 16, "frame_stack": 2, "action_repeat": repeat, "max_steps": max_steps}
    return make("odd_environments:Odd-v0", **sizes, kwargs={"actions": (-1.0, 3.0), **kwargs})


def taken(env: PixelControlEnv) -> Any:
    """The last action that reached the user's environment."""
    return env.simulator._env.unwrapped.taken[-1]


def test_own_actions_are_rescaled_and_repeated() -> None:
    with own(repeat=4) as env, own(actions=(-np.inf, 1e10)) as unlimited:
        obs, _ = env.reset()
        assert (obs.shape, env.action_dim, env.frame_rate) == ((6, 16, 16), 3, 10 / 4)
        action = np.array([-1, 0, 1], np.float32)
        again, *others = env.step(action)
        assert others == [4, False, False, {}]
        assert (again[:3] == obs[3:]).all() and (again[3:] != obs[3:]).any()
        np.testing.assert_array_equal(taken(env), [[-1, 1, 3]])
        env.step(np.zeros(3))
        assert env.step(np.zeros(3))[1:4] == (2, False, True)  # after max_steps, two more
        assert env.render().shape == (24, 24, 3)
        unlimited.reset()
        unlimited.step(action)
        np.testing.assert_array_equal(taken(unlimited), [[-1, 0, 1]])


@pytest.mark.parametrize("fault, ends", [("", (True, False)), ("capped", (False, True))])
def test_own_ends_stay_apart(fault: str, ends: tuple[bool, bool]) -> None:
    with own(repeat=3, max_steps=100, fault=fault) as env:
        env.reset()
        while not env.episode_over:
            step = env.step(np.zeros(3))
        assert step[2:4] == ends


@pytest.mark.parametrize("fault, same", [("", True), ("unfair", False)])
def test_an_own_episode_is_restored_by_playing_it_again(fault: str, same: bool) -> None:
    with own(fault=fault) as env, own(fault=fault) as other:
        env.reset()
        play(env, 4)
        assert other.load_state_dict(env.state_dict()) == same
        assert other.episode_over != same
        if same:
            assert_same(play(other, 1), play(env, 1))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"actions": (0.0, np.inf)},
        {"actions": gymnasium.spaces.Box(0, 9, (2,), np.int64)},
        {"actions": gymnasium.spaces.Box(-1, 1, (0,))},
        {"actions": gymnasium.spaces.Box(-1e308, 1e308, (2,), np.float64)},  # no sample
        {"fault": "no reward"},  # in a trial, before training
    ],
)
def test_what_is_odd_is_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="^task=odd_environments:Odd-v0: .*; it must"):
        own(**kwargs)


# ---- names --------------------------------------------------------------------------------------


def test_every_task_of_the_installed_suite_is_known() -> None:
    choose_renderer()  # the import would choose one that needs a display
    from dm_control import suite

    assert {*SUITE_TASKS.values()} == {*suite.ALL_TASKS}
    # Every task is told apart in its loosest spelling.
    assert [canonical(name.replace("_", "").lower()) for name in SUITE_TASKS] == [*SUITE_TASKS]


def test_a_tasks_file_holds_only_what_differs() -> None:
    files = {path.stem: yaml.safe_load(path.read_text()) for path in TREE.glob("configs/task/*")}
    base = files.pop("base")
    quadruped = {name for name in SUITE_TASKS if name.startswith("quadruped")}
    assert set(files) == {*BENCHMARK_TASKS, *quadruped}
    assert {name for name in files if files[name].get("camera_id") == 2} == quadruped
    for name, own in files.items():
        assert own.pop("defaults") == ["base", "_self_"] and own.pop("name") == name
        assert own.items() - base.items() == own.items() and set(own) <= set(base)
