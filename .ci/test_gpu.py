"""The script for a GPU: what is done is kept, and without time nothing begins."""

from __future__ import annotations

import argparse
import csv
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


def test_without_time_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = argparse.Namespace(out=tmp_path, device="cuda", at_once=2, seconds=0, packages=None)
    session = gpu.Session(options)
    monkeypatch.setattr(session, "start", lambda *_: pytest.fail("began"))
    assert [phase(session) for phase in (gpu.tests, gpu.speed, gpu.runs)] == [True] * 3
