"""Weights under published names: both ways, and strict about what does not fit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from agents import small_agent
from torch import Tensor

from mlr_atari.errors import ConfigError
from mlr_atari.official import export_official, load_official


def _exported(**changes: Any) -> dict[str, Tensor]:
    tensors = export_official(small_agent(seed=4, **changes))
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def test_round_trip_of_published_weights(golden: Callable[[str], Any]) -> None:
    file = golden("atari_j_small_weights")
    tensors = file.tensors("param/")
    agent = small_agent("mlr_official")
    load_official(agent, tensors | file.tensors("buffer/"))
    exported = export_official(agent)
    assert set(exported) == set(tensors) | set(file.tensors("buffer/"))
    for name, tensor in tensors.items():
        if name != "head.advantage_bias":
            assert torch.equal(exported[name], tensor), name
    for name, tensor in file.tensors("buffer/").items():
        assert torch.allclose(exported[name], tensor, atol=1e-5), name


def test_target_network_of_its_own() -> None:
    agent, online = small_agent(), _exported()
    target = {name: value + 1 for name, value in online.items()}
    load_official(agent, online, target)
    ours = dict(agent.target_network.named_parameters())
    assert torch.equal(ours["encoder.convs.0.weight"], target["conv.conv.0.weight"])
    assert torch.equal(ours["head.value_out.bias_mu"], target["head.value.3.bias_mu"])
    assert torch.equal(agent.network.encoder.convs[0].weight, online["conv.conv.0.weight"])
    load_official(agent, online)
    assert torch.equal(ours["encoder.convs.0.weight"], online["conv.conv.0.weight"])


def test_what_does_not_fit_is_listed_and_nothing_is_copied() -> None:
    tensors = _exported()
    wrong = dict(tensors)
    del wrong["transformer.1.attn.qkv.weight"]
    wrong["conv.conv.9.weight"] = torch.zeros(1)
    wrong["head.value.3.bias_mu"] = torch.zeros(7)
    agent = small_agent(seed=9)
    before = export_official(agent)
    with pytest.raises(ConfigError) as error:
        load_official(agent, wrong)
    for name in ("transformer.1.attn.qkv.weight", "conv.conv.9.weight", "head.value.3.bias_mu"):
        assert name in str(error.value)
    with pytest.raises(ConfigError, match="unknown: conv.conv.9.weight"):
        load_official(agent, tensors, {**tensors, "conv.conv.9.weight": torch.zeros(1)})
    after = export_official(agent)
    assert all(torch.equal(after[name], before[name]) for name in after)


def test_unused_tensors_are_ignored_and_noise_may_be_missing() -> None:
    tensors = _exported()
    unused = ("dynamics_model.network.0.net.0.weight", "backward_dynamics_model.network.2.bias")
    unused += ("global_classifier.encoders.0.weight_mu", "position.pe")
    unused += ("global_target_classifier.encoders.1.weight_epsilon",)
    agent = small_agent()
    kept = agent.network.head.noise.clone()
    without = {name: value for name, value in tensors.items() if "epsilon" not in name}
    load_official(agent, without | dict.fromkeys(unused, torch.zeros(3)))
    assert torch.equal(agent.network.head.noise, kept)
    del tensors["head.value.1.bias_epsilon"]
    with pytest.raises(ConfigError, match=r"missing: head\.value\.1\.bias_epsilon"):
        load_official(agent, tensors)


def test_rainbow_takes_its_share_of_an_mlr_checkpoint() -> None:
    agent = small_agent("rainbow")
    tensors = _exported()
    load_official(agent, tensors)
    exported = export_official(agent)
    assert not [name for name in exported if not name.startswith(("conv.", "head."))]
    assert all(torch.allclose(exported[n], tensors[n], atol=1e-6) for n in exported)


@pytest.mark.parametrize("changes", [{"decoder_width": 8}, {"target_ema_tau": None}], ids=str)
def test_settings_without_published_counterpart(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the published"):
        export_official(small_agent(**changes))
