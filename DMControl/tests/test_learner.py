"""Updates as a run does them: eager, compiled and as a CUDA graph are the same."""

import numpy as np
import pytest
import torch
from small_agents import TINY, make_agent
from torch import Tensor

from mlr_dmcontrol.build import replay_for
from mlr_dmcontrol.cost import update_cost
from mlr_dmcontrol.learner import Learner
from mlr_dmcontrol.run.seeding import Streams

UPDATES = 50


def make_learner(
    name: str = "mlr",
    device: str = "cpu",
    precision: str = "fp32",
    *,
    compiled: bool = False,
    graph: bool = False,
) -> Learner:
    """A learner of a tiny agent, on a replay of random frames; the same each time."""
    size = TINY["crop_size"] if name.startswith("drq") else TINY["size"]  # DrQ's shift cuts nothing
    sizes = {**TINY, "size": size, "sequences_at_once": 2}
    agent = make_agent(name, seed=3, device=device, precision=precision, **sizes)
    draws = np.random.default_rng(0)
    replay = replay_for(agent, 80)
    for step in range(60):
        frame = draws.integers(0, 256, (2, 3, size, size), np.uint8)
        if step % 30 == 0:
            replay.start_episode(frame[0])
        action = draws.uniform(-1, 1, 3).astype(np.float32)
        replay.add(action, float(draws.random()), frame[1], False, step % 30 == 29)
    return Learner(agent, replay, Streams(4), compiled=compiled, graph=graph)


def updated(learner: Learner, step: int) -> dict[str, Tensor]:
    """The metrics after one more update."""
    learner.update(step)
    return {name: value.clone() for name, value in learner.metrics.values.items()}


def assert_close(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    for name in mine:
        rtol = 1e-5 if name.startswith("loss/") else 1e-4  # rounding of sums over parameters
        torch.testing.assert_close(mine[name], theirs[name], rtol=rtol, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", ["mlr", "sac"])
def test_what_the_last_batch_was_stays_inside(name: str) -> None:
    learner = make_learner(name)
    assert (learner.diagnostics(), learner.preview()) == ({}, None)
    learner.update(0)
    assert set(learner.diagnostics()) == set(learner.diagnostic_names)
    assert (learner.preview() is None) == (name == "sac")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_compiled_losses_are_counted_as_any_wherever_they_are(device: str) -> None:
    other = make_learner(device=device, compiled=True).agent
    assert update_cost(other)[0] == update_cost(make_learner().agent)[0]


@pytest.mark.soak
@pytest.mark.parametrize("name", ["mlr", "sac", "curl", "drq", "spr", "playvirtual"])
def test_compiled_losses_are_the_same(name: str) -> None:
    eager, compiled = make_learner(name), make_learner(name, compiled=True)
    for step in range(UPDATES):
        assert_close(updated(compiled, step), updated(eager, step))
        # From the same weights each time: what is compared is an update, not chaos.
        compiled.agent.load_state_dict(eager.agent.state_dict())


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
            graph.update(step)
        torch.cuda.synchronize()
    launches = [event for event in profile.events() if event.name == "cudaGraphLaunch"]
    assert len(launches) == 4
