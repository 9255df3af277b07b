"""The state of a sweep: what is done, running, stopped, failed, lost or missing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_runs import BUDGET, make_run

from mlr_atari import protocol
from mlr_atari.errors import ConfigError
from mlr_atari.report import cli, status

A, B = protocol.TASKS[:2]
HERE = socket.gethostname()


def states(root: Path, expect: str = "") -> dict[str, str]:
    return {entry.name: entry.state for entry in status.survey([root], expect)}


def dead_process() -> int:
    """Id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_every_state_is_told(tmp_path: Path) -> None:
    make_run(tmp_path, A, "mlr", 1)
    make_run(tmp_path, A, "mlr", 2, status="running", host=HERE, pid=os.getpid(), final={})
    make_run(tmp_path, A, "mlr", 3, status="running", host=HERE, pid=dead_process(), final={})
    make_run(tmp_path, A, "mlr", 4, status="running", host="elsewhere", pid=1, final={})
    make_run(tmp_path, A, "mlr", 5, status="preempted", final={})
    make_run(tmp_path, A, "mlr", 6, status="failed", last_error="NaN in critic loss", final={})
    make_run(tmp_path, A, "mlr", 7, final={"mean": None})
    found = states(tmp_path)
    expected = ["done", "running", "lost", "running", "preempted", "failed", "unfit"]
    assert [found[f"{A}/mlr/seed_{seed}"] for seed in range(1, 8)] == expected
    text = status.report(status.survey([tmp_path]))
    assert "NaN in critic loss" in text
    assert "last wrote 0 min ago" in text
    assert text.splitlines()[-1] == (
        "7 runs: 1 done, 2 running, 1 preempted, 1 failed, 1 lost, 1 unfit"
    )


def test_progress_is_the_last_evaluation(tmp_path: Path) -> None:
    make_run(tmp_path, A, "mlr", 1, (1.0,), {20_000: 1.0, 40_000: 2.0}, status="failed", final={})
    (entry,) = status.survey([tmp_path])
    assert (entry.step, entry.budget) == (40_000, BUDGET)
    assert "40,000 / 100,000" in status.report([entry])


def test_runs_of_a_sweep_that_are_not_there_are_named(tmp_path: Path) -> None:
    make_run(tmp_path, A, "mlr", 1)
    expect = f"{protocol.TASK_KEY}={A.upper()},{B} agent=mlr,spr-tag seed=1,2"
    found = states(tmp_path, expect)
    assert len(found) == 8
    assert found[f"{A}/mlr/seed_1"] == "done"
    assert sum(state == "missing" for state in found.values()) == 7
    assert f"{B}/spr-tag/seed_2" in found


def test_all_means_the_benchmark(tmp_path: Path) -> None:
    expect = f"{protocol.TASK_KEY}=all agent=mlr seed=1"
    assert len(states(tmp_path, expect)) == len(protocol.TASKS)


@pytest.mark.parametrize("sweep", ["agent=mlr seed=1", "mlr", "agent=mlr seed=1 game=x task=x"])
def test_a_sweep_that_is_not_understood_says_how_to_write_one(sweep: str) -> None:
    with pytest.raises(ConfigError, match="not understood; write"):
        status.expected(sweep)


def test_a_broken_folder_is_one_line_of_the_survey(tmp_path: Path) -> None:
    make_run(tmp_path, A, "mlr", 1)
    broken = make_run(tmp_path, A, "mlr", 2)
    (broken / "run.json").write_text("{")
    found = status.survey([tmp_path])
    assert sorted(entry.state for entry in found) == ["done", "unreadable"]
    assert not status.complete(found)


def test_exit_code_says_whether_all_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, A, "mlr", 1)
    assert cli.main(["--status", str(tmp_path)]) == 0
    sweep = f"{protocol.TASK_KEY}={A} agent=mlr seed=1,2"
    assert cli.main(["--status", str(tmp_path), "--expect", sweep]) == 2
    assert f"missing    {A}/mlr/seed_2" in capsys.readouterr().out
    assert cli.main(["--status", str(tmp_path / "nothing")]) == 2
