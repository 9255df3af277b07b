"""Our update computes what the plain one does, given the same draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_update import PlainReplay, PlainSAC
from small_agents import make_agent, updated

from mlr_dmcontrol.replay import UniformReplay
from mlr_dmcontrol.run.seeding import Streams
from mlr_dmcontrol.sac import SAC


def _replay(agent: SAC, size: int = 100) -> UniformReplay:
    length = agent.objective.sequence_length if agent.objective else None
    shape = (3, size, size)
    replay = UniformReplay(
        80, frame_shape=shape, action_dim=3, frame_stack=3, sequence_length=length, device="cpu"
    )
    draws = np.random.default_rng(0)
    for step in range(60):
        if step % 30 == 0:
            replay.start_episode(draws.integers(0, 256, shape, np.uint8))
        frame = draws.integers(0, 256, shape, np.uint8)
        action = draws.uniform(-1, 1, 3).astype(np.float32)
        replay.add(action, float(draws.random()), frame, False, step % 30 == 29)
    return replay


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
    replay, plain, streams = _replay(agent), PlainSAC(agent), Streams(4)
    stored = PlainReplay(replay)
    count = agent.objective.sequence_batch_size if agent.objective else 0
    for step in range(5):
        slots = replay.draw(streams["replay"], agent.settings.batch_size, count)
        noise, due = agent.draw_noise(streams), agent.due(step)
        mine = updated(agent, replay.gather(*slots), noise, step)
        theirs = plain.update(stored, *slots, noise, **due)
        assert "loss/critic" in theirs
        assert ("loss/actor" in theirs) == due["actor_step"]
        for key, loss in theirs.items():
            torch.testing.assert_close(loss, mine[key], rtol=2e-4, atol=1e-6)
    for ours, copied in zip(
        agent.networks.actor.trunk.parameters(),
        plain.networks.actor.trunk.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(copied, ours, rtol=1e-3, atol=1e-4)
