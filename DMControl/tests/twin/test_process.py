"""What holds for a whole process: its threads, its console, its signals, its exit code."""

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from mlr_dmcontrol.build import set_up_process
from mlr_dmcontrol.device import hardware
from mlr_dmcontrol.errors import ConfigError, Preempted
from mlr_dmcontrol.run.process import SIGNALS, StopRequest, script, typed_path

TREE = Path(__file__).resolve().parents[2]


def python(code: str, *, shell: str = '"$0" -c "$1"', **environment: str) -> Any:
    """Run `code` in a process of its own, as the shell is told to; its exit code and output."""
    unset = ("PYTHONUTF8", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    kept = {key: value for key, value in os.environ.items() if key not in unset}
    command = ["bash", "-c", shell, sys.executable, code]
    return subprocess.run(
        command, cwd=TREE, env=kept | environment, capture_output=True, text=True, timeout=120
    )


def test_the_process_is_set_up_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"device": "cpu", "threads": 1, "fused_kernels": False}
    use = Mock(side_effect=ConfigError)  # before anything else
    monkeypatch.setattr(torch.cuda, "set_device", use)
    with pytest.raises(ConfigError):
        set_up_process(SimpleNamespace(device="cuda:1"))  # type: ignore
    use.assert_called_once_with(torch.device("cuda", 1))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # which cuBLAS would refuse
    for deterministic, precision in ((True, "bf16"), (False, "fp32")):  # as it was before
        cfg: Any = SimpleNamespace(deterministic=deterministic, precision=precision, **chosen)
        assert set_up_process(cfg).type == "cpu"
        assert hardware(torch.device("cpu")).endswith(", 1 threads")  # a resume compares them
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.backends.cudnn.deterministic == deterministic != torch.backends.cudnn.benchmark
        for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
            assert backend.allow_tf32 == (precision != "fp32")
        assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction


WATCH = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
import """


def test_how_threads_wait_is_said_before_pytorch_is_loaded() -> None:
    for name in ("train", "evaluate", "doctor", "probe", "benchmark", "conftest"):
        ended = python(WATCH + name, PYTHONPATH="tests")
        assert ended.stdout == "10000\n", name
    assert python(WATCH + "train", GOMP_SPINCOUNT="7").stdout == "7\n"
    assert python(WATCH + "train", GOMP_SPINCOUNT="").stdout == "10000\n"
    assert python(WATCH + "train", OMP_WAIT_POLICY="active").stdout == "None\n"


# ---- the console ------------------------------------------------------------------------------

SPEAK = """
import sys
from pathlib import Path
from mlr_dmcontrol.run.process import script

@script
def main():
    with open("/dev/null", "wb", buffering=0) as file:
        assert file.fileno() > 2  # a file that is written is never the console
    sys.stdout.close()  # as a simulator may
    sys.stderr.close()
    for _ in range(3000):
        print("± 1 score", "x" * 100)
        print("± 1 error", "x" * 100, file=sys.stderr)
    return 75

sys.exit(main())
"""


UNREAD = "2> >(tail --pid=$$ -f /dev/null >&- 2>&-)"


@pytest.mark.parametrize(
    "redirection", ["2>&1 | head -1", ">/dev/full 2>&1", ">&- 2>&- <&-", UNREAD]
)
def test_a_lost_console_changes_nothing(redirection: str) -> None:
    shell = f'"$0" -c "$1" {redirection}; exit ${{PIPESTATUS[0]}}'
    assert python(SPEAK, shell=shell).returncode == 75


def test_an_ascii_console_shows_what_it_can() -> None:
    ended = python(SPEAK, LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONCOERCECLOCALE="0")
    assert ended.returncode == 75
    assert ended.stdout.startswith("\\xb1 1 score ")


def test_what_the_user_did_wrong_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main(error: BaseException) -> int:
        raise error

    assert script(main)(ConfigError("a=1: is\nwrong")) == 2
    assert capsys.readouterr().err == "error: a=1: is wrong\n"
    assert script(main)(KeyboardInterrupt()) == 130
    for number in (errno.EIO, errno.ENOSPC, errno.EACCES):
        assert script(main)(OSError(number, os.strerror(number))) == 3
    assert capsys.readouterr().err.count("\n") == 3
    with pytest.raises(FileNotFoundError):  # a fault of ours
        script(main)(FileNotFoundError(errno.ENOENT, "gone"))
    with pytest.raises(LookupError):  # a fault of ours
        script(main)(LookupError())


# ---- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_raises_the_flag_and_is_the_reason(number: signal.Signals) -> None:
    before = [signal.getsignal(other) for other in SIGNALS]
    with StopRequest() as stop:
        assert (stop.requested, stop.reason) == (False, "")
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.requested, stop.reason) == (True, number.name)
        # A second interrupt would end it at once.
        ends = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        assert ends == (number == signal.SIGINT)
        stop.fulfilled()
        for other in SIGNALS:
            os.kill(os.getpid(), other)
    assert [signal.getsignal(other) for other in SIGNALS] == before


def test_in_a_thread_no_signal_is_heard_and_nothing_else_changes() -> None:
    def work() -> bool:
        with StopRequest() as stop:
            stop.fulfilled()
            return stop.requested

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() is False


LOOP = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.{hup})
signal.signal(signal.SIGINT, signal.{interrupt})
from mlr_dmcontrol.errors import Preempted
from mlr_dmcontrol.run.process import StopRequest, script

@script
def main():
    with StopRequest(last=True) as stop:
        print("ready", flush=True)
        while not stop.requested:
            time.sleep(0.01)
        stop.fulfilled()
        print(stop.reason, flush=True)
        time.sleep(0.3)
        raise Preempted("saved")

code = main()
time.sleep(0.3)
sys.exit(code)
"""


@pytest.mark.parametrize("hup", ["SIG_DFL", "SIG_IGN"])  # the latter after nohup,
@pytest.mark.parametrize("interrupt", ["default_int_handler", "SIG_IGN"])  # or in the background
def test_whatever_follows_the_first_signal_a_saved_run_ends_with_75(
    hup: str, interrupt: str
) -> None:
    command = [sys.executable, "-c", LOOP.format(hup=hup, interrupt=interrupt)]
    process = subprocess.Popen(command, cwd=TREE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    first = process.stdout.readline()
    assert first in (["SIGINT\n"] if hup == "SIG_IGN" else ["SIGHUP\n", "SIGINT\n"])
    while process.poll() is None:
        for number in SIGNALS:
            process.send_signal(number)
    assert process.returncode == Preempted.exit_code


def test_what_is_typed_may_be_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/her")
    assert typed_path("~/a") == Path("/her/a")
    assert typed_path("~no.such.user/a") == Path("~no.such.user/a")
    for wrong in ("", 256 * "a", f"a/{128 * 'é'}/b"):
        with pytest.raises(ConfigError):
            typed_path(wrong)
