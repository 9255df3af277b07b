"""When a checkpoint is due; counters and metrics that come back."""

from __future__ import annotations

import math
import time

import pytest
import torch

from mlr_dmcontrol.run.progress import LastMetrics, Progress, SaveSchedule


def test_when_a_checkpoint_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    by_time, by_steps, never = (SaveSchedule(*due) for due in ((5.0, 0), (0.0, 7), (0.0, 0)))
    for _ in range(2):
        now += 299.0
        assert not by_time.due(3)
        now += 1.0
        assert by_time.due(3)
        by_time.saved(3)
    assert [step for step in range(23) if by_steps.due(step)] == [7, 14, 21]
    by_steps.saved(14)  # written or restored there, so never again
    assert [step for step in range(1, 23) if by_steps.due(step)] == [7, 21]
    now += 1e9
    assert not never.due(3)


def test_counters_and_metrics_come_back() -> None:
    one, other = Progress(), Progress()
    one.begin_episode()
    one.step(1.5, 4)
    one.finished_returns.append(3.0)
    assert one.watched() == {"agent_step": 1, "episode_returns": 4.5}
    other.load_state_dict(one.state_dict())
    assert other == one
    assert (one.take_finished(), one.take_finished()) == (3.0, None)
    assert other.finished_returns == [3.0]
    metrics, restored = (LastMetrics(["a", "b"], torch.device("cpu")) for _ in range(2))
    metrics.update({"a": torch.tensor(0.1)})
    metrics.update({"b": torch.tensor(3.0)})
    restored.load_state_dict(metrics.state_dict())
    assert restored.fetch() == {"a": 0.10000000149011612, "b": 3.0}


def test_a_bad_reward_stays_in_what_is_watched() -> None:
    run = Progress()
    run.step(math.nan, 4)
    run.step(1.0, 4)
    assert math.isnan(run.watched()["episode_returns"])
    run.finished_returns.append(run.episode_return)
    run.begin_episode()
    assert math.isnan(run.watched()["episode_returns"])
