"""Signals to a real process: the first asks, a second SIGINT ends it (R4 at unit level)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlr_dmcontrol.run.preemption import StopRequest

TREE = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_only_raises_the_flag(number: signal.Signals) -> None:
    with StopRequest() as stop:
        assert not stop.requested
        assert stop.reason == ""
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.reason == number.name


def test_the_first_signal_is_the_reason() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == "SIGUSR1"


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        assert [signal.getsignal(each) for each in SIGNALS] != before
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_second_interrupt_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, where tests run in the background
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before


LOOP = """
import signal, sys, time
from mlr_dmcontrol.run.preemption import StopRequest
if sys.argv[1] == "ignored":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
with StopRequest() as stop:
    print("ready", flush=True)
    while not stop.requested or sys.argv[1] == "stubborn":
        time.sleep(0.01)
    print(stop.reason, flush=True)
sys.exit(75)
"""


def start(mode: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, mode],
        cwd=TREE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("mode", ["plain", "ignored"])
def test_a_process_finishes_its_step_and_leaves(number: signal.Signals, mode: str) -> None:
    process = start(mode)  # "ignored": as in a background job of a shell
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert output == f"{number.name}\n"
    assert process.returncode == 75


def test_a_process_that_does_not_stop_can_be_interrupted_twice() -> None:
    process = start("stubborn")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
