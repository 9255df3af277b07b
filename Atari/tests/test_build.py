"""From a config to an agent."""

from typing import Any

import pytest
import torch
from agents import agent_settings, small_agent

from mlr_atari.objectives.mlr import MLR


def test_weights_depend_on_the_seed_alone() -> None:
    state = torch.manual_seed(0).get_state()
    first, other = (small_agent(seed=seed).network.state_dict() for seed in (1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    again = small_agent(seed=1).network.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.convs.0.weight"], other["encoder.convs.0.weight"])


def test_published_number_of_weights() -> None:
    """161.27 M in the published model less 168 k of unused dynamics and a bias."""
    sizes = {"num_filters": [32, 64, 64], "hidden_dim": 256}
    settings: dict[str, Any] = agent_settings("mlr", **sizes)
    network = small_agent("rainbow", **sizes).network
    head_and_encoder = sum(each.numel() for each in network.parameters())
    width, actions = 3136, 4
    block = 8 * width**2 + 4 * width + width + 2 * width + width
    decoder = settings["decoder_depth"] * block + (actions + 1) * width
    predictor = 512 * 512 + 512
    assert (head_and_encoder + decoder + predictor) / 1e6 == pytest.approx(161.10, abs=0.005)


def test_targets_start_equal() -> None:
    agent = small_agent()
    assert isinstance(agent.objective, MLR)
    online = agent.network.state_dict()
    for name, value in agent.target_network.state_dict().items():
        assert torch.equal(value, online[name])
    for name, value in agent.objective.target_encoder.target.state_dict().items():
        assert torch.equal(value, online[f"encoder.{name}"])
