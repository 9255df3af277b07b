"""When a checkpoint is due; counters and metrics that come back."""

from __future__ import annotations

import math
import time

import pytest
import torch

from mlr_atari.run.progress import LastMetrics, Progress, SaveSchedule


def test_a_checkpoint_is_due_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    schedule, never = SaveSchedule(5.0, 0), SaveSchedule(0.0, 0)
    for _ in range(2):
        now += 299.0
        assert not schedule.due(3)
        now += 1.0
        assert schedule.due(3)
        schedule.saved(3)
    now += 1e9
    assert not never.due(3)


def test_a_checkpoint_is_due_by_steps_and_never_twice_at_the_same() -> None:
    schedule = SaveSchedule(0.0, 7)
    assert [step for step in range(23) if schedule.due(step)] == [7, 14, 21]
    schedule.saved(14)  # written or restored there
    assert [step for step in range(1, 23) if schedule.due(step)] == [7, 21]


def test_counters_come_back() -> None:
    one, other = Progress(), Progress()
    one.begin_episode()
    one.step(1.5, 4)
    one.finished_returns.append(3.0)
    assert one.watched() == {"agent_step": 1, "episode_returns": 4.5}
    other.load_state_dict(one.state_dict())
    assert other == one
    assert (one.take_finished(), one.take_finished()) == (3.0, None)
    assert other.finished_returns == [3.0]
    state = one.state_dict()
    del state["episode"]
    with pytest.raises(KeyError):
        other.load_state_dict(state)


def test_a_bad_reward_stays_in_what_is_watched() -> None:
    run = Progress()
    run.step(math.nan, 4)
    run.step(1.0, 4)
    assert math.isnan(run.watched()["episode_returns"])
    run.finished_returns.append(run.episode_return)
    run.begin_episode()
    assert math.isnan(run.watched()["episode_returns"])


def test_metrics_keep_their_last_values() -> None:
    metrics, other = (LastMetrics(["a", "b"], torch.device("cpu")) for _ in range(2))
    metrics.update({"a": torch.tensor(0.1)})
    metrics.update({"b": torch.tensor(3.0)})
    other.load_state_dict(metrics.state_dict())
    assert other.fetch() == {"a": 0.10000000149011612, "b": 3.0}
    with pytest.raises(ValueError, match="unnamed metrics"):
        metrics.update({"c": torch.tensor(1.0)})
    with pytest.raises(KeyError):
        other.load_state_dict({"a": torch.tensor(1.0)})
