"""`train.py` in a process of its own, with the fault that a test asks for.

    python tests/driver.py '{"signal": "SIGTERM", "at_step": 30}' preset=smoke ...
    python tests/driver.py --serve     many runs: a JSON request a line, a forked child for each

Without a fault it is `python train.py` to the letter; a fault (see `faults.py`) is put in from
outside, around the loop's own methods. Forking spares each run the imports, which take longer than
the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import random
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import small_run
import torch
from faults import FailingWrites, SlowWrites, spoil

import train

PACKAGE = train.Trainer.__init__.__globals__["Checkpointer"].__module__.partition(".")[0]

Faults = Mapping[str, Any]


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


def resources() -> tuple[int, int]:
    """Resident memory in pages, and the number of open files, of this process; Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages, len(os.listdir("/proc/self/fd"))


# --- generators -----------------------------------------------------------------------------------


def fingerprint(leaf: Any) -> str | None:
    """A digest of a random generator's state; None for anything else."""
    if isinstance(leaf, torch.Generator):
        state: Any = leaf.get_state().numpy().tobytes()
    elif isinstance(leaf, np.random.Generator):
        state = leaf.bit_generator.state
    elif isinstance(leaf, np.random.RandomState):
        state = leaf.get_state(legacy=False)
        state = [state["bit_generator"], state["state"]["key"].tobytes(), state["state"]["pos"]]
    elif isinstance(leaf, random.Random):
        state = leaf.getstate()
    else:
        return None
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


def generators(root: Any) -> dict[str, str]:
    """Digest of every random generator that can be reached from `root`, by its path."""
    found: dict[str, str] = {}
    seen: set[int] = set()
    waiting = [("", root)]
    while waiting:
        name, each = waiting.pop()
        if id(each) in seen or isinstance(each, str | bytes | int | float | type | type(sys)):
            continue
        seen.add(id(each))
        digest = fingerprint(each)
        if digest is not None:
            found[name] = digest
            continue
        waiting += [(f"{name}.{key}", child) for key, child in children(each)]
    return found


def children(each: Any) -> list[tuple[str, Any]]:
    """What an object holds, by name; functions hold what they close over."""
    if isinstance(each, torch.Tensor | np.ndarray):
        return []
    if isinstance(each, Mapping):
        return [(str(key), value) for key, value in each.items()]
    if isinstance(each, list | tuple | set | frozenset | deque):
        return [(str(number), child) for number, child in enumerate(each)]
    if isinstance(each, partial):
        return [("func", each.func), ("args", each.args), ("keywords", each.keywords)]
    if isinstance(each, MethodType):
        return [("self", each.__self__), ("func", each.__func__)]
    inner = list(getattr(each, "__dict__", {}).items())
    if isinstance(each, FunctionType):
        closure = [cell.cell_contents for cell in each.__closure__ or ()]
        return [*inner, ("closure", closure), ("defaults", each.__defaults__ or ())]
    slots = [name for kind in type(each).__mro__ for name in getattr(kind, "__slots__", ())]
    return inner + [(name, getattr(each, name)) for name in slots if hasattr(each, name)]


# --- one run, with its faults ---------------------------------------------------------------------


class FaultyTrainer(train.Trainer):
    """`train.Trainer` with faults around its methods."""

    faults: ClassVar[Faults]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.saves = 0
        self.writes_a_save = 0

    def train(self) -> None:
        if self.faults.get("generators"):
            print("generators restored", json.dumps(generators(self)), flush=True)
        if "at_finish" in self.faults:
            self.records.finish = lambda: send(self.faults["signal"])  # type: ignore[method-assign]
        moments = {"at_step", "in_evaluation", "at_finish"}
        if "signal" in self.faults and not moments & self.faults.keys():
            send(self.faults["signal"])
        super().train()

    def step(self) -> None:
        step = self.progress.agent_step
        if self.faults.get("report"):
            print("at", step, flush=True)
        if self.faults.get("resources"):
            print("resources", step, *resources(), flush=True)
        if step == self.faults.get("at_step"):
            if "signal" in self.faults:
                send(self.faults["signal"])
            if "spoil" in self.faults:
                spoil(self, self.faults["spoil"])
        super().step()

    def save(self, **options: Any) -> None:
        self.saves += 1
        if self.faults.get("generators"):
            print("generators saved", json.dumps(generators(self)), flush=True)
        first, last = self.faults.get("failing_saves", (0, -1))
        if self.saves == 1 and "fail" in self.faults:
            counter = FailingWrites("EIO", set())
            os.write = counter  # type: ignore[assignment]
            super().save(**options)
            os.write = counter.real  # type: ignore[assignment]
            self.writes_a_save = counter.count
            return
        if not first <= self.saves <= last:
            super().save(**options)
            return
        count = self.writes_a_save
        numbers = {"first": {1}, "middle": {count // 2}, "last": {count}}.get(self.faults["fail"])
        failing = FailingWrites(self.faults["error"], numbers)
        os.write = failing  # type: ignore[assignment]
        try:
            super().save(**options)
        finally:
            os.write = failing.real  # type: ignore[assignment]

    def evaluate(self) -> None:
        if self.progress.agent_step == self.faults.get("in_evaluation"):
            stopped = interrupted(train.evaluate, self.faults["signal"])
            train.evaluate = stopped  # type: ignore[assignment]
        super().evaluate()


def interrupted(evaluate: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`evaluate` whose policy sends the signal when asked for its third action."""
    count = 0

    def wrapped(act: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        def counted(*observed: Any) -> Any:
            nonlocal count
            count += 1
            if count == 3:
                send(name)
            return act(*observed)

        return evaluate(counted, *arguments, **options)

    return wrapped


def run(faults: Faults, words: list[str]) -> int:
    """The exit code of `train.py`, run with `faults`."""
    if "slow" in faults:
        storage = importlib.import_module(f"{PACKAGE}.run.storage")
        storage.os.write = SlowWrites(faults["slow"])
    if faults:
        FaultyTrainer.faults = faults
        train.Trainer = FaultyTrainer  # type: ignore[misc]
    return train.main(words)


# --- many runs ------------------------------------------------------------------------------------


def warm_up() -> None:
    """Do once what every run would do to the same end: late imports, parsing of the settings."""
    for name in ("torch._dynamo", "torch._inductor"):  # the optimisers' and the switches'
        importlib.import_module(name)
    with contextlib.redirect_stderr(io.StringIO()) as refused:
        train.main([*small_run.TRAIN, "budget=-1"])
    assert refused.getvalue().startswith("error: budget=-1"), refused.getvalue()
    small_run.warm_up()


def serve() -> None:
    """Answer each request with the child's number, then with how it ended (minus a signal)."""
    warm_up()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(request)
        print(json.dumps(child), flush=True)
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


def become(request: Mapping[str, Any]) -> None:
    """Be the run: never returns."""
    code = 1
    try:
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.close(0)
        sys.argv = ["train.py", *request["words"]]
        code = run(request["faults"], request["words"])
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "--serve":
        serve()
    else:
        sys.exit(run(json.loads(sys.argv[1]), sys.argv[2:]))
