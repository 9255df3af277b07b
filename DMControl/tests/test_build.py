"""From YAML to agent: published sizes, seeds, and keys that reach what they name."""

from __future__ import annotations

import pytest
import torch
from small_agents import agent_cfg, make_agent, rates

from mlr_dmcontrol.build import build_agent
from mlr_dmcontrol.objectives.mlr import MLR
from mlr_dmcontrol.run.seeding import Streams


@pytest.mark.parametrize("name", ["sac", "mlr_official"])
def test_defaults_are_the_published_network(name: str) -> None:
    cfg = agent_cfg(name)
    agent = build_agent(cfg, obs_shape=(9, 100, 100), action_dim=6, device="cpu", seed=0)
    networks, settings = agent.networks, agent.settings
    assert networks.encoder.map_shape == (64, 35, 35)
    assert networks.encoder.head.linear.weight.shape == (50, 64 * 35 * 35)
    assert networks.critic.first[0].weight.shape == (1024, 56)
    assert networks.critic.second[4].weight.shape == (1, 1024)
    assert networks.actor.trunk[4].weight.shape == (12, 1024)
    assert networks.log_temperature.exp().item() == pytest.approx(0.1)
    assert networks.critic_target.tau == 0.01
    assert networks.encoder_target.tau == 0.05
    assert (settings.batch_size, settings.discount, agent.target_entropy) == (512, 0.99, -6)
    assert (settings.actor_update_every, settings.target_update_every) == (2, 2)
    if name == "sac":
        assert agent.objective is None
        return
    objective = agent.objective
    assert isinstance(objective, MLR)
    assert (objective.sequence_length, objective.sequence_batch_size) == (16, 128)
    assert len(objective.decoder.blocks) == 2
    assert objective.decoder.blocks[0].attention.num_heads == 1
    assert objective.decoder.blocks[0].mlp[0].weight.shape == (100, 50)
    assert objective.projection[0].weight.shape == objective.predictor[0].weight.shape == (100, 50)
    assert objective.masking.depth == 4  # cartpole_swingup, the default task
    assert objective.target_encoder.tau == objective.target_projection.tau == 0.05
    assert rates(agent.objective_optimizer) == pytest.approx([5e-4, 5e-4])


def test_the_seed_decides_all_weights_and_nothing_else_does() -> None:
    torch.manual_seed(1)
    first = make_agent("mlr", seed=3).state_dict()
    state = torch.get_rng_state()
    second = make_agent("mlr", seed=3).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    other = make_agent("mlr", seed=4).state_dict()
    for part in ("networks", "objective"):
        mine, theirs = first[part], second[part]
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        name = next(name for name in mine if name.endswith("weight"))
        assert not torch.equal(mine[name], other[part][name])


def test_offsets_of_sac_and_objective() -> None:
    """The published SAC batch never draws the last offset; its MLR batch does."""
    for name, last in (("mlr", 16), ("mlr_official", 15)):
        agent = make_agent(name, batch_size=2000, sequence_batch_size=500)
        noise = agent.draw_noise(Streams(0))
        assert noise.obs.offsets.max() == noise.next_obs.offsets.max() == last
        assert noise.objective.online.offsets.max() == noise.objective.target.offsets.max() == 16
        assert noise.objective.online.intensity is not None
