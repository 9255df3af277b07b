"""When a checkpoint is due; counters and metrics that come back (the same file in both trees)."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch

from mlr_atari.run import progress


class Clock:
    """Stands in for the wall clock."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def due_after(schedule: Any, clock: Clock, seconds: float) -> bool:
    clock.now += seconds
    return bool(schedule.due(3))


def test_by_time(clock: Clock) -> None:
    schedule = progress.SaveSchedule(5.0, 0)
    assert not due_after(schedule, clock, 299.0)
    assert due_after(schedule, clock, 1.0)
    schedule.saved(3)
    assert not due_after(schedule, clock, 299.0)
    assert due_after(schedule, clock, 1.0)


def test_by_steps_and_never_twice_at_the_same(clock: Clock) -> None:
    schedule = progress.SaveSchedule(0.0, 7)
    assert [step for step in range(23) if schedule.due(step)] == [7, 14, 21]
    schedule.saved(14)  # written or restored there
    assert [step for step in range(1, 23) if schedule.due(step)] == [7, 21]
    assert not due_after(schedule, clock, 1e9)


def test_never(clock: Clock) -> None:
    schedule = progress.SaveSchedule(0.0, 0)
    assert not due_after(schedule, clock, 1e9)


def test_counters_come_back() -> None:
    one, other = progress.Progress(), progress.Progress()
    one.begin_episode()
    one.step(1.5, 4)
    one.finished_returns.append(3.0)
    assert one.watched() == {"agent_step": 1, "episode_returns": 4.5}
    other.load_state_dict(one.state_dict())
    assert other == one
    assert one.take_finished() == 3.0
    assert one.take_finished() is None
    assert other.finished_returns == [3.0]
    state = one.state_dict()
    del state["episode"]
    with pytest.raises(KeyError):
        other.load_state_dict(state)


def test_a_bad_reward_stays_in_what_is_watched() -> None:
    run = progress.Progress()
    run.step(math.nan, 4)
    run.step(1.0, 4)
    assert math.isnan(run.watched()["episode_returns"])
    run.finished_returns.append(run.episode_return)
    run.begin_episode()
    assert math.isnan(run.watched()["episode_returns"])


def test_metrics_keep_their_last_values() -> None:
    metrics = progress.LastMetrics(["a", "b"], torch.device("cpu"))
    metrics.update({"a": torch.tensor(2.0)})
    metrics.update({"b": torch.tensor(3.0)})
    other = progress.LastMetrics(["a", "b"], torch.device("cpu"))
    other.load_state_dict(metrics.state_dict())
    assert {name: float(each) for name, each in other.values.items()} == {"a": 2.0, "b": 3.0}
    with pytest.raises(ValueError, match="unnamed metrics"):
        metrics.update({"c": torch.tensor(1.0)})
    with pytest.raises(KeyError):
        other.load_state_dict({"a": torch.tensor(1.0)})
