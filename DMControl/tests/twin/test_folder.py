"""The run folder: one process at a time, one configuration, nothing written over; on storage that
lacks calls or fails for a while, and where somebody else filled it.
"""

import errno
import fcntl
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from small_checkpoints import FailingCall, Run, contents, leftovers, steps

from mlr_dmcontrol.errors import ConfigError, Preempted, RunError, StorageError
from mlr_dmcontrol.run import disk, folder
from mlr_dmcontrol.run.checkpoint import Checkpointer
from mlr_dmcontrol.run.evaluation import kept
from mlr_dmcontrol.run.folder import RunFolder, identity, look

TREE = Path(__file__).resolve().parents[2]
AGENT: dict[str, Any] = {"mask_ratio": 0.5, "channels": [32, 64], "width": None}
CONFIG: dict[str, Any] = {"seed": 1, "budget": 100, "device": "cpu", "agent": AGENT}


def changed(**values: Any) -> dict[str, Any]:
    agent = {key: values.pop(key, value) for key, value in AGENT.items()}
    return {**CONFIG, "agent": agent, **values}


def life(path: Path, finish: bool = False) -> None:
    """A process of a run: claim the folder, go on where the last one was, save, say so."""
    with RunFolder(path, CONFIG) as held:
        run = Run(path)
        step = 1 + (run.load() or 0)
        held.begin()
        run.save(step, required=True)
        held.finish() if finish else held.note()
    assert Run(path).load() == step


def record(path: Path) -> dict[str, Any]:
    return json.loads((path / "run.json").read_text())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(disk, "_warned", set())
    monkeypatch.setattr(folder, "revision", lambda: None)  # starts a process


# --- what is written ----------------------------------------------------------------------------


def test_run_json_tells_the_life_of_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a" / "run"
    for start in (1, 2):
        with RunFolder(path, CONFIG) as held:
            assert start > 1 or contents(path) == {}  # nothing before it begins
            threads = f"{start} threads"  # other ones, other bits
            held.begin(("torch", "no-such-package"), protocol="dmc100k", hardware=threads)
            assert (f"from 1 threads to {threads}" in caplog.text) == (start > 1)
            now = record(path)
            assert (now["status"], now["starts"], now["protocol"]) == ("running", start, "dmc100k")
            assert now["versions"]["torch"][0].isdigit()
            assert now["versions"]["no-such-package"] is None
            with held.stopwatch("update"):
                time.sleep(0.02)
            held.note()
            held.finish() if start == 2 else held.note()
        assert record(path)["seconds"]["update"] >= 0.02 * start
    assert record(path)["finished"] >= record(path)["started"]
    assert set(contents(path)) == {"config.yaml", "run.json"}


@pytest.mark.parametrize(
    ("error", "status"),
    [(Preempted("SIGTERM"), "preempted"), (StorageError("x"), "failed"), (SystemExit(), "failed")],
)
def test_the_end_of_a_run_is_recorded(tmp_path: Path, error: BaseException, status: str) -> None:
    life(tmp_path)
    before = contents(tmp_path)
    for begins in (False, True):
        with pytest.raises(type(error)), RunFolder(tmp_path, CONFIG) as held:
            if begins:
                held.begin()
            raise error
        assert begins or contents(tmp_path) == before
    assert record(tmp_path)["status"] == status
    assert record(tmp_path)["last_error"] == f"{type(error).__name__}: {error}"
    life(tmp_path)  # and the folder is free again
    assert record(tmp_path)["last_error"] is None


def test_the_configuration_is_read_as_it_was_written(tmp_path: Path) -> None:
    values = ["1e3", "2024-01-01", "no", "~", "0x1", "${seed}", "é: #\n", 1e-5, -0.0, 1e300, 2**70]
    config = {"seed": 1, "agent": {f"key {i}": value for i, value in enumerate(values)}, "x": ()}
    for finished in (False, True):
        with RunFolder(tmp_path, config) as held:
            assert held.finished == finished
            held.begin()
            held.finish()
    assert look(tmp_path) == ("finished", "")
    assert identity(disk.fields(tmp_path / "config.yaml").content) == held.identity


# --- continuing ---------------------------------------------------------------------------------


