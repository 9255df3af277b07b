"""The run folder: one process at a time, one configuration, nothing written over (R16, R18)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlr_dmcontrol.errors import ConfigError, Preempted, StorageError
from mlr_dmcontrol.run.folder import RunFolder, write_atomically
from mlr_dmcontrol.run.timing import Stopwatch

TREE = Path(__file__).resolve().parents[2]
CONFIG: dict[str, Any] = {
    "seed": 1,
    "budget": 100,
    "device": "cpu",
    "agent": {"mask_ratio": 0.5, "channels": [32, 64], "learning_rate": 1e-4, "width": None},
    "logging": {"every": 10},
}
RULES: dict[str, Any] = {"may_change": ("device", "logging"), "may_grow": ("budget",)}


def changed(**values: Any) -> dict[str, Any]:
    config = {**CONFIG, "agent": dict(CONFIG["agent"])}
    for key, value in values.items():
        group = config["agent"] if key in config["agent"] else config
        group[key] = value
    return config


def leave_a_run(path: Path, config: dict[str, Any] = CONFIG, finish: bool = False) -> None:
    with RunFolder(path, config, **RULES) as folder:
        folder.begin(protocol="dmc100k")
        if finish:
            folder.finish(score=3.5)


def contents(path: Path) -> dict[str, bytes]:
    """Everything in the folder but the lock."""
    files = (each for each in path.rglob("*") if each.is_file() and each.name != "run.lock")
    return {str(each.relative_to(path)): each.read_bytes() for each in files}


def record(path: Path) -> dict[str, Any]:
    return json.loads((path / "run.json").read_text())


# --- what is written ----------------------------------------------------------------------------


def test_nothing_is_written_before_begin(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a" / "run", CONFIG) as folder:
        assert not folder.finished
        assert contents(folder.path) == {}


def test_run_json_tells_the_life_of_a_run(tmp_path: Path) -> None:
    with RunFolder(tmp_path, CONFIG, packages=("torch", "no-such-package")) as folder:
        folder.begin(protocol="dmc100k", device="cpu")
        now = record(tmp_path)
        assert now["status"] == "running"
        assert now["starts"] == 1
        assert now["host"] == socket.gethostname()
        assert now["pid"] == os.getpid()
        assert now["protocol"] == "dmc100k"
        assert now["versions"]["torch"][0].isdigit()
        assert now["versions"]["no-such-package"] is None
        assert now["versions"]["python"].count(".") == 2
        assert now["finished"] is None
        assert now["last_error"] is None
        assert "revision" in now
        assert "command" in now
        with folder.stopwatch("update"):
            time.sleep(0.02)
        folder.finish(score=3.5)
    now = record(tmp_path)
    assert now["status"] == "finished"
    assert now["finished"] >= now["started"]
    assert now["score"] == 3.5
    assert now["seconds"]["update"] >= 0.02
    assert not list(tmp_path.glob(".*.tmp"))


def test_seconds_add_up_over_starts(tmp_path: Path) -> None:
    for _ in range(3):
        with RunFolder(tmp_path, CONFIG) as folder:
            folder.begin()
            folder.stopwatch.seconds["update"] = 2.0
            folder.note()
            folder.note()
    with RunFolder(tmp_path, CONFIG) as folder:
        folder.begin()
        folder.stopwatch.seconds["evaluation"] = 1.0
        folder.note()
    assert record(tmp_path)["seconds"] == {"update": 6.0, "evaluation": 1.0}
    assert record(tmp_path)["starts"] == 4


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Preempted("SIGTERM at step 3"), "preempted"),
        (StorageError("disk full"), "failed"),
        (ValueError("bug"), "failed"),
        (KeyboardInterrupt(), "failed"),
    ],
)
def test_the_end_of_a_run_is_recorded(tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), RunFolder(tmp_path, CONFIG) as folder:
        folder.begin()
        raise error
    assert record(tmp_path)["status"] == status
    assert record(tmp_path)["last_error"] == f"{type(error).__name__}: {error}"
    leave_a_run(tmp_path)  # and the folder is free again
    assert record(tmp_path)["last_error"] is None


def test_an_error_before_begin_changes_nothing(tmp_path: Path) -> None:
    leave_a_run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(StorageError), RunFolder(tmp_path, CONFIG, **RULES):
        raise StorageError("all checkpoints are damaged")
    assert contents(tmp_path) == before


def test_an_unwritable_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"config\.yaml"), RunFolder(tmp_path, CONFIG) as folder:
        (tmp_path / ".config.yaml.tmp").mkdir()
        folder.begin()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match="runs_dir: .*run cannot be used"):
        RunFolder(tmp_path / "runs" / "run", CONFIG)


def test_atomic_writing_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "a long first text")
    write_atomically(path, "short")
    assert path.read_text() == "short"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_stopwatch_adds_up_even_after_an_error() -> None:
    stopwatch = Stopwatch()
    with stopwatch("a"), stopwatch("b"):
        time.sleep(0.01)
    with pytest.raises(ValueError), stopwatch("a"):
        raise ValueError
    assert stopwatch.seconds["a"] >= stopwatch.seconds["b"] >= 0.01


# --- continuing ---------------------------------------------------------------------------------


def test_the_same_configuration_continues(tmp_path: Path) -> None:
    leave_a_run(tmp_path)
    started = record(tmp_path)["started"]
    with RunFolder(tmp_path, changed(channels=(32, 64)), **RULES) as folder:
        assert not folder.finished
        folder.begin()
    assert record(tmp_path)["started"] == started


def test_a_finished_run_says_so(tmp_path: Path) -> None:
    leave_a_run(tmp_path, finish=True)
    before = contents(tmp_path)
    for resume in ("auto", "auto"):
        with RunFolder(tmp_path, changed(device="cuda"), resume=resume, **RULES) as folder:
            assert folder.finished
    assert contents(tmp_path) == before


def test_a_finished_run_continues_with_a_longer_budget(tmp_path: Path) -> None:
    leave_a_run(tmp_path, finish=True)
    with RunFolder(tmp_path, changed(budget=200), **RULES) as folder:
        assert not folder.finished
        folder.begin()
    assert record(tmp_path)["status"] == "running"
    with pytest.raises(ConfigError, match="budget=100"):  # and now the old one is too short
        RunFolder(tmp_path, CONFIG, **RULES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask_ratio": 0.7}, r"agent\.mask_ratio=0\.7 \(was 0\.5\): not what the run in"),
        ({"learning_rate": 2e-4}, r"agent\.learning_rate=0\.0002 \(was 0\.0001\)"),
        ({"channels": [32]}, r"agent\.channels=\[32\] \(was \[32, 64\]\)"),
        ({"width": 8}, r"agent\.width=8 \(was None\)"),
        ({"budget": 99}, r"budget=99 \(was 100\)"),
        ({"extra": 3}, r"extra=3 \(was None\)"),
        ({"seed": 2, "mask_ratio": 0}, r"seed=2 \(was 1\), agent\.mask_ratio=0 \(was 0\.5\)"),
    ],
)
def test_another_configuration_is_refused(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    leave_a_run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=message) as raised:
        RunFolder(tmp_path, changed(**values), **RULES)
    assert "\n" not in str(raised.value)
    assert "choose another tag, seed or runs_dir" in str(raised.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("values", [{"device": "cuda"}, {"logging": {"every": 3}}, {"budget": 101}])
def test_some_keys_may_change(
    tmp_path: Path, values: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    leave_a_run(tmp_path)
    caplog.set_level("INFO")
    with RunFolder(tmp_path, changed(**values), **RULES) as folder:
        folder.begin()
    assert "continuing with" in caplog.text
    assert "(was " in caplog.text
    with RunFolder(tmp_path, changed(**values), **RULES) as folder:  # they were adopted
        assert not folder.finished


def test_resume_never_refuses_what_is_there(tmp_path: Path) -> None:
    with RunFolder(tmp_path, CONFIG, resume="never") as folder:
        folder.begin()
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="resume=never: .* already holds a run"):
        RunFolder(tmp_path, CONFIG, resume="never")
    assert contents(tmp_path) == before


def test_resume_must_needs_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resume=must: .* holds no checkpoint"):
        RunFolder(tmp_path / "new", CONFIG, resume="must")
    path = tmp_path / "old"
    leave_a_run(path)
    with pytest.raises(ConfigError, match="resume=must: .* holds no checkpoint"):
        RunFolder(path, CONFIG, resume="must", **RULES)
    (path / "checkpoints" / "step_000000003").mkdir(parents=True)
    RunFolder(path, CONFIG, resume="must", **RULES).close()


def test_an_unknown_resume_mode(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resume=maybe: must be one of auto, never, must"):
        RunFolder(tmp_path, CONFIG, resume="maybe")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("thesis.tex", "years of work", "holds thesis.tex but no config.yaml"),
        ("config.yaml", "[3", r"config\.yaml: cannot be read"),
        ("config.yaml", "- 3", r"config\.yaml: is not a configuration"),
    ],
)
def test_a_folder_of_something_else_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        RunFolder(tmp_path, CONFIG)
    assert contents(tmp_path) == {name: text.encode()}


@pytest.mark.parametrize("text", ['{"status": "fini', "3"])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    leave_a_run(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json"):
        RunFolder(tmp_path, CONFIG, **RULES)
    assert (tmp_path / "run.json").read_text() == text


# --- two processes ------------------------------------------------------------------------------

HOLD = """
import os, sys, time
from pathlib import Path
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.run.folder import RunFolder
try:
    folder = RunFolder(Path(sys.argv[1]), {"seed": 1})
except ConfigError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
if sys.argv[2] == "plain" or os.fork() == 0:
    print("holding", os.getpid(), flush=True)
time.sleep(60)
"""


@contextmanager
def holder(path: Path, mode: str = "plain") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), mode],
        cwd=TREE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("holding")
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_second_process_is_told_who_is_there(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        second = subprocess.run(
            [sys.executable, "-c", HOLD, str(tmp_path), "plain"],
            cwd=TREE,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert second.returncode == 2
        who = f"is in use by process {first.pid} on {socket.gethostname()}"
        assert who in second.stdout
        with pytest.raises(ConfigError, match=who):  # and so is this process
            RunFolder(tmp_path, CONFIG)
    RunFolder(tmp_path, CONFIG).close()  # SIGKILL frees the folder


def test_a_forked_worker_does_not_keep_the_folder(tmp_path: Path) -> None:
    with holder(tmp_path, "fork") as first:
        first.kill()  # its child lives on
        first.wait()
        RunFolder(tmp_path, CONFIG).close()
