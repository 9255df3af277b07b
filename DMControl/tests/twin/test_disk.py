"""Storage that lacks calls or fails for a while, and folders that somebody else filled.

What SECURITY.md promises about folders of others has its tests here, in `test_checkpoint_faults`,
`test_folder`, `test_runs` and `test_records`.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from small_checkpoints import FailingCall, Run, contents, leftovers, steps

from mlr_dmcontrol.errors import ConfigError, RunError, StorageError
from mlr_dmcontrol.run import disk, folder
from mlr_dmcontrol.run.checkpoint import Checkpointer
from mlr_dmcontrol.run.evaluation import kept
from mlr_dmcontrol.run.folder import RunFolder, look

CONFIG = {"seed": 1, "agent": {"width": 3}}


def life(path: Path) -> None:
    """A process of a run: claim the folder, go on where the last one was, save, say so."""
    with RunFolder(path, CONFIG) as held:
        run = Run(path)
        step = 1 + (run.load() or 0)
        held.begin()
        assert run.save(step, required=True) is not None
        held.note()
    assert Run(path).load() == step


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(disk, "_warned", set())
    monkeypatch.setattr(folder, "revision", lambda: None)  # starts a process


# --- storage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name", "code"),
    [
        (fcntl, "flock", errno.ENOSYS),
        (fcntl, "flock", errno.ENOLCK),
        (fcntl, "flock", errno.EOPNOTSUPP),
        (os, "fsync", errno.EINVAL),
        (os, "fsync", errno.ENOSYS),
    ],
)
def test_a_call_that_the_file_system_lacks_is_done_without_after_one_warning(
    tmp_path: Path, owner: Any, name: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    with patch.object(owner, name, FailingCall(name, -1, code, owner)):
        life(tmp_path)
        life(tmp_path)
    assert sum("has no" in line.getMessage() for line in caplog.records) == 1


CALLS = ["open", "mkdir", "stat", "lstat", "fstat", "fsync", "replace", "unlink", "listdir"]
CALLS += ["scandir", "pwrite", "ftruncate"]


@pytest.mark.parametrize(
    ("name", "code"), zip(CALLS, itertools.cycle([errno.EIO, errno.ESTALE]), strict=False)
)
def test_an_error_that_passes_by_itself_costs_nothing(tmp_path: Path, name: str, code: int) -> None:
    for _ in range(3):
        life(tmp_path)
    for number in itertools.count(1):
        fault = FailingCall(name, number, code)
        with patch.object(os, name, fault):
            life(tmp_path)
        if fault.count < number:
            break
    assert len(steps(tmp_path)) == 2
    assert not leftovers(tmp_path)
    assert number > 1


@pytest.mark.parametrize(("code", "room"), [(errno.EIO, False), (errno.ENOSPC, True)])
def test_an_error_that_stays_is_of_the_storage_and_room_is_asked_for_where_it_helps(
    tmp_path: Path, code: int, room: bool
) -> None:
    for begin in (False, True):
        with pytest.raises(StorageError) as raised, RunFolder(tmp_path, CONFIG) as held:
            if not begin:
                held.begin()
            with patch.object(os, "fsync", FailingCall("fsync", -1, code)):
                held.begin() if begin else Run(tmp_path).save(3, required=True)
        assert ("make room" in str(raised.value)) == room
        assert raised.value.exit_code == 3
    with patch.object(os, "open", FailingCall("open", -1, code)), pytest.raises(StorageError):
        RunFolder(tmp_path / "new", CONFIG)


def test_a_disk_that_does_not_list_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    life(tmp_path)
    for name, code in (("listdir", errno.EIO), ("listdir", errno.EACCES)):
        with patch.object(os, name, FailingCall(name, -1, code)):
            with pytest.raises(RunError):
                RunFolder(tmp_path, CONFIG)
            with pytest.raises(OSError):
                Checkpointer(tmp_path).newest()


def test_without_locks_the_owner_is_told_by_what_the_lock_file_says(tmp_path: Path) -> None:
    missing = patch.object(fcntl, "flock", FailingCall("flock", -1, errno.ENOSYS, fcntl))
    with missing, RunFolder(tmp_path, CONFIG) as held:
        held.begin()
        for who, refused in ((1, True), (2**22 + 1, False)):  # init lives; nobody has the other
            text = (tmp_path / "run.lock").read_text()
            (tmp_path / "run.lock").write_text(text.replace(str(os.getpid()), str(who)))
            if refused:
                with pytest.raises(ConfigError, match=f"in use by process {who} on"):
                    RunFolder(tmp_path, CONFIG)
            with pytest.raises(StorageError, match=f"in use by process {who} on"):
                held.note()
            (tmp_path / "run.lock").write_text(text)
        held.note()


def test_a_run_whose_folder_is_taken_away_does_not_end_as_finished(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(StorageError), RunFolder(path, CONFIG) as held:
        held.begin()
        run = Run(path)
        run.save(1)
        shutil.rmtree(path)
        for action in (lambda: run.save(2, required=True), held.check):
            with pytest.raises(StorageError):
                action()
        held.finish()
    assert not path.exists()


# --- links and folders of others ------------------------------------------------------------------


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize(
    "name", ["run.lock", "log.txt", "train.csv", "tb", "checkpoints", "checkpoints/files"]
)
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str, hard: bool) -> None:
    other, path = tmp_path / "other", tmp_path / "run"
    life(path)
    life(other)
    (other / "train.csv").write_text("rows")
    (other / "log.txt").write_text("lines")
    (other / "tb").mkdir()
    if hard and (other / name).is_dir():
        return  # there are none
    at = path / name
    if at.exists():
        at.rename(tmp_path / "away")
    (os.link if hard else os.symlink)(other / name, at)
    before = contents(other)
    with pytest.raises(ConfigError) as raised:
        RunFolder(path, CONFIG)
    assert name in str(raised.value)
    assert name == "run.lock" or look(path, CONFIG)[0] == "refused"
    if name.startswith("checkpoints"):  # nor where it came later
        assert Run(path).save(9) is None
    assert contents(other) == before


def test_an_evaluation_is_kept_behind_no_link(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "evaluations").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError), kept(tmp_path / "evaluations", "step_3"):
        pytest.fail("played")
    assert contents(tmp_path) == {}


def test_a_file_is_replaced_whole_and_through_no_link(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    disk.write_atomically(path, "a long first text")
    other.write_text("of somebody else")
    path.unlink()
    path.symlink_to(other)
    disk.write_atomically(path, "short")
    assert not path.is_symlink()
    assert contents(tmp_path) == {"file": b"short", "other": b"of somebody else"}


def test_what_a_killed_process_was_writing_goes_and_nothing_else(tmp_path: Path) -> None:
    life(tmp_path)
    others = [".notes.tmp", "notes", "step_3", "step_000000003.json.bak", "link"]
    inside = tmp_path / "checkpoints"
    for place in (tmp_path, inside, inside / "files"):
        for name in (".0123456789abcdef.tmp", *others[:-1]):
            (place / name).write_text("")
        (place / "link").symlink_to(tmp_path / "notes")
        (place / ("a" * 64)).mkdir()
    with RunFolder(tmp_path, CONFIG) as held:
        held.begin()
        run = Run(tmp_path)
        run.load()
        run.save(9)
    assert steps(tmp_path) == [1, 9]
    for place in (inside, inside / "files"):
        names = {path.name for path in place.iterdir()}
        assert names >= {*others, "a" * 64}
        assert ".0123456789abcdef.tmp" not in names
