"""Whole runs that are killed, damaged, out of disk, misused or wrong (R5-R7, R14, R16-R18).

The same file in both trees; real processes throughout, on real run folders.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import random
import shutil
import signal
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import AGENT_STEPS, LEARNING_STARTS, LOG_EVERY
from whole_runs import (
    PACKAGE,
    TABLES,
    assert_same,
    checkpoints,
    folder,
    new_folder,
    newest,
    register,
    server,
    steps,
    storage,
    train,
    train_alone,
    uninterrupted,
    words,
)

guard = importlib.import_module(f"{PACKAGE}.run.guard")

EVERY = 5  # agent steps between checkpoints here
SAVING = f"checkpoint.every_steps={EVERY}"
STOPPED = LEARNING_STARTS + 18  # where the run is that most tests begin with


@cache
def stopped_once() -> Path:
    """`runs` of a run that was stopped between two checkpoints."""
    runs = new_folder()
    ended = train(runs, SAVING, signal="SIGTERM", at_step=STOPPED - 1)
    assert ended.code == 75, ended.output
    assert steps(runs) == [STOPPED - STOPPED % EVERY, STOPPED]
    return runs


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(stopped_once(), tmp_path, dirs_exist_ok=True)
    return tmp_path


def contents(runs: Path) -> dict[str, tuple[bytes, int]]:
    """Every file of the run's folder, but for the log and the lock, and when it was changed."""
    files = (each for each in folder(runs).rglob("*") if each.is_file())
    return {
        str(each): (each.read_bytes(), each.stat().st_mtime_ns)
        for each in files
        if each.name not in ("log.txt", "run.lock")
    }


def finish(runs: Path, *more: str) -> None:
    ended = train(runs, *more)
    assert ended.code == 0, ended.output
    assert_same(runs, uninterrupted())


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


# --- damaged --------------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGES = (truncated, flipped, Path.unlink)


def test_every_damaged_file_of_a_checkpoint_is_noticed(stopped: Path) -> None:
    good = newest(stopped)
    files = sorted(good.folder.iterdir())
    assert {each.stem for each in files} >= {*good.items, "manifest", "frames_head"}
    for path in files:
        content = path.read_bytes()
        for damage in DAMAGES:
            damage(path)
            assert newest(stopped).step == STOPPED - STOPPED % EVERY, (path, damage)
            path.write_bytes(content)
    assert newest(stopped).step == STOPPED


def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(stopped: Path) -> None:
    flipped(newest(stopped).folder / "agent.pt")
    ended = train(stopped, SAVING)
    assert ended.code == 0, ended.output
    reason = f"checkpoint cannot be used: step_{STOPPED:09d}: agent.pt has another checksum"
    assert f"warning: {reason}" in ended.output
    assert reason in (folder(stopped) / "log.txt").read_text()
    assert_same(stopped, uninterrupted())


def test_a_run_with_only_damaged_checkpoints_is_left_alone(stopped: Path) -> None:
    for path in (folder(stopped) / "checkpoints").glob("step_*"):
        truncated(path / "replay.pt")
    before = contents(stopped)
    ended = train(stopped, SAVING)
    assert ended.code == 2, ended.output
    assert "none of the 2 checkpoints can be used" in ended.output.splitlines()[-1]
    assert contents(stopped) == before


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_a_malicious_checkpoint_is_refused_and_does_not_run(stopped: Path) -> None:
    checkpoint, marker = newest(stopped).folder, stopped / "marker"
    path = checkpoint / "agent.pt"
    torch.save({"networks": Payload(marker)}, path)
    torch.load(path, weights_only=False)
    marker.rmdir()  # it would have run
    with storage.HashedFile(checkpoint / "copy.pt") as file:
        file.write(path.read_bytes())
    (checkpoint / "copy.pt").unlink()
    register(checkpoint, "agent", {**file.entry(), "file": "agent.pt"})
    ended = train(stopped, SAVING)
    assert ended.code == 0, ended.output
    assert "agent.pt is no file of tensors and plain values" in ended.output
    assert not marker.exists()
    assert_same(stopped, uninterrupted())


def test_a_lost_row_is_refused_and_nothing_is_changed(stopped: Path) -> None:
    table = folder(stopped) / TABLES[0]
    table.write_bytes(table.read_bytes()[:-5])
    before = contents(stopped)
    ended = train(stopped, SAVING)
    assert ended.code == 2, ended.output
    assert "when the checkpoint was saved" in ended.output.splitlines()[-1]
    changed = {name for name, content in contents(stopped).items() if content != before.get(name)}
    assert {Path(name).name for name in changed} <= {"run.json", "config.yaml"}


# --- the disk -------------------------------------------------------------------------------------


def test_a_save_that_fails_costs_nothing_else(tmp_path: Path) -> None:
    faults = {"failing_saves": (2, 3), "fail": "middle", "error": "ENOSPC"}
    ended = train(tmp_path, f"checkpoint.every_steps={AGENT_STEPS // 4}", **faults)
    assert ended.code == 0, ended.output
    warning = "could not be saved ([Errno 28] No space left on device); training goes on"
    assert ended.output.count(warning) == 2
    assert "(2 of 3)" in ended.output
    assert_same(tmp_path, uninterrupted())


