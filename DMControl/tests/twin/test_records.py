"""Tables that read back exactly and continue at the byte of the checkpoint; charts; the console."""

import csv
import errno
import itertools
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from small_checkpoints import FailingCall
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlr_dmcontrol import protocol
from mlr_dmcontrol.errors import CheckpointError
from mlr_dmcontrol.run import disk, folder
from mlr_dmcontrol.run.evaluation import EvaluationResult
from mlr_dmcontrol.run.folder import RunFolder
from mlr_dmcontrol.run.metrics import LatestMetrics
from mlr_dmcontrol.run.records import Progress, Records, SaveSchedule

NAMES = ("loss/x", "x/projection_std", "x/effective_rank", "x/cosine_similarity")
TASK = protocol.TASKS[0]
TABLES = ("train.csv", "eval.csv", "eval_episodes.csv")
PICTURE = torch.zeros(3, 8, 8, dtype=torch.uint8)


@contextmanager
def opened(
    folder: Path, state: dict[str, Any] | None = None, sink: str = "tensorboard"
) -> Iterator[Records]:
    """Records of a run in `folder`, as they were when `state` was taken."""
    progress, metrics = Progress(), LatestMetrics(NAMES[:1], torch.device("cpu"))
    with (
        RunFolder(folder, {"seed": 1}) as run,
        Records(run, progress, metrics, NAMES[1:], protocol, TASK, 100, [sink]) as records,
    ):
        run.begin()
        if state is not None:
            progress.load_state_dict(state["progress"])
            records.load_state_dict(state["records"])
        records.open({"method": "mlr", "replay_bytes": 1234})
        yield records


def state_of(records: Records) -> dict[str, Any]:
    return {"progress": records.progress.state_dict(), "records": records.state_dict()}


def live(records: Records, steps: int) -> None:
    """Train on: a row each step, an evaluation every third."""
    for _ in range(steps):
        records.progress.step(0.5, 1)
        if records.progress.agent_step % 3 == 0:
            records.episode_ended()
            records.evaluated(EvaluationResult([records.step / 7, 1.0], [8, 9], [0, 1]))
        records.log({NAMES[1]: records.step / 7})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def events(folder: Path) -> EventAccumulator:
    """What TensorBoard shows."""
    accumulator = EventAccumulator(str(folder / "tb"), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def points(folder: Path) -> list[tuple[str, int, float]]:
    """Every scalar that TensorBoard shows."""
    shown = events(folder)
    return [
        (tag, point.step, point.value)
        for tag in sorted(shown.Tags()["scalars"])
        if not tag.startswith("time/")
        for point in shown.Scalars(tag)
    ]


def test_what_is_written_reads_back_exactly(tmp_path: Path) -> None:
    numbers = [0.1, 1 / 3, 1e-300, -1.7976931348623157e308, float(torch.tensor(0.3)), 5e-324]
    with opened(tmp_path) as records:
        live(records, 3)
        for number in numbers:
            records.log({NAMES[1]: number, NAMES[2]: math.nan})
            written = rows(tmp_path / "train.csv")[-1]  # on disk at once
            assert float(written[NAMES[1]]) == number
            assert (written[NAMES[2]], written[NAMES[3]]) == ("nan", "")
        with pytest.raises(ValueError, match="x/spread"):
            records.log({"x/spread": 1.0})
        records.preview(PICTURE)
        records.preview(None)
        records.finish()
        mean = (records.step / 7 + 1.0) / 2
    returns = [row["episode_return"] for row in rows(tmp_path / "train.csv")]
    assert returns[:4] == ["", "", "1.5", ""]  # of the episodes that ended since the last row
    shown, (row,) = events(tmp_path), rows(tmp_path / "eval.csv")
    assert shown.Scalars(f"eval/{protocol.CHART}")[0].value == pytest.approx(mean)
    assert shown.Scalars(f"train/{protocol.CHART}")[0].value == 1.5
    assert shown.Images("objective/input")[0].width == 8
    assert "custom_scalars__config__" in shown.Tags()["tensors"]
    assert row["normalized"] == repr(protocol.normalize(TASK, mean))
    assert json.loads((tmp_path / "final.json").read_text()) == {
        "agent_step": 3,
        "env_step": 3,
        "metric": protocol.METRIC,
        "values": [3 / 7, 1.0],
        "mean": mean,
        "normalized": protocol.normalize(TASK, mean),
    }


@pytest.mark.parametrize(("lost", "pace"), [(0, 60), (1, -60), (4, 60)])
def test_a_resumed_run_leaves_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int, pace: int
) -> None:
    """Wherever it was cut, also between an evaluation, a picture and the row of a step.

    Every look at the clock is a minute later, or earlier.
    """
    ticks, state = itertools.count(time.time(), pace), None
    monkeypatch.setattr(time, "time", lambda: next(ticks))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with opened(whole) as records:
        live(records, 12)
    for steps in (5, 3, 4):
        with opened(parts, state) as records:
            if records.step == 5:  # what belongs to the step of the checkpoint, but came behind it
                records._plot({"eval/again": 1.0, "objective/input": PICTURE})
            live(records, steps)
            state = state_of(records)
            live(records, lost)  # done after the checkpoint
            (parts / "train.csv").open("ab").write(b"3,0.42")  # a torn row
    with opened(parts, state):
        pass
    assert [(parts / name).read_bytes() for name in TABLES] == [
        (whole / name).read_bytes() for name in TABLES
    ]
    assert sorted(points(parts)) == sorted([*points(whole), ("eval/again", 5, 1.0)])
    assert len(events(parts).Images("objective/input")) == 1


