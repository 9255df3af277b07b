"""What can be done to a run from outside: failing writes, forgotten state, numbers that are none.

The same file in both trees; `driver.py` does it.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from typing import Any

import torch

NAN = float("nan")
NEW_LOGGER = {"sizes": {"train": 0, "eval": 0, "eval_episodes": 0}, "last_step": -1}


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
