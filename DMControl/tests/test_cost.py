"""Arithmetic of an update: the dry run counts what is really computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_agents import TINY, make_agent, make_batch
from torch.utils.flop_counter import FlopCounterMode

from mlr_dmcontrol.cost import estimate, update_flops
from mlr_dmcontrol.run.seeding import Streams
from mlr_dmcontrol.sac import SAC
from mlr_dmcontrol.settings import load

CONFIGS = Path(__file__).parents[1] / "configs" / "agent"
AGENTS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
ENCODER = 2 * (13 * 13 * 9 * 4 * 9 + 6 * 6 * 4 * 4 * 9 + 144 * 50)  # TINY: 28 -> 13 -> 6 pixels


def block(agent: SAC) -> float:
    """Operations of one update of each kind, really computed."""
    batch, streams = make_batch(agent, size=32), Streams(0)

    with FlopCounterMode(display=False) as counter:
        for step in (0, 1):
            agent.update(batch, agent.draw_noise(streams), **agent.due(step))
    return float(counter.get_total_flops())


@pytest.mark.parametrize("name", AGENTS)
def test_the_dry_run_counts_what_an_update_computes(name: str) -> None:
    # Objective networks that depend on the image's size see 32 pixels, as the batch has them.
    agent = make_agent(name, **(TINY if "drq" not in name else TINY | {"crop_size": 32}))
    before = {key: value.clone() for key, value in agent.networks.state_dict().items()}
    counted = update_flops(agent)
    after = agent.networks.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(parameter.grad is None for parameter in agent.networks.parameters())
    assert counted == block(agent) / 2


def test_sac_by_hand() -> None:
    agent, count = make_agent("sac", **TINY), 6
    latent, hidden, actions = 50, 16, 3
    # Backward costs twice the forward pass, but nobody asks for a gradient of the pixels.
    first = 2 * 13 * 13 * 9 * 4 * 9
    critic = 2 * 2 * ((latent + actions) * hidden + hidden * hidden + hidden)
    head = 2 * 144 * latent
    actor = head + 2 * (latent * hidden + hidden * hidden + hidden * 2 * actions)
    learnt = 3 * ENCODER - first + 3 * critic
    target = (ENCODER - head) + actor + ENCODER + critic
    # The gradient of the action passes through the critic; of its weights none is needed.
    acted = ENCODER + 3 * actor - head + 2 * critic
    expected = count * (learnt + target + acted / 2)
    assert update_flops(agent) == pytest.approx(expected, rel=0.02)


def test_cost_grows_with_the_batch() -> None:
    one, two = (make_agent("mlr", **TINY, batch_size=size) for size in (6, 12))
    sequences = make_agent("mlr", **TINY, sequence_batch_size=6)
    rl = update_flops(make_agent("sac", **TINY))
    assert update_flops(two) - update_flops(one) == pytest.approx(rl)
    assert update_flops(sequences) - rl == pytest.approx(2 * (update_flops(one) - rl), rel=1e-6)


def test_memory_follows_the_batch_and_disk_the_network() -> None:
    words = ["preset=laptop", "task=cheetah_run", "device=cpu", "agent=mlr"]
    plain, batch, network = (
        estimate(load([*words, *more]))
        for more in ([], ["scale.batch_size=512"], ["scale.hidden_dim=512"])
    )
    assert batch.disk == plain.disk < network.disk
    assert plain.memory < batch.memory
    assert plain.hours < min(batch.hours, network.hours)
