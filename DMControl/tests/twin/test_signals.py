"""Signals: the first asks, a second SIGINT ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlr_dmcontrol.run.signals import StopRequest

TREE = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _without_nohup() -> Iterator[None]:
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


def test_the_first_signal_raises_the_flag_and_is_the_reason() -> None:
    for number in SIGNALS:
        with StopRequest() as stop:
            assert (stop.requested, stop.reason) == (False, "")
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)
            assert (stop.requested, stop.reason) == (True, number.name)


def test_a_second_interrupt_would_end_it_and_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest():
        assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert [signal.getsignal(number) for number in SIGNALS] == before


LOOP = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
from mlr_dmcontrol.run.signals import StopRequest
if sys.argv[1] == "ignored":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
with StopRequest() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    print(stop.reason, flush=True)
sys.exit(75)
"""


@pytest.mark.parametrize("mode", ["plain", "ignored"])
def test_a_process_finishes_its_step_and_leaves(mode: str) -> None:
    command = [sys.executable, "-c", LOOP, mode]  # "ignored": as in a background job of a shell
    process = subprocess.Popen(command, cwd=TREE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert (output, process.returncode) == ("SIGINT\n", 75)
