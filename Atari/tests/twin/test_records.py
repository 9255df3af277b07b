"""Tables that read back exactly and continue at the byte of the checkpoint; charts; the console."""

from __future__ import annotations

import csv
import errno
import io
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
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlr_atari import protocol
from mlr_atari.errors import CheckpointError
from mlr_atari.run.evaluation import EvaluationResult
from mlr_atari.run.folder import RunFolder
from mlr_atari.run.progress import LastMetrics, Progress
from mlr_atari.run.records import Console, CsvTable, Records

NAMES = ("loss/x", "x/projection_std", "x/effective_rank", "x/cosine_similarity")
TASK = protocol.TASKS[0]


@contextmanager
def opened(folder: Path, state: dict[str, Any] | None = None, **options: Any) -> Iterator[Records]:
    """Records of a run in `folder`, as they were when `state` was taken."""
    progress, metrics = Progress(), LastMetrics(NAMES[:1], torch.device("cpu"))
    options = {"sinks": ["tensorboard"], "stream": io.StringIO(), **options}
    with (
        RunFolder(folder, {"seed": 1}) as run,
        Records(run, progress, metrics, NAMES[1:], protocol, TASK, 100, **options) as records,
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


def test_rows_have_a_fixed_header_and_read_back_exactly(tmp_path: Path) -> None:
    numbers = [0.1, 1 / 3, 1e-300, -1.7976931348623157e308, float(torch.tensor(0.3)), 5e-324]
    path = tmp_path / "x.csv"
    table = CsvTable(path, ("env_step", "loss", "note"))
    table.open()
    assert not path.read_bytes()
    table.cut()
    for step, number in enumerate(numbers):
        table.row({"loss": number, "env_step": step, "note": 'a "b", c'})
        assert len(rows(path)) == step + 1  # on disk at once
    table.row({"env_step": 2**60, "loss": math.nan})
    with pytest.raises(ValueError, match="los"):
        table.row({"los": 1})
    table.close()
    first, last = rows(path)[0], rows(path)[-1]
    assert [float(row["loss"]) for row in rows(path)[:-1]] == numbers
    assert first == {"env_step": "0", "loss": "0.1", "note": 'a "b", c'}
    assert last == {"env_step": str(2**60), "loss": "nan", "note": ""}


@pytest.fixture(params=[60, -60])
def jumping_clock(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Every look at the clock is a minute later, or earlier."""
    ticks = itertools.count(time.time(), request.param)
    monkeypatch.setattr(time, "time", lambda: next(ticks))


def points(folder: Path) -> list[tuple[str, int, float]]:
    """Every scalar that TensorBoard shows."""
    shown = events(folder)
    return [
        (tag, point.step, point.value)
        for tag in sorted(shown.Tags()["scalars"])
        if not tag.startswith("time/")
        for point in shown.Scalars(tag)
    ]


@pytest.mark.usefixtures("jumping_clock")
@pytest.mark.parametrize("lost", [0, 1, 4])
def test_a_resumed_run_leaves_the_same_files(tmp_path: Path, lost: int) -> None:
    """Wherever it was cut: also between an evaluation, a picture and the row of a step."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with opened(whole) as records:
        live(records, 12)
    state = None
    for steps in (5, 3, 4):
        with opened(parts, state) as records:
            if records.step == 5:  # what belongs to the step of the checkpoint, but came behind it
                records._plot({"eval/again": 1.0, "objective/input": torch.zeros(3, 8, 8).byte()})
            live(records, steps)
            state = state_of(records)
            live(records, lost)  # done after the checkpoint
            (parts / "train.csv").open("ab").write(b"3,0.42")  # a torn row
    with opened(parts, state):
        pass
    for name in ("train.csv", "eval.csv", "eval_episodes.csv"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    again = ("eval/again", 5, 1.0)
    assert sorted(points(parts)) == sorted([*points(whole), again])
    assert len(events(parts).Images("objective/input")) == 1


def test_a_start_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    for _ in range(2):
        with opened(tmp_path) as records:
            live(records, 4)
    assert [row["agent_step"] for row in rows(tmp_path / "train.csv")] == list("1234")
    assert [event.step for event in events(tmp_path).Scalars(NAMES[1])] == [1, 2, 3, 4]


def test_charts_survive_a_start_without_them_and_their_loss(tmp_path: Path) -> None:
    state = None
    for sinks in (["tensorboard"], [], ["tensorboard"]):
        with opened(tmp_path, state, sinks=sinks) as records:
            live(records, 2)
            state = state_of(records)
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


def test_wandb_is_used_only_if_asked_for_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with opened(tmp_path / "without") as records:
        live(records, 3)
    assert "wandb" not in sys.modules
    stream = io.StringIO()
    with opened(tmp_path / "with", sinks=["wandb"], stream=stream) as records:
        records.preview(torch.zeros(3, 8, 8, dtype=torch.uint8))
        live(records, 4)
    monkeypatch.delitem(sys.modules, "wandb")
    printed = capsys.readouterr().out
    assert printed.startswith("begun offline\nlogged 0 objective/input\n")
    assert f"logged 2 {NAMES[1]}\n" in printed
    assert stream.getvalue().count("the network is gone") == 1
    assert len(rows(tmp_path / "with" / "train.csv")) == 4
    assert not (tmp_path / "with" / "tb").exists()


def test_lost_rows_and_other_columns_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as records:
        live(records, 4)
        state = state_of(records)
        live(records, 4)
    train, text = ((tmp_path / name).read_text() for name in ("train.csv", "eval.csv"))
    cases = {"columns": text.replace("mean", "best"), "bytes": text[:10]}
    cases["other rows"] = text.replace("0", "1")
    for message, wrong in cases.items():
        (tmp_path / "eval.csv").write_text(wrong)
        with pytest.raises(CheckpointError, match=message), opened(tmp_path, state):
            pass
        assert (tmp_path / "eval.csv").read_text() == wrong  # nothing was touched,
        assert (tmp_path / "train.csv").read_text() == train  # nor what is not damaged
    state["records"] = {"sizes": {"train": 3}, "ends": {"train": b""}, "charts": {}}
    with pytest.raises(CheckpointError, match="tables"), opened(tmp_path, state):
        pass


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


def full_after(count: int) -> Callable[[int, bytes, int], int]:
    """A disk with room for `count` more bytes."""
    real, room = os.pwrite, [count]

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(descriptor, data[: room[0]], offset)
        room[0] -= written
        return written

    return pwrite


def test_charts_and_final_json(tmp_path: Path) -> None:
    with opened(tmp_path) as records:
        live(records, 3)
        records.preview(torch.zeros(3, 8, 8, dtype=torch.uint8))
        records.preview(None)
        records.finish()
        mean = (records.step / 7 + 1.0) / 2
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


def test_messages_of_the_package_go_to_the_log_and_warnings_are_shown(tmp_path: Path) -> None:
    logger, stream = logging.getLogger("mlr_atari.run.checkpoint"), io.StringIO()
    with pytest.raises(ValueError), opened(tmp_path, stream=stream):
        logger.info("saved step_000000003")
        logger.warning("disk is %s", "full")
        raise ValueError("why it ended")
    logger.warning("after the run")
    text, shown = (tmp_path / "log.txt").read_text(), stream.getvalue()
    assert "INFO saved step_000000003" in text
    assert "ERROR ValueError: why it ended" in text
    assert "warning: disk is full\n" in shown
    assert "saved" not in shown
    assert "after the run" not in text + shown


def test_a_collapse_is_announced_when_it_begins(tmp_path: Path) -> None:
    stream = io.StringIO()
    with opened(tmp_path, stream=stream) as records:

        def announced(spread: float, rank: float) -> list[str]:
            """Warnings at a row with these values."""
            before = len(stream.getvalue())
            records.log({NAMES[1]: spread, NAMES[2]: rank, NAMES[3]: 0.0})
            lines = stream.getvalue()[before:].splitlines()
            return [line.partition(" fell")[0] for line in lines if "collapse" in line]

        assert announced(0.9, 12.0) == []
        assert announced(0.004, 12.0) == [f"warning: {NAMES[1]}"]
        assert announced(0.004, 1.2) == [f"warning: {NAMES[2]}"]
        assert announced(0.004, 1.2) == []
        assert announced(0.9, 12.0) == []
        assert len(announced(0.0, 1.0)) == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_without_a_terminal_and_a_bar_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    for stream in (io.StringIO(), Terminal()):
        console = Console(1000, "env steps", stream)
        console.start(200, "MLR", {"task": "cartpole", "agent_steps": 12500})
        console.progress(600, {"return": 123.456, "loss": 0.00012345})
        console.line("evaluation at 600: 130.2")
        console.close()
        text = stream.getvalue()
        assert text.startswith("MLR\n  task         cartpole\n  agent steps  12,500\n")
        assert "600/1000" in text
        assert "return 123.5, loss 0.0001234" in text
        assert "evaluation at 600: 130.2\n" in text
        assert ("\r" in text) == stream.isatty()
        assert text.endswith("\n")


def test_a_long_evaluation_shows_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stream, terminal = io.StringIO(), Terminal()
    for shown in (stream, terminal):
        console = Console(1000, "env steps", shown)
        console.start(0, "MLR", {})
        for second in range(150):
            now += 1.0
            console.under_way(f"step {second}")
    assert stream.getvalue() == "MLR\nstep 60\nstep 121\n"
    assert terminal.getvalue().count("step") > 100
