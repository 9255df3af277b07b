"""Our update computes what the plain one does, given the same draws."""

import pytest
import torch
from agents import small_agent, synthetic_batch, updated
from plain_update import PlainRainbow

from mlr_atari.run.seeding import Streams


@pytest.mark.parametrize(
    "name, changes",
    [
        ("mlr", {"decoder_width": 8}),
        ("mlr", {"mask_per": "sequence", "mlr_weight": 3.0, "target_ema_tau": 0.5}),
        ("mlr_official", {"decoder_actions": False, "target_update_interval": 2}),
        ("rainbow", {"noisy_sigma": None, "max_gradient_norm": 0.05}),
    ],
)
def test_plain_updates_have_our_losses(name: str, changes: dict[str, object]) -> None:
    agent = small_agent(name, seed=3, **changes)
    plain, streams = PlainRainbow(agent), Streams(4)
    for step in range(5):
        batch, noise = synthetic_batch(step), agent.draw_noise(streams)
        due = agent.due(2000 + step)
        mine, priorities = updated(agent, batch, noise)
        theirs, plain_priorities = plain.update(batch, noise, **due)
        torch.testing.assert_close(plain_priorities, priorities, rtol=2e-4, atol=1e-6)
        assert ("loss/mlr" in theirs) == (agent.objective is not None)
        for key, loss in theirs.items():
            torch.testing.assert_close(loss, mine[key], rtol=2e-4, atol=1e-6)
    for ours, copied in zip(
        agent.target_network.parameters(), plain.target.parameters(), strict=True
    ):
        torch.testing.assert_close(copied, ours, rtol=1e-3, atol=1e-4)
