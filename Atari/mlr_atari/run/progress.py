"""How far a run has come: its counters, its last metrics and its last evaluation."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from ..errors import SimulatorError
from .evaluation import MOST_FAILURES

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """Counters, each with its unit in its name."""

    agent_step: int = 0  # decisions taken
    env_step: int = 0  # simulator steps
    update_step: int = 0  # updates of the agent
    episode: int = 0  # episodes begun
    episode_return: float = 0.0  # of the open episode, in raw reward
    episode_length: int = 0  # of the open episode, in agent steps
    finished_returns: list[float] = field(default_factory=list)  # since the last row of train.csv
    failures: int = 0  # episodes that ended because the simulator itself failed
    failures_in_a_row: int = 0
    failed_episode: int = -1  # the last one
    evaluated_at: int = -1  # agent step of the last evaluation
    evaluation: list[float] = field(default_factory=list)  # its episodes' scores

    def begin_episode(self) -> None:
        self.episode += 1
        self.episode_return, self.episode_length = 0.0, 0

    def step(self, reward: float, env_steps: int) -> None:
        """One decision was carried out, over `env_steps` simulator steps."""
        self.agent_step += 1
        self.env_step += env_steps
        self.episode_return += reward
        self.episode_length += 1

    @contextmanager
    def simulator_may_fail(self) -> Iterator[None]:
        """Where the simulator itself fails within, the open episode is over, and that is all.

        Raises SimulatorError: so were too many episodes, one after another.
        """
        try:
            yield
        except SimulatorError as error:
            follows = self.failed_episode == self.episode - 1
            self.failures_in_a_row = self.failures_in_a_row + 1 if follows else 1
            self.failures, self.failed_episode = self.failures + 1, self.episode
            log.warning("the simulator ends episode %d: %s", self.episode, error)
            if self.failures_in_a_row == MOST_FAILURES:
                text = f"{error}; so it went in {MOST_FAILURES} episodes in a row"
                raise SimulatorError(text) from error

    def take_finished(self) -> float | None:
        """Mean return of the episodes that ended since the last call; None if none did."""
        returns, self.finished_returns = self.finished_returns, []
        return sum(returns) / len(returns) if returns else None

    def watched(self) -> dict[str, float]:
        """What must be finite, and when; a reward that is not stays in its episode's return."""
        returns = sum(self.finished_returns) + self.episode_return
        return {"agent_step": self.agent_step, "episode_returns": returns}

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for counter in fields(self):
            setattr(self, counter.name, state[counter.name])


class LastMetrics:
    """The latest value of every metric, left on the device until a row is written.

    Each is 0 until an update reports it. The tensors stay the same ones, so that `update` may be
    part of a CUDA graph.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.values = {name: torch.zeros((), device=device) for name in names}

    def update(self, metrics: Mapping[str, Tensor]) -> None:
        """Copy what one update reported; the other metrics keep their values."""
        torch._foreach_copy_([self.values[name] for name in metrics], list(metrics.values()))

    def fetch(self) -> dict[str, float]:
        """All values, in a single transfer to the host, which waits for it."""
        stacked = torch.stack([value.double() for value in self.values.values()])
        return dict(zip(self.values, stacked.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        return dict(self.values)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(state[name])


class SaveSchedule:
    """When a checkpoint is due: by wall-clock time, by agent steps, or both; 0 means never."""

    def __init__(self, minutes: float, steps: int) -> None:
        self._seconds, self._steps = 60.0 * minutes, steps
        self.saved(0)

    def due(self, agent_step: int) -> bool:
        by_time = 0 < self._seconds <= time.monotonic() - self._time
        by_steps = self._steps > 0 and agent_step % self._steps == 0
        return by_time or (by_steps and agent_step != self._agent_step)

    def saved(self, agent_step: int) -> None:
        """A checkpoint was written, tried or restored at `agent_step`: time counts from now on."""
        self._time, self._agent_step = time.monotonic(), agent_step