@pytest.mark.soak
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("fail", ["first", "middle", "last"])
def test_a_fault_at_any_write_costs_one_checkpoint(tmp_path: Path, fail: str, error: str) -> None:
    faults = {"failing_saves": (3, 3), "fail": fail, "error": error}
    ended = train(tmp_path, SAVING, signal="SIGKILL", at_step=3 * EVERY + 1, **faults)
    assert ended.code == -signal.SIGKILL
    assert "training goes on, last good step: 10 (1 of 3)" in ended.output
    assert steps(tmp_path) == [EVERY, 2 * EVERY]
    assert not [*(folder(tmp_path) / "checkpoints").glob(".*")]
    finish(tmp_path)


def test_a_disk_that_stays_full_ends_the_run_which_goes_on_later(tmp_path: Path) -> None:
    faults = {"failing_saves": (3, 5), "fail": "all", "error": "ENOSPC"}
    ended = train(tmp_path, SAVING, **faults)
    assert ended.code == 3, ended.output
    last = ended.output.splitlines()[-1]
    assert last.startswith("error: ")
    assert f"step {5 * EVERY} could not be saved" in last
    assert f"last good step: {2 * EVERY}; make room, then run the same command again" in last
    assert steps(tmp_path) == [EVERY, 2 * EVERY]
    finish(tmp_path, SAVING)


# --- numbers that are none ------------------------------------------------------------------------


def spoil_and_check(runs: Path, where: str) -> None:
    """A NaN from some step on ends the run soon, and is in no checkpoint."""
    step = LEARNING_STARTS + 7
    ended = train(runs, f"checkpoint.every_steps={3 * EVERY}", spoil=where, at_step=step)
    assert ended.code == 4, ended.output
    assert ended.output.splitlines()[-1].startswith("error: ")
    report = json.loads((folder(runs) / "nonfinite.json").read_text(), parse_constant=pytest.fail)
    assert step <= report["agent_step"] <= step + LOG_EVERY
    if where == "reward":
        assert report["episode_returns"] == "nan"
    else:
        assert report["update_step"] == step - LEARNING_STARTS  # the very first one
        numbers = {**report["losses"], **report["norms"]}
        assert any(not math.isfinite(float(each)) for each in numbers.values())
        indices = [each for drawn in report["indices"].values() for each in drawn]
        assert indices
        assert all(0 <= each < AGENT_STEPS for each in indices)
    saved = newest(runs)
    assert saved.step <= step
    assert guard.first_non_finite(saved.items) is None
    assert json.loads((folder(runs) / "run.json").read_text())["status"] == "failed"


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    spoil_and_check(tmp_path, "loss")


@pytest.mark.soak
@pytest.mark.parametrize("where", ["reward", "scale", "gradient", "parameter"])
def test_a_nan_anywhere_ends_the_run(tmp_path: Path, where: str) -> None:
    spoil_and_check(tmp_path, where)


# --- who may do what in a folder ------------------------------------------------------------------


def test_a_second_process_is_told_who_is_there(stopped: Path) -> None:
    first = server().start(words(stopped, SAVING), report=True)
    first.wait_for("\nat ")
    second = train_alone(stopped, SAVING)
    assert second.code == 2, second.output
    who = f"error: runs_dir: {folder(stopped)} is in use by process {first.pid} on "
    assert second.output.startswith(who)
    assert first.end().code == 0
    assert_same(stopped, uninterrupted())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["agent.mask_ratio=0.3"], "agent.mask_ratio=0.3 (was 0.5): not what the run in"),
        (["resume=never"], "already holds a run"),
        (["budget=-1"], "budget=-1"),
        (["agent.mask_ratoi=0.3"], "mask_ratio"),
    ],
)
def test_what_does_not_fit_is_refused(stopped: Path, changes: list[str], message: str) -> None:
    before = contents(stopped)
    ended = train(stopped, SAVING, *changes)
    assert ended.code == 2, ended.output
    (line,) = ended.output.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert contents(stopped) == before


def test_resume_must_wants_a_checkpoint(tmp_path: Path, stopped: Path) -> None:
    ended = train(tmp_path / "new", "resume=must")
    assert ended.code == 2
    assert "holds no checkpoint" in ended.output
    ended = train(stopped, "resume=must", signal="SIGTERM", at_step=STOPPED)
    assert ended.code == 75, ended.output
    assert steps(stopped)[-1] == STOPPED + 1


@pytest.mark.soak
def test_all_checkpoints_load_as_tensors_and_plain_values() -> None:
    for path in (folder(uninterrupted()) / "checkpoints").rglob("*.pt"):
        torch.load(path, weights_only=True)
    assert checkpoints.Checkpointer(folder(uninterrupted())).newest(["agent"]) is not None
