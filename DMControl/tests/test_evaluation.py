"""Evaluation: the same scores whichever processes play, and nothing left behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from mlr_dmcontrol.environment import VIDEO_SIZE, EnvironmentSettings, PixelControlEnv
from mlr_dmcontrol.errors import RunError
from mlr_dmcontrol.run.evaluation import EvaluationResult, evaluate, record_video
from mlr_dmcontrol.run.seeding import episode_seed
from mlr_dmcontrol.run.workers import EvaluationEnvs

TREE = Path(__file__).resolve().parents[1]
TASK = "reacher_easy"
SETTINGS = EnvironmentSettings(
    image_size=16, frame_stack=2, action_repeat=50, camera_id=0, fast_render=True
)


def seed_of(number: int) -> int:
    return episode_seed(1, "evaluation", number)


def act(obs: np.ndarray) -> np.ndarray:
    """Some function of what is seen."""
    means = obs.reshape(len(obs), 2, -1).mean(-1)
    return np.sin(means).astype(np.float32)


@pytest.fixture(scope="module")
def expected() -> EvaluationResult:
    """Five episodes one after the other in a single environment."""
    returns, lengths = [], []
    with PixelControlEnv(TASK, SETTINGS) as env:
        for number in range(5):
            obs, _ = env.reset(seed=seed_of(number))
            rewards = []
            while not env.episode_over:
                obs, reward, *_ = env.step(act(obs[None])[0])
                rewards.append(reward)
            returns.append(float(sum(rewards)))
            lengths.append(len(rewards))
    return EvaluationResult(returns, lengths)


@pytest.fixture(scope="module")
def pair() -> Iterator[EvaluationEnvs]:
    """Five environments in two processes."""
    with EvaluationEnvs(TASK, SETTINGS, 5, processes=2) as envs:
        yield envs


@pytest.fixture(scope="module")
def here() -> Iterator[EvaluationEnvs]:
    """Three environments in this process."""
    with EvaluationEnvs(TASK, SETTINGS, 3) as envs:
        yield envs


def check_results(envs: EvaluationEnvs, expected: EvaluationResult) -> None:
    result = evaluate(act, envs, 5, seed_of)
    assert result == expected
    assert result.lengths == [20] * 5
    assert result.mean_return == np.mean(result.returns)
    assert len(set(result.returns)) > 1
    again = evaluate(act, envs, 3, seed_of)  # the same episodes at every call
    assert again is not None
    assert again.returns == expected.returns[:3]


def test_results_do_not_depend_on_the_processes(
    pair: EvaluationEnvs, expected: EvaluationResult
) -> None:
    check_results(pair, expected)


def test_results_do_not_depend_on_the_lockstep(
    here: EvaluationEnvs, expected: EvaluationResult
) -> None:
    check_results(here, expected)


def test_the_policy_sees_full_batches_and_blank_rows(here: EvaluationEnvs) -> None:
    seen = []

    def watch(obs: np.ndarray) -> np.ndarray:
        seen.append(obs)
        return np.zeros((len(obs), 2), np.float32)

    evaluate(watch, here, 4, seed_of)
    assert {obs.shape for obs in seen} == {(3, 6, 16, 16)}
    first, second = seen[:20], seen[20:]
    assert all(obs[row].any() for obs in first for row in range(3))
    assert all(obs[0].any() and not obs[1:].any() for obs in second)


def test_episodes_that_end_early() -> None:
    """LQR from zero ends at once; its environment is then left alone."""
    settings = dataclasses.replace(SETTINGS, action_repeat=100)
    with EvaluationEnvs("lqr_lqr_2_1", settings, 2) as envs:
        envs.reset([0, 1])
        first = envs._members[0]._group._envs[0]  # type: ignore[attr-defined]
        physics = first._control.physics
        with physics.reset_context():
            physics.set_state(np.zeros_like(physics.get_state()))
        active = np.array([True, True])
        _, _, over = envs.step(np.zeros((2, 1), np.float32), active)
        assert over.tolist() == [True, False]
        obs, rewards, over = envs.step(np.zeros((2, 1), np.float32), active & ~over)
        assert not obs[0].any()
        assert rewards[0] == 0
        assert over.tolist() == [False, False]


def test_stops_when_asked_and_can_go_on(pair: EvaluationEnvs, expected: EvaluationResult) -> None:
    asked = iter([False, False, True])
    assert evaluate(act, pair, 5, seed_of, should_stop=lambda: next(asked)) is None
    assert evaluate(act, pair, 5, seed_of) == expected


def test_training_is_not_touched(here: EvaluationEnvs) -> None:
    with PixelControlEnv(TASK, SETTINGS) as env:
        action = np.array([0.3, -0.7])
        env.reset(seed=3)
        alone = [env.step(action)[0] for _ in range(4)]
        env.reset(seed=3)
        for obs in alone:
            evaluate(act, here, 1, seed_of)
            assert (env.step(action)[0] == obs).all()


def workers_of(envs: EvaluationEnvs) -> list[int]:
    return [member._process.pid for member in envs._members]  # type: ignore[attr-defined]


def gone(pid: int, seconds: float = 20) -> bool:
    """Whether the process ends; a zombie that nobody has waited for yet counts as ended."""
    for _ in range(int(seconds * 20)):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_signals_to_the_whole_job_leave_the_workers_to_their_parent(
    pair: EvaluationEnvs, expected: EvaluationResult
) -> None:
    pair.reset([0, 1])  # both are up
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        for pid in workers_of(pair):
            os.kill(pid, each)
    assert evaluate(act, pair, 5, seed_of) == expected


def test_workers_end_with_close_and_a_death_is_an_error() -> None:
    with EvaluationEnvs(TASK, SETTINGS, 1, processes=3) as envs:
        (pid,) = workers_of(envs)  # no more than there are environments
        envs.reset([0])
    assert gone(pid, seconds=0.1)
    with EvaluationEnvs(TASK, SETTINGS, 1, processes=1) as envs:
        os.kill(workers_of(envs)[0], signal.SIGKILL)
        with pytest.raises(RunError, match="worker ended with code -9"):
            evaluate(act, envs, 1, seed_of)


def test_an_error_in_a_worker_is_told() -> None:
    settings = dataclasses.replace(SETTINGS, camera_id=7)
    with (
        EvaluationEnvs(TASK, settings, 1, processes=1) as envs,
        pytest.raises(RuntimeError, match="camera_id=7: reacher_easy has no such camera"),
    ):
        evaluate(act, envs, 1, seed_of)


PARENT = """
import sys, time
from mlr_dmcontrol.environment import EnvironmentSettings
from mlr_dmcontrol.run.workers import EvaluationEnvs
envs = EvaluationEnvs({task!r}, {settings!r}, 1, processes=1)
envs.reset([0])
print(*[member._process.pid for member in envs._members], flush=True)
time.sleep(600)
"""


def test_workers_die_with_their_parent() -> None:
    code = PARENT.format(task=TASK, settings=SETTINGS)
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=TREE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


def test_workers_do_without_torch() -> None:
    code = "import sys, mlr_dmcontrol.run.workers; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=TREE)


def test_video(tmp_path: Path, expected: EvaluationResult) -> None:
    with PixelControlEnv(TASK, SETTINGS) as env:
        total = record_video(act, env, seed_of(0), tmp_path / "video" / "episode_0")
        rate = env.frame_rate
    assert total == pytest.approx(expected.returns[0])
    reader = imageio.get_reader(tmp_path / "video" / "episode_0.mp4")
    frames = [np.asarray(frame) for frame in reader]
    fps = reader.get_meta_data()["fps"]
    reader.close()
    assert len(frames) == 21
    assert frames[0].shape == (VIDEO_SIZE, VIDEO_SIZE, 3)
    assert frames[0].std() > 10
    assert fps == pytest.approx(rate, rel=0.01)
    gif = imageio.mimread(tmp_path / "video" / "episode_0.gif")
    assert gif[0].shape[:2] == (VIDEO_SIZE // 2, VIDEO_SIZE // 2)