def test_a_finished_run_says_so_and_continues_with_a_longer_budget(tmp_path: Path) -> None:
    life(tmp_path, finish=True)
    before, started = contents(tmp_path), record(tmp_path)["started"]
    for config in (CONFIG, changed(device="cuda", logging={"every": 3}, channels=(32, 64))):
        with RunFolder(tmp_path, config) as held:
            assert held.finished
        assert identity(config) == held.identity
    assert contents(tmp_path) == before
    with RunFolder(tmp_path, changed(budget=200)) as held:
        assert not held.finished
        held.begin()
    assert (record(tmp_path)["status"], record(tmp_path)["started"]) == ("running", started)
    with pytest.raises(ConfigError, match="^budget=100 "):  # and now the old one is too short
        RunFolder(tmp_path, CONFIG)


@pytest.mark.parametrize(
    "values", [{"mask_ratio": 0.7}, {"channels": [32]}, {"width": 8}, {"seed": 2}, {"extra": 3}]
)
def test_another_configuration_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    life(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ConfigError) as raised:
        RunFolder(tmp_path, changed(**values))
    assert contents(tmp_path) == before
    ((key, value),) = values.items()
    assert f"{key}={value} (was " in str(raised.value)
    assert identity(changed(**values)) != identity(CONFIG)


