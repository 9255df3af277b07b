"""Evaluation: the same scores whoever plays them, nothing left behind, and films."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import psutil
import pytest

from mlr_dmcontrol.errors import ConfigError, NonFiniteError, RunError, SimulatorError, StorageError
from mlr_dmcontrol.run.evaluation import (
    MOST_PLACES,
    EvaluationEnvs,
    EvaluationResult,
    evaluate,
    kept,
    record_video,
)
from mlr_dmcontrol.run.process import SIGNALS

TREE, HERE = Path(__file__).resolve().parents[2], Path(__file__).parent
SIDE = 6


class Walk:
    """An environment whose pixels and rewards are drawn; an episode's seed says how long it is."""

    frame_rate: Any = 20.0
    shape = (SIDE, SIDE + 1, 3)  # of what it shows in films

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        if fault == "refuses":
            raise ConfigError("task=walk: refuses")

    def reset(self, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        self.seed, self.random, self.left = seed, np.random.default_rng(seed), length_of(seed)
        return self.picture(1), {}

    def step(self, action: float) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        reward = action * self.random.random()
        match self.fault if self.left == 2 else "":
            case "fails":
                raise SimulatorError("it blew up")
            case "fails once" if self.seed == seed_of(1):
                raise SimulatorError("it blew up")
            case "hangs":
                time.sleep(1000)
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "is broken":
                raise LookupError
            case "rewards nan":
                reward = math.nan
        return self.picture(1), reward, self.left == 0, False, {}

    def picture(self, channels: int) -> np.ndarray:
        return self.random.integers(1, 256, (SIDE, SIDE + 1, channels), np.uint8)

    def render(self) -> np.ndarray:
        return np.full(self.shape, self.left, np.uint8)

    def close(self) -> None:
        pass


def length_of(seed: int) -> int:
    return 5 + seed % 7


def seed_of(number: int) -> int:
    return 100 + 3 * number


def act(obs: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """Some function of what is seen, and of chance."""
    noise = np.array([generator.random() for generator in generators])
    return obs.reshape(len(obs), -1).mean(1) + noise


@pytest.fixture(scope="module")
def expected() -> EvaluationResult:
    """Thirteen episodes, one after the other."""
    scores = []
    for number in range(13):
        env, generator, total = Walk(), np.random.default_rng([seed_of(number), 1]), 0.0
        obs, over = env.reset(seed_of(number))[0], False
        while not over:
            obs, reward, over, *_ = env.step(float(act(obs[None], [generator])[0]))
            total += reward
        scores.append(total)
    lengths = [length_of(seed_of(number)) for number in range(13)]
    return EvaluationResult(scores, lengths, list(range(13)))


@pytest.mark.parametrize(
    ("num_envs", "processes", "full_batches"),
    [(1, 0, False), (4, 0, False), (20, 0, True), (4, 0, True), (5, 2, False)],
)
def test_scores_do_not_depend_on_who_plays_where(
    num_envs: int, processes: int, full_batches: bool, expected: EvaluationResult
) -> None:
    batches = set()

    def policy(obs: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
        batches.add(len(obs))
        return act(obs, generators)

    with closing(EvaluationEnvs(Walk, num_envs, processes, full_batches=full_batches)) as envs:
        for episodes in (13, 3):
            result = evaluate(policy, envs, episodes, seed_of)
            assert result.scores == expected.scores[:episodes]
            assert result.lengths == expected.lengths[:episodes]
            assert sorted(result.ended) == expected.ended[:episodes]
            for pid in workers_of(envs):  # as a scheduler does to every process of a job
                for number in SIGNALS:
                    os.kill(pid, number)
    assert (batches == {num_envs}) == (full_batches or num_envs == 1)


@pytest.mark.parametrize("processes", [0, 2])
def test_what_the_simulator_raises_ends_its_episode(
    processes: int, expected: EvaluationResult
) -> None:
    with closing(EvaluationEnvs(partial(Walk, "fails once"), 2, processes)) as envs:
        result = evaluate(act, envs, 3, seed_of)
    assert [result.scores[0], result.scores[2]] == [expected.scores[0], expected.scores[2]]
    assert 0 < result.scores[1] < expected.scores[1]
    assert result.lengths[1] == expected.lengths[1] - 2


@pytest.mark.parametrize(
    ("fault", "processes", "error", "text"),
    [
        ("fails", 0, SimulatorError, "it blew up"),
        ("rewards nan", 0, NonFiniteError, "score=nan"),
        ("refuses", 1, ConfigError, "task=walk: refuses"),
        ("is broken", 1, RuntimeError, "LookupError"),
        ("dies", 1, ConfigError, "worker ended by SIGKILL; evaluation.processes"),
    ],
)
def test_what_ends_an_evaluation(
    fault: str, processes: int, error: type[Exception], text: str
) -> None:
    make = partial(Walk, fault)
    with closing(EvaluationEnvs(make, 1, processes)) as envs, pytest.raises(error, match=text):
        evaluate(act, envs, 10, seed_of)


def test_an_action_must_be_a_number() -> None:
    with closing(EvaluationEnvs(Walk, 2)) as envs, pytest.raises(NonFiniteError, match="action"):
        evaluate(lambda *_: np.array([1.0, math.inf]), envs, 3, seed_of)


def test_whoever_watches_sees_how_far_it_is_and_may_end_it_though_a_worker_hangs() -> None:
    steps, hangs_at = [], length_of(seed_of(0)) - 3

    def watch(result: EvaluationResult) -> None:
        steps.append(sum(result.lengths))
        if steps.count(hangs_at) == 3:
            raise RunError("enough")

    with (
        closing(EvaluationEnvs(partial(Walk, "hangs"), 1, processes=1)) as envs,
        pytest.raises(RunError, match="enough"),
    ):
        evaluate(act, envs, 1, seed_of, watch)
    assert sorted({*steps}) == list(range(hangs_at + 1))


def workers_of(envs: EvaluationEnvs) -> list[int]:
    return [process.pid for _, process in envs._workers]


def gone(pid: int, seconds: float = 20) -> bool:
    """Whether the process ends; a zombie that nobody has waited for yet counts as ended."""
    with suppress(psutil.NoSuchProcess):
        process, deadline = psutil.Process(pid), time.monotonic() + seconds
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
    return True


def test_workers_end_with_close() -> None:
    assert EvaluationEnvs(Walk, 10**6).num_envs == MOST_PLACES
    with closing(EvaluationEnvs(Walk, 1, processes=3)) as envs:
        (pid,) = workers_of(envs)  # no more than there are environments
        evaluate(act, envs, 1, seed_of)
    assert gone(pid, seconds=0.1)


PARENT = """
import os, sys
sys.path += sys.argv[1:]
from test_evaluation import EvaluationEnvs, Walk, act, evaluate, seed_of, workers_of
envs = EvaluationEnvs(Walk, 1, processes=1)
evaluate(act, envs, 1, seed_of)
print(*workers_of(envs), "torch" in sys.modules, flush=True)
os.kill(os.getpid(), 9)
"""


def test_workers_die_with_their_parent_and_need_no_torch() -> None:
    command = [sys.executable, "-c", PARENT, str(TREE), str(HERE)]
    parent = subprocess.run(command, cwd=TREE, stdout=subprocess.PIPE, text=True)
    pid, torch_is_loaded = parent.stdout.split()
    assert torch_is_loaded == "False"
    assert gone(int(pid))


def test_no_film_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "score.1.gif").symlink_to(tmp_path / "elsewhere")
    with kept(tmp_path, "score.1") as (path, _):
        assert path.name == "score.1_2.json"


@pytest.mark.parametrize(
    ("shape", "rate"),
    [((6, 7, 3), 20.0), ((1, 210, 3), 0.0), ((210, 1, 3), math.nan), ((1, 9001, 3), 1e9)],
)
def test_films(
    tmp_path: Path, expected: EvaluationResult, shape: tuple[int, ...], rate: float
) -> None:
    env = Walk()
    env.shape, env.frame_rate = shape, rate
    assert record_video(act, env, seed_of(0), tmp_path / "film.0") == expected.scores[0]
    with imageio.get_reader(tmp_path / "film.0.mp4") as film:
        assert film.count_frames() == expected.lengths[0] + 1
        assert film.get_meta_data()["fps"] == (rate if rate == 20 else 15)
        rows, columns = film.get_data(0).shape[:2]
    assert imageio.mimread(tmp_path / "film.0.gif")
    if shape == Walk.shape:
        assert rows >= 160
        assert columns / rows == pytest.approx(shape[1] / shape[0], abs=0.01)


def test_without_ffmpeg_there_is_the_score_a_warning_and_the_gif(
    tmp_path: Path,
    expected: EvaluationResult,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "missing"))
    assert record_video(act, Walk(), seed_of(0), tmp_path / "film") == expected.scores[0]
    assert "film.mp4 cannot be made" in caplog.text
    assert len(imageio.mimread(tmp_path / "film.gif")) > 3
    assert 0 < record_video(act, Walk("fails"), seed_of(0), tmp_path / "film") < expected.scores[0]
    with pytest.raises(StorageError):
        record_video(act, Walk(), seed_of(0), tmp_path / "gone" / "film")
