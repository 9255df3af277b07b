"""From YAML to agent: published sizes, and weights that the seed alone decides."""

import pytest
import torch
from small_agents import agent_cfg, make_agent, rates

from mlr_dmcontrol.build import build_agent
from mlr_dmcontrol.objectives.mlr import MLR
from mlr_dmcontrol.run.seeding import Streams


def test_defaults_are_the_published_network() -> None:
    cfg = agent_cfg("mlr_official")
    agent = build_agent(cfg, obs_shape=(9, 100, 100), action_dim=6, device="cpu", seed=0)
    networks, objective = agent.networks, agent.objective
    assert networks.encoder.head.linear.weight.shape == (50, 64 * 35 * 35)
    assert networks.critic.first[0].weight.shape == (1024, 56)
    assert networks.critic.second[4].weight.shape == (1, 1024)
    assert networks.actor.trunk[4].weight.shape == (12, 1024)
    assert networks.log_temperature.exp().item() == pytest.approx(0.1)
    assert (networks.critic_target.tau, networks.encoder_target.tau) == (0.01, 0.05)
    assert agent.target_entropy == -6
    assert isinstance(objective, MLR)
    assert len(objective.decoder.blocks) == 2
    assert objective.decoder.blocks[0].attention.num_heads == 1
    assert objective.decoder.blocks[0].mlp[0].weight.shape == (100, 50)
    assert objective.projection[0].weight.shape == objective.predictor[0].weight.shape == (100, 50)
    assert objective.target_encoder.tau == objective.target_projection.tau == 0.05
    assert rates(agent.objective_optimizer) == pytest.approx([5e-4, 5e-4])


def test_the_seed_decides_all_weights_and_nothing_else_does() -> None:
    first = make_agent("mlr", seed=3).state_dict()
    state = torch.manual_seed(1).get_state()
    second, other = (make_agent("mlr", seed=seed).state_dict() for seed in (3, 4))
    assert torch.equal(state, torch.get_rng_state())
    for part in ("networks", "objective"):
        mine, theirs = first[part], second[part]
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        name = next(name for name in mine if name.endswith("weight"))
        assert not torch.equal(mine[name], other[part][name])


@pytest.mark.parametrize(("name", "last"), [("mlr", 16), ("mlr_official", 15)])
def test_offsets_of_sac_and_objective(name: str, last: int) -> None:
    """The published SAC batch never draws the last offset; its MLR batch does."""
    noise = make_agent(name, batch_size=2000, sequence_batch_size=500).draw_noise(Streams(0))
    assert noise.obs.offsets.max() == noise.next_obs.offsets.max() == last
    assert noise.objective.online.offsets.max() == noise.objective.target.offsets.max() == 16
