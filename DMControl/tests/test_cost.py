"""Arithmetic of an update: the dry run counts what is really computed."""

from pathlib import Path

import pytest
import torch
from small_agents import TINY, make_agent, make_batch
from torch.utils.flop_counter import FlopCounterMode

from mlr_dmcontrol import cost
from mlr_dmcontrol.cost import estimate, update_cost
from mlr_dmcontrol.run.seeding import Streams
from mlr_dmcontrol.settings import load

CONFIGS = Path(__file__).parents[1] / "configs" / "agent"
AGENTS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("name", AGENTS)
def test_the_dry_run_counts_what_an_update_computes(name: str) -> None:
    # Objective networks that depend on the image's size see 32 pixels, as the batch has them.
    agent = make_agent(name, **(TINY if "drq" not in name else TINY | {"crop_size": 32}))
    before = {key: value.clone() for key, value in agent.networks.state_dict().items()}
    counted = update_cost(agent)[0]
    after = agent.networks.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(parameter.grad is None for parameter in agent.networks.parameters())
    batch, streams = make_batch(agent, size=32), Streams(0)
    with FlopCounterMode(display=False) as counter:
        for step in (0, 1):  # with and without the actor's
            agent.update(batch, agent.draw_noise(streams), **agent.due(step))
    assert counted == counter.get_total_flops() / 2


def test_memory_follows_the_batch_and_disk_the_network() -> None:
    words = ["preset=laptop", "task=cheetah_run", "device=cpu", "agent=mlr"]
    plain, batch, network = (
        estimate(load([*words, *more]))
        for more in ([], ["scale.batch_size=512"], ["scale.hidden_dim=512"])
    )
    assert batch.disk == plain.disk < network.disk
    assert plain.memory < batch.memory
    assert plain.hours < min(batch.hours, network.hours)


def test_a_gpu_holds_all_sequences_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = load(["preset=laptop", "device=cpu", "agent=mlr", "scale.sequence_batch_size=64"])
    on_cpu = estimate(cfg).memory
    monkeypatch.setattr(cost, "_rate", lambda device: 1e12)
    monkeypatch.setattr(type(cfg), "uses_gpu", True)
    assert estimate(cfg).memory > on_cpu
