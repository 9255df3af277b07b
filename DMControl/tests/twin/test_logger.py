"""Tables that read back exactly and continue at the byte of the checkpoint (R24)."""

from __future__ import annotations

import csv
import errno
import itertools
import logging
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlr_dmcontrol.errors import CheckpointError
from mlr_dmcontrol.run.logger import RunLogger, fetch

TABLES = {"train": ("env_step", "loss", "note"), "eval": ("env_step", "return")}


@contextmanager
def opened(folder: Path, state: dict[str, Any] | None = None) -> Iterator[RunLogger]:
    layout = {"run": {"loss": ["Multiline", ["loss/.*"]]}}
    with RunLogger(folder, TABLES, layout=layout) as logger:
        if state is not None:
            logger.load_state_dict(state)
        logger.open()
        yield logger


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def events(folder: Path) -> EventAccumulator:
    """What TensorBoard shows."""
    accumulator = EventAccumulator(str(folder / "tb"), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def test_nothing_is_written_before_it_is_opened(tmp_path: Path) -> None:
    with RunLogger(tmp_path, TABLES):
        assert not list(tmp_path.iterdir())


def test_rows_have_a_fixed_header_and_read_back_exactly(tmp_path: Path) -> None:
    numbers = [0.1, 1 / 3, 1e-300, -1.7976931348623157e308, float(torch.tensor(0.3)), 5e-324]
    with opened(tmp_path) as logger:
        for step, number in enumerate(numbers):
            logger.row("train", {"loss": number, "env_step": step, "note": 'a "b", c'})
            assert len(rows(tmp_path / "train.csv")) == step + 1  # on disk at once
        logger.row("train", {"env_step": 99})
        logger.row("train", {"env_step": 2**60, "loss": math.nan, "note": True})
    found = rows(tmp_path / "train.csv")
    assert list(found[0]) == ["env_step", "loss", "note"]
    assert [float(each["loss"]) for each in found[: len(numbers)]] == numbers
    assert found[0]["note"] == 'a "b", c'
    assert found[-2] == {"env_step": "99", "loss": "", "note": ""}
    assert found[-1] == {"env_step": str(2**60), "loss": "nan", "note": "True"}
    assert (tmp_path / "eval.csv").read_text() == "env_step,return\n"


def test_an_unknown_column_or_table_is_a_mistake(tmp_path: Path) -> None:
    with opened(tmp_path) as logger:
        with pytest.raises(ValueError, match="los"):
            logger.row("train", {"los": 1})
        with pytest.raises(KeyError):
            logger.row("trian", {})


def write_steps(logger: RunLogger, start: int, stop: int) -> None:
    for step in range(start, stop):
        logger.row("train", {"env_step": step, "loss": step / 7})
        logger.scalars(step, {"loss/critic": step / 7})
        if step % 3 == 0:
            logger.row("eval", {"env_step": step, "return": step * 1.5})


@pytest.fixture
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is a minute later: event files are ordered by their second."""
    ticks = itertools.count(time.time(), 60)
    monkeypatch.setattr(time, "time", lambda: next(ticks))


@pytest.mark.usefixtures("fast_clock")
@pytest.mark.parametrize("lost", [0, 1, 4])
def test_a_resumed_run_leaves_the_same_files(tmp_path: Path, lost: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    with opened(whole) as logger:
        write_steps(logger, 0, 12)
    state = None
    for start, stop in [(0, 5), (5, 8), (8, 12)]:
        with opened(parts, state) as logger:
            write_steps(logger, start, stop)
            state = logger.state_dict()
            write_steps(logger, stop, stop + lost)  # lost: done after the checkpoint
    with opened(parts, state):
        pass
    for name in ("train.csv", "eval.csv"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    steps = [each.step for each in events(parts).Scalars("loss/critic")]
    assert steps == list(range(12))


def test_a_torn_last_row_is_cut_off(tmp_path: Path) -> None:
    with opened(tmp_path) as logger:
        write_steps(logger, 0, 3)
        state = logger.state_dict()
    before = (tmp_path / "train.csv").read_bytes()
    with (tmp_path / "train.csv").open("ab") as file:
        file.write(b"3,0.42")
    with opened(tmp_path, state):
        assert (tmp_path / "train.csv").read_bytes() == before


@pytest.mark.usefixtures("fast_clock")
def test_a_start_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    for _ in range(2):
        with opened(tmp_path) as logger:
            write_steps(logger, 0, 4)
    assert [each["env_step"] for each in rows(tmp_path / "train.csv")] == ["0", "1", "2", "3"]
    assert [each.step for each in events(tmp_path).Scalars("loss/critic")] == [0, 1, 2, 3]


def test_lost_rows_and_other_columns_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as logger:
        write_steps(logger, 0, 4)
        state = logger.state_dict()
        write_steps(logger, 4, 8)
    train = (tmp_path / "train.csv").read_text()
    text = (tmp_path / "eval.csv").read_text()
    for wrong, message in [(text.replace("return", "reward"), "columns"), (text[:10], "bytes")]:
        (tmp_path / "eval.csv").write_text(wrong)
        with pytest.raises(CheckpointError, match=message), opened(tmp_path, state):
            pass
        assert (tmp_path / "eval.csv").read_text() == wrong  # nothing was touched,
        assert (tmp_path / "train.csv").read_text() == train  # nor what is not damaged
    other = {"sizes": {"train": 3}, "last_step": 1}
    with pytest.raises(CheckpointError, match="tables"), opened(tmp_path, other):
        pass


def test_rows_wait_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as logger:
        write_steps(logger, 0, 2)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full_after(4))
            write_steps(logger, 2, 4)
            with pytest.raises(OSError, match="No space"):
                logger.state_dict()  # so that no checkpoint points behind the file's end
        write_steps(logger, 4, 6)
    assert [each["env_step"] for each in rows(tmp_path / "train.csv")] == list("012345")
    assert [each["env_step"] for each in rows(tmp_path / "eval.csv")] == list("03")


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


def test_tensorboard_shows_scalars_images_and_a_layout(tmp_path: Path) -> None:
    image = torch.arange(3 * 8 * 8, dtype=torch.uint8).reshape(3, 8, 8)
    with opened(tmp_path) as logger:
        logger.scalars(5, {"loss/critic": 0.5, "time/fps": 3})
        logger.image(5, "masked", image)
    shown = events(tmp_path)
    assert shown.Scalars("loss/critic")[0].value == 0.5
    assert shown.Images("masked")[0].width == 8
    assert "custom_scalars__config__" in shown.Tags()["tensors"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_training_goes_on_when_tensorboard_cannot_write(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    try:
        with opened(disk) as logger:
            logger.scalars(0, {"loss/critic": 0.0})
            logger.state_dict()
            logger._writer.flush()  # type: ignore[union-attr]
            (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free))
            for step in range(1, 3000):
                logger.scalars(step, {"loss/critic": float(step)})
                if logger._writer is None:
                    break
            assert logger._writer is None
            (disk / "ballast").unlink()
            logger.state_dict()
            logger.scalars(5000, {"loss/critic": 1.0})
        steps = [each.step for each in events(disk).Scalars("loss/critic")]
        assert steps[0] == 0
        assert steps[-1] == 5000
        assert steps == sorted(set(steps))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_messages_of_the_package_go_to_the_log(tmp_path: Path) -> None:
    with pytest.raises(ValueError), opened(tmp_path):
        logging.getLogger("mlr_dmcontrol.run.checkpoint").info("saved step_000000003")
        raise ValueError("why it ended")
    logging.getLogger("mlr_dmcontrol.run.checkpoint").info("after the run")
    text = (tmp_path / "log.txt").read_text()
    assert "INFO saved step_000000003" in text
    assert "ERROR ValueError: why it ended" in text
    assert "after the run" not in text


def test_fetch_is_exact_for_every_floating_type() -> None:
    metrics = {
        "a": torch.tensor(0.1),
        "b": torch.tensor(1 / 3, dtype=torch.float64),
        "c": torch.tensor(2.0, requires_grad=True),
        "d": torch.tensor(7),
    }
    assert fetch(metrics) == {"a": float(torch.tensor(0.1)), "b": 1 / 3, "c": 2.0, "d": 7.0}
    assert fetch({}) == {}
