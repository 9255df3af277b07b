"""`train.py` in a process of its own, with the fault that a test asks for.

    python tests/driver.py '{"signal": "SIGTERM", "at_step": 30}' preset=smoke ...
    python tests/driver.py --serve     many runs: a JSON request a line, a forked child for each

Without a fault it is `python train.py` to the letter; a fault is put in from outside, around the
loop's own methods. Forking spares each run the imports, which take longer than the run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import io
import json
import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import small_run
import torch

import train

PACKAGE = train.Trainer.__init__.__globals__["Checkpointer"].__module__.partition(".")[0]
NAN = float("nan")
NEW_LOGGER = {"sizes": {"train": 0, "eval": 0, "eval_episodes": 0}, "last_step": -1}

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


# --- faults ---------------------------------------------------------------------------------------


class SlowWrites:
    """Every write to a file of a checkpoint takes `seconds`, and is done in halves."""

    def __init__(self, seconds: float) -> None:
        self.real, self.seconds = os.write, seconds

    def __call__(self, descriptor: int, data: Any) -> int:
        time.sleep(self.seconds)
        return self.real(descriptor, data[: max(1, len(data) // 2)])


class FailingWrites:
    """Writes number `numbers` (from 1; None: all) raise the error named `code`, half done."""

    def __init__(self, code: str, numbers: set[int] | None) -> None:
        self.real, self.code, self.numbers = os.write, getattr(errno, code), numbers
        self.count = 0

    def __call__(self, descriptor: int, data: Any) -> int:
        self.count += 1
        if self.numbers is None or self.count in self.numbers:
            self.real(descriptor, data[: len(data) // 2])
            raise OSError(self.code, os.strerror(self.code))
        return self.real(descriptor, data)


def forget(trainer: Any, item: str) -> None:
    """Let one item of the saved state keep the value that a new run begins with.

    An item is a path such as `progress|episode`, because names of metrics have slashes.
    """
    part_name, *path = item.split("|")
    if part_name == "frames":
        trainer.replay.write_frames = lambda start, frames: None
        return
    part = trainer.state[part_name]
    load = part.load_state_dict
    fresh = NEW_LOGGER if part_name == "logger" else copied(part.state_dict())

    def load_all_but_the_item(state: Any) -> Any:
        changed = mixed(state, fresh, path)
        if equal(changed, state):
            print("the item is the same in a new run")
        return load(changed)

    part.load_state_dict = load_all_but_the_item


def lack(trainer: Any, item: str) -> None:
    """Let one item of the saved state be missing."""
    part_name, *path, last = item.split("|")
    part = trainer.state[part_name]
    load = part.load_state_dict

    def load_without(state: Any) -> Any:
        changed = copied(state)
        inner = changed
        for key in path:
            inner = inner[key]
        del inner[last]
        return load(changed)

    part.load_state_dict = load_without


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def copied(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in tree.items()}
    return type(tree)(map(copied, tree)) if isinstance(tree, list | tuple) else tree


def zeros(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(each) for name, each in tensors.items()}


def mixed(state: Any, fresh: Any, path: list[str]) -> Any:
    """`state` with what is at `path` from `fresh`; `*` stands for every position of a list."""
    if not path:
        if isinstance(state, torch.Tensor) and state.shape != fresh.shape:
            return torch.zeros_like(state)  # an array that grows
        return fresh
    head, rest = path[0], path[1:]
    if head == "*" and isinstance(state, Mapping):
        # Adam's, which is empty at first and counts from 0: as good as zeros.
        return {key: mixed(old, fresh.get(key, zeros(old)), rest) for key, old in state.items()}
    if head == "*":
        return [mixed(old, new, rest) for old, new in zip(state, fresh, strict=True)]
    if head.endswith("."):  # tensors of a module, by the beginning of their names
        return {key: fresh[key] if key.startswith(head) else old for key, old in state.items()}
    return {**state, head: mixed(state[head], fresh[head], rest)}


class SpoiltAugmentation:
    """An augmentation whose images are no numbers."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __call__(self, *arguments: Any) -> Any:
        return self.real(*arguments) * NAN

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def spoil(trainer: Any, where: str) -> None:
    """Put a NaN into the computation, from now on."""
    agent = trainer.agent
    if where == "scale":
        agent.augmentation = SpoiltAugmentation(agent.augmentation)
    elif where == "loss":
        loss = agent.objective.loss

        def bad_loss(*arguments: Any) -> Any:
            value, metrics = loss(*arguments)
            return value * NAN, {name: metric * NAN for name, metric in metrics.items()}

        agent.objective.loss = bad_loss
    elif where == "gradient":
        next(agent.objective.parameters()).register_hook(lambda gradient: gradient * NAN)
    elif where == "parameter":
        next(agent.objective.parameters()).data.view(-1)[0] = NAN
    elif where == "reward":
        step = trainer.env.step

        def bad_step(action: Any) -> Any:
            obs, _, *rest = step(action)
            if "raw_reward" in rest[-1]:
                rest[-1]["raw_reward"] = NAN
            return obs, NAN, *rest

        trainer.env.step = bad_step
    else:
        raise ValueError(where)


def faulty_trainer(faults: Faults) -> type:
    """`train.Trainer` with faults around its methods."""

    class Faulty(train.Trainer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.saves = 0
            self.writes_a_save = 0
            for item in faults.get("forget", []):
                forget(self, item)
            for item in faults.get("lack", []):
                lack(self, item)

        def train(self) -> None:
            if faults.get("generators"):
                print("generators restored", json.dumps(generators(self)), flush=True)
            if "at_finish" in faults:
                self.books.finish = lambda: send(faults["signal"])  # type: ignore[method-assign]
            if not {"at_step", "in_evaluation", "at_finish"} & faults.keys() and "signal" in faults:
                send(faults["signal"])
            super().train()

        def step(self) -> None:
            step = self.progress.agent_step
            if faults.get("report"):
                print("at", step, flush=True)
            if faults.get("resources"):
                print("resources", step, *resources(), flush=True)
            if step == faults.get("at_step"):
                if "signal" in faults:
                    send(faults["signal"])
                if "spoil" in faults:
                    spoil(self, faults["spoil"])
            super().step()

        def save(self, **options: Any) -> None:
            self.saves += 1
            if faults.get("generators"):
                print("generators saved", json.dumps(generators(self)), flush=True)
            first, last = faults.get("failing_saves", (0, -1))
            if self.saves == 1 and "fail" in faults:
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
            numbers = {"first": {1}, "middle": {count // 2}, "last": {count}}.get(faults["fail"])
            failing = FailingWrites(faults["error"], numbers)
            os.write = failing  # type: ignore[assignment]
            try:
                super().save(**options)
            finally:
                os.write = failing.real  # type: ignore[assignment]

        def evaluate(self) -> None:
            if self.progress.agent_step == faults.get("in_evaluation"):
                stopped = interrupted(train.evaluate, faults["signal"])
                train.evaluate = stopped  # type: ignore[assignment]
            super().evaluate()

    return Faulty


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
        train.Trainer = faulty_trainer(faults)  # type: ignore[misc]
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
    except BaseException:
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
