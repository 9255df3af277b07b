"""benchmark.py: what it measures, counts, prints and refuses."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import benchmark

TREE = Path(__file__).resolve().parents[2]


def test_everything_about_an_update_and_a_step_is_measured() -> None:
    words = ["preset=smoke", "--updates=2", "--profile", "--json", "device=cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "benchmark.py", *words]
    output = subprocess.run(command, cwd=TREE, env=environment, stdout=subprocess.PIPE, check=True)
    row: dict[str, Any] = json.loads(output.stdout)
    assert (row["preset"], row["precision"], row["mode"]) == ("smoke", "fp32", "eager")
    assert row["updates"] == 6
    assert row["host_waits_per_update"] is None
    assert 0 < row["seconds_low"] <= row["seconds_per_update"] <= row["seconds_high"]
    assert row["env_steps_per_second"] > row["agent_steps_per_second"] > 0
    assert row["peak_memory"] > 2**27  # the interpreter and PyTorch alone are more
    least = row["flops_per_update"] / row["product_flops_per_second"]
    assert least < row["limit_seconds"]
    assert row["share_of_limit"] == row["limit_seconds"] / row["seconds_per_update"]
    operations = row["profile"]
    assert list(operations.values()) == sorted(operations.values(), reverse=True)
    assert any("convolution_backward" in name for name in operations)
    assert len(list(benchmark.lines(row))) == len(row) - 1 + 20


@pytest.mark.parametrize("words", [["--updates", "0"], ["nonsense=1"]], ids=str)
def test_wrong_input_is_refused_before_anything_is_measured(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "train", lambda *_: pytest.fail("began to measure"))
    assert benchmark.main(words) == 2


@pytest.mark.parametrize("waits", [0, 3])
def test_waits_of_the_host_and_nothing_else_are_counted(
    waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def set_mode(mode: str) -> None:
        modes.append(mode)
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)

    def update() -> None:
        for _ in range(waits):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    assert benchmark.host_waits(update, torch.device("cuda")) == waits
    assert modes == ["warn", "default"]


@pytest.mark.parametrize(
    ("name", "number", "text"),
    [
        ("seconds_per_update", 0.01234, "12.3 ms"),
        ("limit_seconds", 3.4e-5, "34 µs"),
        ("flops_per_update", 3.66e12, "3.66 TFLOP"),
        ("copy_bytes_per_second", 2e10, "20 GB/s"),
        ("env_steps_per_second", 12.34, "12.3 /s"),
        ("share_of_limit", 0.4321, "43.2%"),
        ("host_waits_per_update", None, "not on a CPU"),
    ],
)
def test_numbers_have_units(name: str, number: Any, text: str) -> None:
    assert benchmark.shown(name, number) == text
