"""Whole runs: stopped and resumed they end as if nothing had been (R1-R4, R9, R19; both trees).

"The same" is: every tensor and number of the final checkpoint, the replay's frames, the bytes of
every table and of final.json, and TensorBoard's curves.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_run
import torch
from small_run import AGENT_STEPS, EVALUATION_AT, LEARNING_STARTS, LOG_EVERY
from whole_runs import (
    Ended,
    assert_same,
    differences,
    folder,
    forge,
    frames,
    left,
    newest,
    steps,
    train,
    train_alone,
    uninterrupted,
)

BEFORE_LEARNING, MIDDLE, END, BEFORE_UPDATE, LAST = MOMENTS = (
    "before learning starts",
    "in the middle of an episode",
    "at the end of an episode",
    "right before an actor and target update",
    "after the last step",
)


def moment(name: str) -> int:
    """The agent step after which the run is stopped."""
    ends = small_run.episode_ends(newest(uninterrupted()).items["replay"])
    learning = range(LEARNING_STARTS + 2, AGENT_STEPS - 1)
    inside = [step for step in learning if step not in ends and step != EVALUATION_AT]
    every = small_run.ACTOR_EVERY
    return {
        BEFORE_LEARNING: LEARNING_STARTS - 5,
        MIDDLE: next(step for step in inside if (step + 1) % every == 0 or every == 1),
        END: next(step for step in ends if step in learning),
        BEFORE_UPDATE: next(step for step in reversed(inside) if step % every == 0),
        LAST: AGENT_STEPS,
    }[name]


def stop(runs: Path, name: str, signal: str = "SIGTERM") -> Ended:
    """Run until the signal at that moment, which must end it as it should."""
    step = moment(name)
    ended = train(runs, signal=signal, at_step=step - 1, generators=True)
    assert ended.code == 75, ended.output
    assert f"error: {signal} at agent step {step}; the same command goes on" in ended.output
    assert steps(runs)[-1] == step
    return ended


def finish(runs: Path) -> Ended:
    ended = train(runs, generators=True)
    assert ended.code == 0, ended.output
    assert_same(runs, uninterrupted())
    return ended


def generators(ended: Ended, when: str) -> dict[str, str]:
    """Digests of all random generators that the run had when it was last saved, or restored."""
    lines = [each for each in ended.output.splitlines() if each.startswith(f"generators {when} ")]
    found = json.loads(lines[-1].removeprefix(f"generators {when} "))
    # Evaluation seeds its own at the beginning of every episode.
    return {name: value for name, value in found.items() if "evaluation_envs" not in name}


def test_a_run_stopped_at_every_kind_of_moment_ends_the_same(tmp_path: Path) -> None:
    """All in one run; also no generator is missing from what is saved."""
    before: Ended | None = None
    for name in sorted(MOMENTS, key=moment):
        ended = stop(tmp_path, name)
        if before is not None:
            assert generators(ended, "restored") == generators(before, "saved")
            assert len(generators(ended, "restored")) >= 6
        before = ended
    ended = train(tmp_path, signal="SIGTERM", in_evaluation=AGENT_STEPS)
    assert ended.code == 75, ended.output
    assert len((folder(tmp_path) / "eval.csv").read_text().splitlines()) == 2  # header, the first
    finish(tmp_path)
    ended = train(tmp_path)  # and once more
    assert ended.code == 0
    assert f"{folder(tmp_path)} is finished: see final.json; nothing to do" in ended.output


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "signal"),
    [*((each, "SIGTERM") for each in MOMENTS), (MIDDLE, "SIGINT"), (MIDDLE, "SIGUSR1")],
)
def test_stopped_once_by_any_signal(tmp_path: Path, name: str, signal: str) -> None:
    ended = stop(tmp_path, name, signal)
    assert generators(finish(tmp_path), "restored") == generators(ended, "saved")


@pytest.mark.soak
@pytest.mark.parametrize("step", [EVALUATION_AT, AGENT_STEPS])
def test_an_interrupted_evaluation_is_repeated(tmp_path: Path, step: int) -> None:
    ended = train(tmp_path, signal="SIGTERM", in_evaluation=step)
    assert ended.code == 75, ended.output
    assert steps(tmp_path) == [step]
    tables = [folder(tmp_path) / f"{name}.csv" for name in ("eval", "eval_episodes")]
    assert all(f"\n{step}," not in each.read_text() for each in tables)
    finish(tmp_path)


@pytest.mark.soak
def test_stopped_while_it_starts(tmp_path: Path) -> None:
    """The signal comes before the first step."""
    for _ in range(2):
        ended = train(tmp_path, signal="SIGTERM")
        assert ended.code == 75, ended.output
        assert set(steps(tmp_path)) == {0}
    finish(tmp_path)


# --- a longer budget ------------------------------------------------------------------------------


def test_a_longer_budget_continues_as_if_it_had_been_so_from_the_start(tmp_path: Path) -> None:
    ended = train(tmp_path, *small_run.HALF)
    assert ended.code == 0, ended.output
    assert json.loads((folder(tmp_path) / "final.json").read_text())["agent_step"] < AGENT_STEPS
    ended = train(tmp_path, *small_run.WHOLE)
    assert ended.code == 0, ended.output
    assert_same(tmp_path, uninterrupted(*small_run.WHOLE))
    ended = train(tmp_path, *small_run.HALF)  # it cannot be taken back
    assert ended.code == 2
    assert f"{small_run.HALF[0]} (was " in ended.output


# --- an environment that cannot be rebuilt --------------------------------------------------------


def test_a_run_whose_environment_differs_goes_on_with_a_new_episode(tmp_path: Path) -> None:
    stop(tmp_path, MIDDLE)
    before, step = newest(tmp_path).items, moment(MIDDLE)
    forge(newest(tmp_path).folder, "environment", small_run.other_pixel)
    ended = train(tmp_path)
    assert ended.code == 0, ended.output
    for text in (ended.output, (folder(tmp_path) / "log.txt").read_text()):
        assert "cannot be restored as it was saved; a new" in text
    after = newest(tmp_path).items
    assert step not in small_run.episode_ends(before["replay"])
    assert step in small_run.episode_ends(after["replay"])  # no sequence goes over the break
    assert left(tmp_path)["train.csv"].count(b"\n") == AGENT_STEPS // LOG_EVERY + 1


# --- what must have no effect ---------------------------------------------------------------------

TRAINING = ("agent", "replay", "environment", "metrics", "streams", "frames")


def test_neither_saving_nor_evaluating_has_an_effect(tmp_path: Path) -> None:
    never = f"evaluation.every={small_run.BUDGET}"
    ended = train(tmp_path, "checkpoint.every_steps=7", never)
    assert ended.code == 0, ended.output
    assert ended.output.count("evaluation at") == 1
    assert steps(tmp_path) == [AGENT_STEPS - AGENT_STEPS % 7, AGENT_STEPS]
    one, other = left(tmp_path), left(uninterrupted())
    assert one["train.csv"] == other["train.csv"]
    assert not [found for part in TRAINING for found in differences(one[part], other[part], part)]


@pytest.mark.soak
def test_saving_has_no_effect_at_all(tmp_path: Path) -> None:
    ended = train(tmp_path, "checkpoint.every_steps=7")
    assert ended.code == 0, ended.output
    assert_same(tmp_path, uninterrupted())


@pytest.mark.soak
def test_evaluation_in_other_processes_finds_the_same(tmp_path: Path) -> None:
    ended = train(tmp_path, "evaluation.processes=2")
    assert ended.code == 0, ended.output
    assert_same(tmp_path, uninterrupted())


# --- determinism ----------------------------------------------------------------------------------


def test_a_seed_fixes_every_number_in_every_process(tmp_path: Path) -> None:
    """Alone in a new process, with other hash seeds, and asked to be deterministic."""
    ended = train_alone(tmp_path, "deterministic=true", PYTHONHASHSEED="7")
    assert ended.code == 0, ended.output
    assert_same(tmp_path, uninterrupted())


@pytest.mark.soak
def test_another_seed_gives_other_numbers(tmp_path: Path) -> None:
    ended = train(tmp_path, "seed=2", "tag=same")
    assert ended.code == 0, ended.output
    (path,) = tmp_path.glob("*/*/seed_2")
    (tmp_path / small_run.FOLDER).parent.mkdir(parents=True, exist_ok=True)
    path.rename(folder(tmp_path))
    one, other = left(tmp_path), left(uninterrupted())
    for part in ("agent", "replay", "streams", "frames", "train.csv", "eval.csv"):
        assert list(differences(one[part], other[part])), part


@pytest.mark.cuda
def test_a_gpu_asked_to_be_deterministic_resumes_exactly(tmp_path: Path) -> None:
    words = ("device=cuda", "deterministic=true")
    ended = train(tmp_path, *words, signal="SIGTERM", at_step=moment(MIDDLE) - 1)
    assert ended.code == 75, ended.output
    ended = train(tmp_path, *words)
    assert ended.code == 0, ended.output
    assert_same(tmp_path, uninterrupted(*words))


@pytest.mark.cuda
@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_moves_between_devices(tmp_path: Path, first: str, then: str) -> None:
    """Up to where it moved the replay is the same; then the numbers are those of the device."""
    step = moment(MIDDLE)
    ended = train(tmp_path, f"device={first}", signal="SIGTERM", at_step=step - 1)
    assert ended.code == 75, ended.output
    before = newest(tmp_path)
    ended = train(tmp_path, f"device={then}")
    assert ended.code == 0, ended.output
    assert "cannot be restored" not in ended.output
    after = newest(tmp_path)
    assert after.step == AGENT_STEPS
    assert torch.equal(frames(after)[: len(frames(before))], frames(before))