@pytest.mark.parametrize("ended", ["finished", "preempted", "final.json"])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(tmp_path: Path, ended: str) -> None:
    life(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "run.json").write_text(json.dumps({"status": ended}))
    if ended == "final.json":
        (tmp_path / ended).write_text("{}")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="checkpoints are gone"):
        RunFolder(tmp_path, changed(budget=200))
    assert contents(tmp_path) == before
    if ended == "finished":  # nothing is asked of it
        assert look(tmp_path, CONFIG) == ("finished", "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("thesis.tex", "years of work"),
        ("config.yaml", "[3"),
        ("config.yaml", "seed: 1\n" * 100_000),
        ("config.yaml", "a: &a [x]\nb: [*a, *a]"),
        ("config.yaml", "seed: !!python/object/apply:os.getcwd []"),
        ("config.yaml", 'seed: "\\e[2J\\n' + 2000 * "x" + '"'),
        pytest.param("config.yaml", "a: " + 1000 * "[", id="deep"),
        ("run.json", "3"),
        pytest.param("run.json", 100_000 * "[", id="deep json"),
        ("run.json", '{"starts": "many"}'),
        ("run.json", '{"seconds": {"update": "long"}}'),
    ],
)
def test_what_is_no_run_is_refused_and_left_alone(tmp_path: Path, name: str, text: str) -> None:
    if name != "thesis.tex":
        life(tmp_path)
    (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(ConfigError) as raised:
        RunFolder(tmp_path, CONFIG)
    assert name in str(raised.value) or "seed=1 (was ?[2J" in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1500
    assert contents(tmp_path) == before
    assert look(tmp_path, CONFIG) == ("refused", str(raised.value))
    with pytest.raises(ConfigError, match="runs_dir: "):
        RunFolder(tmp_path / name, CONFIG)  # nor is a file a folder


# --- two processes, and looking -----------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from mlr_dmcontrol.run.folder import RunFolder
held = RunFolder(Path(sys.argv[1]), {"seed": 1})
held.begin()
print("holding", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[str]:
    """Another process that holds the folder until it is killed; its name."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        cwd=TREE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield f"process {process.pid} on {socket.gethostname()}"
        process.kill()


def test_a_second_process_is_told_who_is_there_and_looking_touches_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        before = {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.iterdir())}
        for _ in range(2):  # nor does the attempt free it
            assert look(tmp_path) == look(tmp_path, {"seed": 1}) == ("running", first)
            with pytest.raises(ConfigError, match=f"^runs_dir: .* is in use by {first}"):
                RunFolder(tmp_path, {"seed": 1})
        assert before == {path: path.stat().st_mtime_ns for path in before}
    assert look(tmp_path) == ("resumes", f"{first} is gone")
    RunFolder(tmp_path, {"seed": 1}).close()  # SIGKILL freed it
    (tmp_path / "run.lock").write_text("process 1 on another\n")
    assert look(tmp_path) == ("running", "process 1 on another")


def test_looking_tells_how_far_a_run_is(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert look(path) == look(path, CONFIG) == ("waiting", "")
    assert look(path, resume="must")[0] == "refused"
    with pytest.raises(ConfigError):
        RunFolder(path, CONFIG, resume="must")
    assert not path.exists()
    life(path)
    with pytest.raises(Preempted), RunFolder(path, CONFIG, resume="must") as held:
        held.begin()
        raise Preempted("SIGTERM at step 3")
    assert look(path) == look(path, CONFIG) == ("resumes", "Preempted: SIGTERM at step 3")
    assert look(path, changed(seed=2))[0] == look(path, resume="never")[0] == "refused"
    life(path, finish=True)
    assert look(path) == look(path, CONFIG) == ("finished", "")
    assert look(path, changed(budget=200))[0] == "resumes"


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


# --- storage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name", "code"), [(fcntl, "flock", errno.ENOLCK), (os, "fsync", errno.EINVAL)]
)
def test_a_call_that_the_file_system_lacks_is_done_without_after_one_warning(
    tmp_path: Path, owner: Any, name: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    with patch.object(owner, name, FailingCall(name, -1, code, owner)):
        life(tmp_path)
        life(tmp_path)
    assert sum("has no" in line.getMessage() for line in caplog.records) == 1


CALLS = ["open", "mkdir", "stat", "lstat", "fsync", "replace", "unlink", "listdir", "scandir"]


@pytest.mark.parametrize("name", [*CALLS, "pwrite", "ftruncate"])
def test_an_error_that_passes_by_itself_costs_nothing(tmp_path: Path, name: str) -> None:
    for _ in range(3):
        life(tmp_path)
    for number in itertools.count(1):
        fault = FailingCall(name, number, (errno.EIO, errno.ESHUTDOWN)[number % 2])
        with patch.object(os, name, fault):
            life(tmp_path)
            assert look(tmp_path, CONFIG)[0] == "running"
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
    with patch.object(os, "open", FailingCall("open", -1, code)), pytest.raises(StorageError):
        RunFolder(tmp_path / "new", CONFIG)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
def test_a_disk_that_does_not_list_is_not_taken_for_an_empty_one(tmp_path: Path, code: int) -> None:
    life(tmp_path)
    with patch.object(os, "listdir", FailingCall("listdir", -1, code)):
        with pytest.raises(RunError):
            RunFolder(tmp_path, CONFIG)
        with pytest.raises(StorageError):
            Checkpointer(tmp_path).newest()


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


# --- links and files of others ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "link"),
    [
        *(
            (name, os.symlink)
            for name in ("run.lock", "train.csv", "tb", "tb/tfevents", "wandb", "checkpoints/files")
        ),
        *((name, os.link) for name in ("run.lock", "log.txt")),
        *((name, lambda _, at: os.mkfifo(at)) for name in ("run.lock", "train.csv", "tb")),
        *((name, lambda _, at: at.mkdir()) for name in ("run.lock", "train.csv", "log.txt")),
        ("checkpoints", os.symlink),
    ],
)
def test_nothing_is_written_through_links_and_pipes(tmp_path: Path, name: str, link: Any) -> None:
    other, path = tmp_path / "other", tmp_path / "run"
    for place in (path, other):
        life(place)
    for file in ("train.csv", "log.txt"):
        (other / file).write_text("of somebody else")
    (other / "tb").mkdir()
    at = path / name
    if at.exists():
        at.rename(tmp_path / "away")
    at.parent.mkdir(exist_ok=True)
    link(other / name, at)
    before = contents(other)
    with pytest.raises(ConfigError) as raised:
        RunFolder(path, CONFIG)
    assert name in str(raised.value)
    assert name == "run.lock" or look(path, CONFIG)[0] == "refused"
    if name.startswith("checkpoints"):  # nor where it came later
        run = Run(path)
        with pytest.raises(StorageError):
            run.save(9, required=True)
    assert contents(other) == before


def test_an_evaluation_is_kept_behind_no_link(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "evaluations").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError), kept(tmp_path / "evaluations", "step_3"):
        pytest.fail("played")
    assert contents(tmp_path) == {}
    with pytest.raises(StorageError), kept(tmp_path / "gone", "step_3"):
        shutil.rmtree(tmp_path / "gone")


def test_what_a_killed_process_was_writing_goes_and_nothing_else(tmp_path: Path) -> None:
    life(tmp_path)
    others = {".notes.tmp", "notes", "step_3", "step_000000003.json.bak"}
    places = [tmp_path / "checkpoints", tmp_path / "checkpoints" / "files"]
    for place in places:
        for name in (".0123456789abcdef.tmp", *others):
            (place / name).write_text("")
        (place / ("b" * 64)).symlink_to(tmp_path / "run.json")
        (place / ("a" * 64)).mkdir()
    life(tmp_path)
    assert steps(tmp_path) == [1, 2]
    for place in places:
        names = {path.name for path in place.iterdir()}
        assert names >= {*others, "a" * 64, "b" * 64}
        assert ".0123456789abcdef.tmp" not in names
