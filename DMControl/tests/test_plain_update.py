"""Our update computes what the plain one does, given the same draws."""

import pytest
import torch
from plain_update import PlainSAC
from small_agents import make_agent, make_batch, updated

from mlr_dmcontrol.run.seeding import Streams


@pytest.mark.parametrize(
    "name, changes",
    [
        ("mlr", {}),
        ("mlr", {"mask_per": "sequence", "decoder_width": 8, "mlr_weight": 3.0}),
        ("mlr_official", {"decoder_actions": False}),
        ("sac", {}),
    ],
)
def test_plain_updates_have_our_losses(name: str, changes: dict[str, object]) -> None:
    agent = make_agent(name, seed=3, warmup_updates=2, sequences_at_once=2, **changes)
    plain, streams = PlainSAC(agent), Streams(4)
    for step in range(5):
        batch, noise, due = make_batch(agent, step), agent.draw_noise(streams), agent.due(step)
        mine, theirs = updated(agent, batch, noise, step), plain.update(batch, noise, **due)
        assert "loss/critic" in theirs
        assert ("loss/actor" in theirs) == due["actor_step"]
        for key, loss in theirs.items():
            torch.testing.assert_close(loss, mine[key], rtol=2e-4, atol=1e-6)
    ours, copied = (list(each.networks.actor.trunk.parameters()) for each in (agent, plain))
    torch.testing.assert_close(copied, ours, rtol=1e-3, atol=1e-4)