@pytest.mark.parametrize("name", ["open", "pread", "ftruncate", "fsync", "listdir", "close"])
def test_an_error_that_passes_by_itself_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(disk, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(folder, "revision", lambda: None)  # starts a process
    with opened(tmp_path / "0") as records:
        live(records, 4)
        state = state_of(records)
    for number in range(1, 100):
        path = tmp_path / str(number)
        shutil.copytree(tmp_path / "0", path)
        fault = FailingCall(name, number, errno.ESTALE)
        with patch.object(os, name, fault), opened(path, state):
            pass
        if fault.count < number:
            break
    assert 1 < number < 99
    assert [row["agent_step"] for row in rows(path / "train.csv")] == list("1234")
    assert [event.step for event in events(path).Scalars(NAMES[1])] == [1, 2, 3, 4]


def test_charts_survive_a_start_without_them_and_their_loss(tmp_path: Path) -> None:
    state = None
    with opened(tmp_path) as records:
        live(records, 4)  # without a checkpoint, so that the next start begins anew
    for sink in ("tensorboard", "none", "tensorboard"):
        with opened(tmp_path, state, sink) as records:
            live(records, 2)
            state = state_of(records)
    assert [row["agent_step"] for row in rows(tmp_path / "train.csv")] == list("123456")
    assert [event.step for event in events(tmp_path).Scalars(NAMES[1])] == [1, 2, 5, 6]
    shutil.rmtree(tmp_path / "tb")
    with opened(tmp_path, state) as records:
        live(records, 1)
    assert [event.step for event in events(tmp_path).Scalars(NAMES[1])] == [7]


WANDB = """
class Settings:
    def __init__(self, **options): pass
def Image(pixels): return pixels.shape
class Run:
    def log(self, values, step):
        if step > 2: raise OSError("the network is gone")
        print("logged", step, *values, flush=True)
    def finish(self): raise AssertionError("it is off")
def init(**options):
    print("begun", options["mode"], flush=True)
    return Run()
"""


def test_wandb_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with opened(tmp_path / "run", sink="wandb") as records:
        records.preview(PICTURE)
        live(records, 4)
    monkeypatch.delitem(sys.modules, "wandb")
    printed = capsys.readouterr()
    assert printed.out.startswith("begun offline\nlogged 0 objective/input\n")
    assert f"logged 2 {NAMES[1]}\n" in printed.out
    assert printed.err.count("the network is gone") == 1
    assert len(rows(tmp_path / "run" / "train.csv")) == 4
    assert not (tmp_path / "run" / "tb").exists()


def test_lost_rows_and_other_columns_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as records:
        live(records, 4)
        state = state_of(records)
        live(records, 4)
    train, text = ((tmp_path / name).read_text() for name in ("train.csv", "eval.csv"))
    for wrong in (text.replace("mean", "best"), text[:10], text.replace("0", "1")):
        (tmp_path / "eval.csv").write_text(wrong)
        with pytest.raises(CheckpointError, match=r"eval\.csv"), opened(tmp_path, state):
            pass
        assert (tmp_path / "eval.csv").read_text() == wrong  # nothing was touched,
        assert (tmp_path / "train.csv").read_text() == train  # nor what is not damaged


def test_rows_wait_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as records:
        live(records, 2)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full_after(4))
            live(records, 2)
            with pytest.raises(OSError, match="No space"):
                records.state_dict()  # so that no checkpoint points behind the file's end
        live(records, 2)
    assert [row["agent_step"] for row in rows(tmp_path / "train.csv")] == list("123456")
    assert [row["agent_step"] for row in rows(tmp_path / "eval.csv")] == list("36")


