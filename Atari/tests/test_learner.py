"""Updates as a run does them: eager, compiled and as a CUDA graph are the same."""

from typing import Any

import numpy as np
import pytest
import torch
from agents import agent_settings
from torch import Tensor

from mlr_atari.build import build_agent, replay_for
from mlr_atari.cost import update_cost
from mlr_atari.learner import Learner
from mlr_atari.run.seeding import Streams

UPDATES, SIZE = 50, 48


def make_learner(
    name: str = "mlr",
    device: str = "cpu",
    precision: str = "fp32",
    *,
    compiled: bool = False,
    graph: bool = False,
) -> Learner:
    """A learner of a tiny agent, on a replay of random frames; the same each time."""
    narrow = {"decoder_width": 8} if name == "mlr" else {}
    settings = agent_settings(name, target_update_interval=2, **narrow)
    draws = np.random.default_rng(0)
    how: Any = {"device": torch.device(device), "seed": 3, "precision": precision}
    agent = build_agent(settings, obs_shape=(4, SIZE, SIZE), num_actions=4, **how)
    replay = replay_for(agent, 120)
    for step in range(90):
        frame = draws.integers(0, 256, (SIZE, SIZE), np.uint8)
        action, reward = int(draws.integers(4)), float(draws.integers(-1, 2))
        replay.add(frame, action, reward, terminated=step % 30 == 29, truncated=False)
    return Learner(agent, replay, Streams(4), compiled=compiled, graph=graph)


def updated(learner: Learner, step: int) -> dict[str, Tensor]:
    """The metrics after one more update."""
    learner.update(2000 + step)
    return {name: value.clone() for name, value in learner.metrics.values.items()}


def assert_close(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    for name in mine:
        rtol = 1e-5 if name.startswith("loss/") else 1e-4  # rounding of sums over parameters
        torch.testing.assert_close(mine[name], theirs[name], rtol=rtol, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", ["mlr", "rainbow"])
def test_what_the_last_batch_was_stays_inside(name: str) -> None:
    learner = make_learner(name)
    assert (learner.diagnostics(), learner.preview()) == ({}, None)
    learner.update(2000)
    assert set(learner.diagnostics()) == set(learner.diagnostic_names)
    assert (learner.preview() is None) == (name == "rainbow")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_compiled_losses_are_counted_as_any_wherever_they_are(device: str) -> None:
    other = make_learner(device=device, compiled=True).agent
    assert update_cost(other)[0] == update_cost(make_learner().agent)[0]


@pytest.mark.soak
@pytest.mark.parametrize("name", ["mlr", "rainbow", "curl", "spr", "playvirtual"])
def test_compiled_losses_are_the_same(name: str) -> None:
    eager, compiled = make_learner(name), make_learner(name, compiled=True)
    for step in range(UPDATES):
        assert_close(updated(compiled, step), updated(eager, step))
        # From the same weights each time: what is compared is an update, not chaos.
        compiled.agent.load_state_dict(eager.agent.state_dict())
        compiled.replay.load_state_dict(eager.replay.state_dict())


@pytest.mark.cuda
def test_graphs_are_the_same_and_are_really_replayed() -> None:
    eager, graph = make_learner(device="cuda"), make_learner(device="cuda", graph=True)
    for step in range(UPDATES):
        assert_close(updated(graph, step), updated(eager, step))
    graph.agent.load_state_dict(eager.agent.state_dict())  # in place: graphs stay valid
    assert_close(updated(graph, UPDATES), updated(eager, UPDATES))
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for step in range(UPDATES + 1, UPDATES + 5):
            graph.update(2000 + step)
        torch.cuda.synchronize()
    launches = [event for event in profile.events() if event.name == "cudaGraphLaunch"]
    assert len(launches) == 4
