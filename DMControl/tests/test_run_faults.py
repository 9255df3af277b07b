"""Whole runs that are damaged, out of disk, misused or wrong (R6, R7, R14, R16-R18).

The same file in both trees; real processes throughout, on real run folders.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import AGENT_STEPS, LEARNING_STARTS, LOG_EVERY
from stopped_run import EVERY, SAVING, STOPPED, finish, stopped_copy
from whole_runs import (
    PACKAGE,
    TABLES,
    assert_same,
    checkpoints,
    folder,
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


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    return stopped_copy(tmp_path)


def contents(runs: Path) -> dict[str, tuple[bytes, int]]:
    """Every file of the run's folder, but for the log and the lock, and when it was changed."""
    files = (each for each in folder(runs).rglob("*") if each.is_file())
    return {
        str(each): (each.read_bytes(), each.stat().st_mtime_ns)
        for each in files
        if each.name not in ("log.txt", "run.lock")
    }


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
        assert any(not math.isfinite(float(each)) for each in report["metrics"].values())
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
    first.kill(signal.SIGSTOP)  # so that it is still there when the other one looks
    second = train_alone(stopped, SAVING)
    first.kill(signal.SIGCONT)
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
