"""The run folder: one process at a time, one configuration, nothing written over."""

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

from mlr_atari.errors import ConfigError, Preempted, StorageError
from mlr_atari.run.files import read_mapping
from mlr_atari.run.folder import RunFolder, identity, look

TREE = Path(__file__).resolve().parents[2]
AGENT: dict[str, Any] = {"mask_ratio": 0.5, "channels": [32, 64], "width": None}
CONFIG: dict[str, Any] = {"seed": 1, "budget": 100, "device": "cpu", "agent": AGENT}


def changed(**values: Any) -> dict[str, Any]:
    agent = {key: values.pop(key, value) for key, value in AGENT.items()}
    return {**CONFIG, "agent": agent, **values}


def leave_a_run(path: Path, finish: bool = False) -> None:
    with RunFolder(path, CONFIG) as folder:
        folder.begin(protocol="dmc100k")
        (path / "checkpoints").mkdir(exist_ok=True)
        (path / "checkpoints" / "step_000000003.json").touch()
        if finish:
            folder.finish(score=3.5)


def contents(path: Path) -> dict[str, bytes]:
    """Everything in the folder but the lock."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name != "run.lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def record(path: Path) -> dict[str, Any]:
    return json.loads((path / "run.json").read_text())


# --- what is written ----------------------------------------------------------------------------


def test_run_json_tells_the_life_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "a" / "run"
    with RunFolder(path, CONFIG, packages=("torch", "no-such-package")) as folder:
        assert not folder.finished
        assert contents(path) == {}  # nothing before it begins
        folder.begin(protocol="dmc100k")
        now = record(path)
        assert (now["status"], now["starts"], now["protocol"]) == ("running", 1, "dmc100k")
        assert (now["host"], now["pid"]) == (socket.gethostname(), os.getpid())
        assert now["versions"]["torch"][0].isdigit()
        assert now["versions"]["no-such-package"] is None
        assert now["finished"] is now["last_error"] is None
        assert {"revision", "command"} <= now.keys()
        with folder.stopwatch("update"):
            time.sleep(0.02)
        folder.finish(score=3.5)
    now = record(path)
    assert (now["status"], now["score"]) == ("finished", 3.5)
    assert now["finished"] >= now["started"]
    assert now["seconds"]["update"] >= 0.02
    assert set(contents(path)) == {"config.yaml", "run.json"}


def test_seconds_add_up_over_starts(tmp_path: Path) -> None:
    for _ in range(3):
        with RunFolder(tmp_path, CONFIG) as folder:
            folder.begin()
            folder.stopwatch.seconds["update"] = 2.0 + folder.stopwatch.seconds.get("update", 0.0)
            folder.note()
            folder.note()
    assert record(tmp_path)["seconds"] == {"update": 6.0}
    assert record(tmp_path)["starts"] == 3


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Preempted("SIGTERM at step 3"), "preempted"),
        (StorageError("disk full"), "failed"),
        (KeyboardInterrupt(), "failed"),
    ],
)
def test_the_end_of_a_run_is_recorded(tmp_path: Path, error: BaseException, status: str) -> None:
    leave_a_run(tmp_path)
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
    with pytest.raises(StorageError), RunFolder(tmp_path, CONFIG):
        raise StorageError("all checkpoints are damaged")
    assert contents(tmp_path) == before


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"config\.yaml"), RunFolder(tmp_path, CONFIG) as folder:
        (tmp_path / "config.yaml").mkdir()
        folder.begin()
    with pytest.raises(ConfigError, match="runs_dir: "):
        RunFolder(tmp_path / "run.lock", CONFIG)


def test_the_configuration_is_read_as_it_was_written(tmp_path: Path) -> None:
    values = ["1e3", "2024-01-01", "no", "~", "0x1", "${seed}", "é: #\n", 1e-5, -0.0, 1e300, 2**70]
    config = {"seed": 1, "agent": {f"key {i}": value for i, value in enumerate(values)}, "x": ()}
    for finished in (False, True):
        with RunFolder(tmp_path, config) as folder:
            assert folder.finished == finished
            folder.begin()
            folder.finish()
    assert look(tmp_path) == ("finished", "")
    assert identity(read_mapping(tmp_path / "config.yaml")) == folder.identity


# --- continuing ---------------------------------------------------------------------------------


def test_a_finished_run_says_so_and_continues_with_a_longer_budget(tmp_path: Path) -> None:
    leave_a_run(tmp_path, finish=True)
    before, started = contents(tmp_path), record(tmp_path)["started"]
    for config in (CONFIG, changed(device="cuda", channels=(32, 64))):
        with RunFolder(tmp_path, config) as folder:
            assert folder.finished
    assert contents(tmp_path) == before
    with RunFolder(tmp_path, changed(budget=200)) as folder:
        assert not folder.finished
        folder.begin()
    assert (record(tmp_path)["status"], record(tmp_path)["started"]) == ("running", started)
    with pytest.raises(ConfigError, match="^budget=100 "):  # and now the old one is too short
        RunFolder(tmp_path, CONFIG)


@pytest.mark.parametrize(
    "values", [{"mask_ratio": 0.7}, {"channels": [32]}, {"width": 8}, {"budget": 99}, {"extra": 3}]
)
def test_another_configuration_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    leave_a_run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ConfigError) as raised:
        RunFolder(tmp_path, changed(**values))
    assert contents(tmp_path) == before
    ((key, value),) = values.items()
    assert f"{key}={value} (was " in str(raised.value)


@pytest.mark.parametrize("ended", ["finished", "preempted", "final.json"])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(tmp_path: Path, ended: str) -> None:
    leave_a_run(tmp_path, finish=True)
    (tmp_path / "checkpoints" / "step_000000003.json").unlink()
    (tmp_path / "run.json").write_text(json.dumps({"status": ended}))
    if ended == "final.json":
        (tmp_path / ended).write_text("{}")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="checkpoints are gone"):
        RunFolder(tmp_path, changed(budget=200))
    assert contents(tmp_path) == before
    if ended == "finished":  # nothing is asked of it
        assert look(tmp_path, CONFIG) == ("finished", "")


def test_some_keys_may_change_and_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave_a_run(tmp_path)
    caplog.set_level("INFO")
    config = changed(device="cuda", logging={"every": 3}, budget=101)
    for times in (1, 1):  # the second time they are the run's own
        with RunFolder(tmp_path, config) as folder:
            folder.begin()
        assert caplog.text.count("device=cuda (was cpu)") == times


def test_a_checkpoint_can_tell_whose_it_is(tmp_path: Path) -> None:
    def identity(config: dict[str, Any]) -> str:
        with RunFolder(tmp_path / str(config), config) as folder:
            return folder.identity

    assert identity(CONFIG) == identity(changed(device="cuda", budget=3, channels=(32, 64)))
    others = [changed(seed=2), changed(mask_ratio=0.1), changed(extra=1)]
    assert len({identity(config) for config in (CONFIG, *others)}) == 4


def test_resume_never_and_must(tmp_path: Path) -> None:
    for path in (tmp_path / "new", tmp_path / "old"):
        with pytest.raises(ConfigError, match="^resume=must: .* holds no checkpoint"):
            RunFolder(path, CONFIG, resume="must")
        with RunFolder(path, CONFIG, resume="never") as folder:
            folder.begin()
        with pytest.raises(ConfigError, match="^resume=never: "):
            RunFolder(path, CONFIG, resume="never")
        (path / "checkpoints").mkdir()
        (path / "checkpoints" / "step_000000003.json").touch()
        RunFolder(path, CONFIG, resume="must").close()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("thesis.tex", "years of work"),
        ("config.yaml", "[3"),
        ("config.yaml", "- 3"),
        ("config.yaml", "seed: 1\n" * 100_000),
        ("config.yaml", "a: &a [x]\nb: [*a, *a]"),
        ("config.yaml", "seed: !!python/object/apply:os.getcwd []"),
        ("config.yaml", 'seed: "\\e[2J\\n' + 2000 * "x" + '"'),
        pytest.param("config.yaml", "a: " + 1000 * "[", id="deep"),
        ("run.json", '{"status": "fini'),
        ("run.json", "3"),
        pytest.param("run.json", 100_000 * "[", id="deep json"),
        ("run.json", '{"starts": "many"}'),
        ("run.json", '{"seconds": {"update": "long"}}'),
        ("run.json", '{"seconds": 3}'),
    ],
)
def test_what_is_no_run_is_refused_and_left_alone(tmp_path: Path, name: str, text: str) -> None:
    if name != "thesis.tex":
        leave_a_run(tmp_path)
    (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(ConfigError) as raised:
        RunFolder(tmp_path, CONFIG)
    assert name in str(raised.value) or "seed=1 (was ?[2J" in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1500
    assert contents(tmp_path) == before
    assert look(tmp_path, CONFIG) == ("refused", str(raised.value))


# --- two processes ------------------------------------------------------------------------------

HOLD = """
import os, sys, time
from pathlib import Path
from mlr_atari.run.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]), {"seed": 1})
folder.begin()
if sys.argv[2] == "plain" or os.fork() == 0:
    print("holding", flush=True)
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
        assert process.stdout.readline() == "holding\n"
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_second_process_is_told_who_is_there(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        who = f"process {first.pid} on {socket.gethostname()}"
        with pytest.raises(ConfigError, match=f"^runs_dir: .* is in use by {who}"):
            RunFolder(tmp_path, {"seed": 1})
        with pytest.raises(ConfigError):  # nor did the attempt free it
            RunFolder(tmp_path, {"seed": 1})
    RunFolder(tmp_path, {"seed": 1}).close()  # SIGKILL did


def test_a_forked_worker_does_not_keep_the_folder(tmp_path: Path) -> None:
    with holder(tmp_path, "fork") as first:
        first.kill()  # its child lives on
        first.wait()
        RunFolder(tmp_path, {"seed": 1}).close()


# --- looking ------------------------------------------------------------------------------------


def test_looking_tells_how_far_a_run_is(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert look(path) == look(path, CONFIG) == ("waiting", "")
    assert look(path, resume="must")[0] == "refused"
    assert not path.exists()
    leave_a_run(path)
    with pytest.raises(Preempted), RunFolder(path, CONFIG) as folder:
        folder.begin()
        raise Preempted("SIGTERM at step 3")
    assert look(path) == look(path, CONFIG) == ("resumes", "Preempted: SIGTERM at step 3")
    assert look(path, changed(seed=2))[0] == look(path, resume="never")[0] == "refused"
    leave_a_run(path, finish=True)
    assert look(path) == look(path, CONFIG) == ("finished", "")
    assert look(path, changed(budget=200))[0] == "resumes"


def test_looking_touches_nothing_while_a_run_is_under_way(tmp_path: Path) -> None:
    def state_of_files() -> list[tuple[str, int]]:
        paths = [tmp_path, *tmp_path.iterdir()]
        return sorted((str(path), path.stat().st_mtime_ns) for path in paths)

    with holder(tmp_path) as first:
        before = state_of_files()
        who = f"process {first.pid} on {socket.gethostname()}"
        assert look(tmp_path) == look(tmp_path, {"seed": 1}) == ("running", who)
        assert state_of_files() == before
    assert look(tmp_path) == ("resumes", f"{who} is gone")
    (tmp_path / "run.lock").write_text(f"process {first.pid} on another\n")
    assert look(tmp_path) == ("running", f"process {first.pid} on another")
