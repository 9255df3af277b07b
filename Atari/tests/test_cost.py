"""Arithmetic of an update: the dry run counts what is really computed."""

from pathlib import Path

import pytest
import torch
from agents import small_agent, synthetic_batch
from torch.utils.flop_counter import FlopCounterMode

from mlr_atari.cost import estimate, update_cost
from mlr_atari.run.seeding import Streams
from mlr_atari.settings import load

CONFIGS = Path(__file__).parents[1] / "configs" / "agent"
AGENTS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("name", AGENTS)
def test_the_dry_run_counts_what_an_update_computes(name: str) -> None:
    narrow = {"num_filters": [4, 2]} if name in ("der_published", "curl_published") else {}
    agent = small_agent(name, **narrow)
    before = {key: value.clone() for key, value in agent.network.state_dict().items()}
    counted = update_cost(agent)[0]
    after = agent.network.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(parameter.grad is None for parameter in agent.network.parameters())
    length = agent.settings.sequence_length
    batch, noise = synthetic_batch(0, length=length), agent.draw_noise(Streams(0))
    with FlopCounterMode(display=False) as counter:
        agent.update(batch, noise, **agent.due(0))
    assert counted == counter.get_total_flops()


def test_memory_follows_the_batch_and_disk_the_network() -> None:
    words = ["preset=laptop", "game=pong", "device=cpu", "agent=mlr"]
    plain, batch, network = (
        estimate(load([*words, *more]))
        for more in ([], ["scale.batch_size=512"], ["scale.hidden_dim=512"])
    )
    assert batch.disk == plain.disk < network.disk
    assert plain.memory < batch.memory
    assert plain.hours < min(batch.hours, network.hours)
