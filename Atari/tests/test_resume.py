"""Whole runs: stopped and resumed they end as if nothing had been.

"The same" is: every tensor and number of the final checkpoint, the replay's frames, the bytes of
every table and of final.json, and TensorBoard's curves.
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import small_run
import torch
from faults import asked, asked_in_evaluation, killed_at_the_end
from small_checkpoints import steps
from small_run import AGENT_STEPS, EVALUATION_AT, LEARNING_STARTS, LOG_EVERY
from whole_runs import (
    TREE,
    assert_same,
    change,
    differences,
    finish,
    folder,
    frames,
    left,
    newest,
    train,
    uninterrupted,
    words,
)


def moments() -> dict[str, int]:
    """Agent steps after which a run is stopped."""
    ends = small_run.episode_ends(newest(uninterrupted()).items["replay"])
    learning = range(LEARNING_STARTS + 2, AGENT_STEPS - 1)
    inside = [step for step in learning if step not in ends and step != EVALUATION_AT]
    every = small_run.ACTOR_EVERY
    return {
        "before learning starts": LEARNING_STARTS - 5,
        "within an episode": next(step for step in inside if (step + 1) % every == 0 or every == 1),
        "at the end of an episode": next(step for step in ends if step in learning),
        "right before an actor and target update": next(
            step for step in reversed(inside) if step % every == 0
        ),
        "after the last step": AGENT_STEPS,
    }


def stop(runs: Path, step: int, *more: str) -> None:
    """Run until a signal after that step, which must end it as it should."""
    ended = train(runs, *more, what=(partial(asked, "SIGTERM", step - 1),), code=75)
    assert ended.last_line.startswith(f"error: SIGTERM at agent step {step};")
    assert steps(folder(runs))[-1] == step


def test_a_run_stopped_at_every_kind_of_moment_ends_the_same(tmp_path: Path) -> None:
    train(tmp_path, what=(partial(asked, "SIGUSR1", -1),), code=75)  # while it starts
    assert steps(folder(tmp_path)) == [0]
    for step in sorted(moments().values()):
        stop(tmp_path, step)
    train(tmp_path, what=(partial(asked_in_evaluation, "SIGTERM", AGENT_STEPS),), code=75)
    assert len((folder(tmp_path) / "eval.csv").read_text().splitlines()) == 2  # header, the first
    train(tmp_path, what=(killed_at_the_end,), code=-9)
    assert steps(folder(tmp_path))[-1] == AGENT_STEPS
    assert not (folder(tmp_path) / "final.json").exists()
    finish(tmp_path)
    assert "is finished: see final.json" in finish(tmp_path).output  # and once more


def test_a_longer_budget_continues_as_if_it_had_been_so_from_the_start(tmp_path: Path) -> None:
    train(tmp_path, *small_run.HALF)
    assert json.loads((folder(tmp_path) / "final.json").read_text())["agent_step"] < AGENT_STEPS
    train(tmp_path, *small_run.WHOLE)
    assert_same(tmp_path, uninterrupted(*small_run.WHOLE))
    ended = train(tmp_path, *small_run.HALF, code=2)  # it cannot be taken back
    assert f"{small_run.HALF[0]} (was " in ended.output


def test_a_run_whose_environment_cannot_be_rebuilt_goes_on_with_a_new_episode(
    tmp_path: Path,
) -> None:
    step = moments()["within an episode"]
    stop(tmp_path, step)
    assert step not in small_run.episode_ends(newest(tmp_path).items["replay"])
    change(tmp_path, "environment", small_run.other_pixel)
    ended = train(tmp_path)
    for text in (ended.output, (folder(tmp_path) / "log.txt").read_text()):
        assert "cannot be restored as it was saved; a new" in text
    # No sequence goes over the break.
    assert step in small_run.episode_ends(newest(tmp_path).items["replay"])
    assert left(tmp_path)["train.csv"].count(b"\n") == AGENT_STEPS // LOG_EVERY + 1


def test_a_simulator_that_fails_now_and_then_ends_episodes_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_run, "FOLDER", small_run.OWN_FOLDER)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    ended = train(whole, *small_run.OWN)
    failures = newest(whole).items["progress"]["failures"]
    assert 3 <= failures <= ended.output.count("the physics exploded")
    for step in (33, 58, 77):
        stop(parts, step, *small_run.OWN)
    train(parts, *small_run.OWN)
    assert_same(parts, whole)


# --- what must have no effect ---------------------------------------------------------------------

TRAINING = ("agent", "replay", "environment", "metrics", "streams", "frames", "train.csv")


def test_neither_saving_nor_evaluating_has_an_effect(tmp_path: Path) -> None:
    never = f"evaluation.every={small_run.BUDGET}"
    ended = train(tmp_path, "checkpoint.every_steps=7", never)
    assert ended.output.count("evaluation at") == 1
    assert steps(folder(tmp_path)) == [AGENT_STEPS - AGENT_STEPS % 7, AGENT_STEPS]
    one, other = left(tmp_path), left(uninterrupted())
    assert not differences(*({part: state[part] for part in TRAINING} for state in (one, other)))


# --- determinism ----------------------------------------------------------------------------------


def test_a_seed_fixes_every_number_in_every_process(tmp_path: Path) -> None:
    """Alone in a new process, with other hash seeds, and asked to be deterministic."""
    command = [sys.executable, "train.py", *words(tmp_path, "deterministic=true")]
    subprocess.run(command, cwd=TREE, env={**os.environ, "PYTHONHASHSEED": "7"}, check=True)
    assert_same(tmp_path, uninterrupted())


@pytest.mark.cuda
def test_a_gpu_asked_to_be_deterministic_resumes_exactly(tmp_path: Path) -> None:
    more = ("device=cuda", "deterministic=true")
    stop(tmp_path, moments()["within an episode"], *more)
    train(tmp_path, *more)
    assert_same(tmp_path, uninterrupted(*more))


@pytest.mark.cuda
@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_moves_between_devices(tmp_path: Path, first: str, then: str) -> None:
    """Up to where it moved the replay is the same; then the numbers are those of the device."""
    stop(tmp_path, moments()["within an episode"], f"device={first}")
    before = frames(tmp_path)
    ended = train(tmp_path, f"device={then}")
    assert "cannot be restored" not in ended.output
    assert newest(tmp_path).step == AGENT_STEPS
    assert torch.equal(frames(tmp_path)[: len(before)], before)