def full_after(room: int) -> Callable[[int, bytes, int], int]:
    """A disk with room for so many more bytes."""
    real = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(descriptor, data[:room], offset)
        room -= written
        return written

    return pwrite


# ---- the console, and log.txt -----------------------------------------------------------------


def test_warnings_are_shown_and_all_messages_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("mlr_dmcontrol.run.checkpoint")
    with pytest.raises(ValueError), opened(tmp_path) as records:
        logger.info("saved step_000000003")
        logger.warning("disk is %s", "full")
        collapses = [(0.9, 12.0), (0.004, 12.0), (0.004, 1.2), (0.004, 1.2), (0.9, 12.0), (0, 1)]
        for spread, rank in collapses:
            records.progress.step(0.0, 1)
            records.log({NAMES[1]: spread, NAMES[2]: rank, NAMES[3]: 0.0})
        raise ValueError("why it ended")
    logger.warning("after the run")
    text, shown = (tmp_path / "log.txt").read_text(), capsys.readouterr().err
    assert "INFO saved step_000000003" in text
    assert "ERROR ValueError: why it ended" in text
    assert "warning: disk is full\n" in shown
    assert "saved" not in shown
    assert "after the run" not in text + shown
    fell = [line.split()[1] for line in shown.splitlines() if "collapse" in line]
    assert fell == [NAMES[1], NAMES[2], NAMES[2], NAMES[1]]  # each time as it begins


@pytest.mark.parametrize("terminal", [False, True, None])
def test_what_is_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal: bool | None,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    error = SimpleNamespace(write=sys.stderr.write, flush=sys.stderr.flush)  # put in its place
    if terminal is not None:
        error.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setenv("COLUMNS", "100")
    with opened(tmp_path) as records:
        now += 60.0
        live(records, 3)
        for second in range(150):  # of a long evaluation
            now += 1.0
            records.evaluating(EvaluationResult([0.0] * 5, [second], []))
    text = capsys.readouterr().err
    assert text.startswith(f"MLR on {protocol.NAME}\n  method        mlr\n")
    assert "  replay bytes  1,234\n" in text
    assert text.count("evaluation at 3 ") == 1
    assert f"3 of 100 {protocol.STEP_NAME}, 0:32:20 left, 0.1 a second, return 1.5" in text
    # A line, or a bar in the same place of which the last one is left.
    assert ("\r\x1b[K" in text, f"[#{' ' * 19}] 3 of" in text) == (bool(terminal), bool(terminal))
    assert text.endswith("\n")
    assert text.count("evaluation: 0 of 5 episodes") == 2  # after each minute of silence


# ---- how far a run has come ----------------------------------------------------------------


def test_when_a_checkpoint_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    by_time, by_steps, never = (SaveSchedule(*due) for due in ((5.0, 0), (0.0, 7), (0.0, 0)))
    for _ in range(2):
        now += 299.0
        assert not by_time.due(3)
        now += 1.0
        assert by_time.due(3)
        by_time.saved(3)
    assert [step for step in range(23) if by_steps.due(step)] == [7, 14, 21]
    by_steps.saved(14)  # written or restored there, so never again
    assert [step for step in range(1, 23) if by_steps.due(step)] == [7, 21]
    now += 1e9
    assert not never.due(3)


def test_counters_come_back() -> None:
    one, other = Progress(), Progress()
    one.begin_episode()
    one.step(1.5, 4)
    one.finished_returns.append(3.0)
    assert one.watched() == {"agent_step": 1, "episode_returns": 4.5}
    other.load_state_dict(one.state_dict())
    assert other == one
    one.finished_returns.append(5.0)
    assert other.finished_returns == [3.0]
    one.step(math.nan, 4)
    one.finished_returns.append(one.episode_return)
    one.begin_episode()
    assert math.isnan(one.watched()["episode_returns"])  # a bad reward stays there
