"""The script for a GPU: what is done is kept, and without time nothing begins."""

import argparse
import csv
import signal
import subprocess
from pathlib import Path
from typing import Any

import gpu
import pytest


def row(**changes: Any) -> dict[str, Any]:
    return dict.fromkeys(gpu.KEY, "same") | {"seconds_per_update": 0.5} | changes


def test_rows_are_added_and_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "results" / "gpu.csv"
    gpu.write_rows(path, [])
    assert not path.exists()
    gpu.write_rows(path, [row(), row(precision="bf16")])
    gpu.write_rows(path, [row(seconds_per_update=0.25, waits=0), row(commit="other")])
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    (again,) = (each for each in rows if each["waits"])
    assert again["seconds_per_update"] == "0.25"


def session_of(out: Path, seconds: float) -> gpu.Session:
    given: dict[str, Any] = {"device": "cuda", "at_once": 2, "packages": None}
    return gpu.Session(argparse.Namespace(out=out, seconds=seconds, **given))


def test_what_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PATIENCE", 0.0)
    process = subprocess.Popen(["sleep", "600"])
    assert session_of(tmp_path, float("inf")).finish(process) == -signal.SIGTERM


def test_without_time_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(tmp_path, 0)
    monkeypatch.setattr(session, "start", lambda *_: pytest.fail("began"))
    assert [phase(session) for phase in (gpu.tests, gpu.speed, gpu.runs)] == [True] * 3
