"""What can be done to a run from outside: failing writes, numbers that are none.

The same file in both trees; `driver.py` does it.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Any

NAN = float("nan")


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
