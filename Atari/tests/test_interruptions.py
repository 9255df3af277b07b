"""Whole runs that are killed, or asked to stop, at any moment (R4, R5).

The same file in both trees; real processes throughout, on real run folders.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from small_run import AGENT_STEPS, LEARNING_STARTS
from stopped_run import EVERY, SAVING, STOPPED, finish, stopped_copy
from whole_runs import assert_same, folder, newest, server, steps, train, uninterrupted, words


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    return stopped_copy(tmp_path)


# --- killed ---------------------------------------------------------------------------------------


def reached(output: str) -> int:
    """The last step that is known to have begun."""
    begun = [line for line in output.splitlines() if line.startswith("at ") and line[3:].isdigit()]
    return int(begun[-1][3:]) if begun else 0


def saving(runs: Path) -> bool:
    """Whether a checkpoint is being written, or was when the process died."""
    return any((folder(runs) / "checkpoints").glob(".tmp-*"))


def kill_again_and_again(runs: Path, kills: int) -> None:
    """SIGKILL at random moments, every other time while writing is slow; always resumed."""
    chance = random.Random(kills)
    torn = known = 0
    for number in range(kills):
        slow = {"slow": 0.001} if number % 2 else {}
        run = server().start(words(runs, SAVING), report=True, **slow)
        run.wait_for("\nat ", 1 + chance.randrange(2 * EVERY))
        while slow and run.alive and not saving(runs):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.2))
        run.kill()
        ended = run.end()
        assert ended.code in (-signal.SIGKILL, 0), ended.output
        torn += saving(runs)
        known = max(known, reached(ended.output))
        if known >= EVERY:
            assert newest(runs).step >= known // EVERY * EVERY  # at most one interval is lost
        if ended.code == 0:
            assert_same(runs, uninterrupted())
            shutil.rmtree(runs)
            known = 0
    assert torn >= kills // 4, f"only {torn} of {kills} kills hit a save"
    finish(runs, SAVING)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path / "runs", 4)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_killed_at_many_random_moments(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path / "runs", 20)


@pytest.mark.soak
def test_killed_before_the_first_checkpoint_it_begins_anew(tmp_path: Path) -> None:
    ended = train(tmp_path, signal="SIGKILL", at_step=LEARNING_STARTS + 3)
    assert ended.code == -signal.SIGKILL
    assert steps(tmp_path) == []
    finish(tmp_path)


@pytest.mark.soak
def test_killed_after_the_last_checkpoint_it_only_finishes(tmp_path: Path) -> None:
    ended = train(tmp_path, signal="SIGKILL", at_finish=1)
    assert ended.code == -signal.SIGKILL
    assert steps(tmp_path) == [AGENT_STEPS]
    assert not (folder(tmp_path) / "final.json").exists()
    finish(tmp_path)


# --- asked to stop --------------------------------------------------------------------------------


@pytest.mark.soak
def test_stops_within_ten_seconds_and_the_save(tmp_path: Path) -> None:
    run = server().start(words(tmp_path), report=True)
    run.wait_for(f"\nat {STOPPED}\n")
    begin = time.monotonic()
    run.kill(signal.SIGTERM)
    ended = run.end()
    assert ended.code == 75, ended.output
    assert time.monotonic() - begin < 10
    assert steps(tmp_path)[-1] - reached(ended.output) <= 1  # the step under way was its last


@pytest.mark.soak
def test_asked_at_random_moments(tmp_path: Path) -> None:
    chance = random.Random(5)
    codes = []
    while codes.count(75) < 5:
        run = server().start(words(tmp_path), report=True)
        run.wait_for("\nat ", 1 + chance.randrange(EVERY))
        time.sleep(chance.uniform(0, 0.2))
        run.kill(signal.SIGTERM)
        ended = run.end()
        codes.append(ended.code)
        assert ended.code in (75, 0), ended.output
        if ended.code == 75:
            assert newest(tmp_path).step == steps(tmp_path)[-1] >= reached(ended.output)
        else:  # it had begun its last step
            assert_same(tmp_path, uninterrupted())
            shutil.rmtree(tmp_path)
    finish(tmp_path)


def test_a_second_interrupt_ends_at_once_and_loses_only_that_save(stopped: Path) -> None:
    run = server().start(words(stopped, SAVING), report=True, slow=0.003)
    run.wait_for("\nat ")
    run.kill(signal.SIGINT)
    while run.alive and not any((folder(stopped) / "checkpoints").glob(".tmp-*/*")):
        time.sleep(0.01)
    run.kill(signal.SIGINT)
    ended = run.end()
    assert ended.code == -signal.SIGINT, ended.output
    assert steps(stopped)[-1] == STOPPED
    finish(stopped)
