"""Encoder and head against the published ones (goldens), and their own invariants."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mlr_atari.errors import ConfigError
from mlr_atari.networks import DuelingHead, Encoder, Projection, renormalize
from mlr_atari.official import HEAD_LAYERS, head_normals
from mlr_atari.run.seeding import initialisation

_OURS = dict(
    zip(
        HEAD_LAYERS,
        ("advantage_hidden", "advantage_out", "value_hidden", "value_out"),
        strict=True,
    )
)


def _our_name(name: str) -> str:
    """Golden head parameter to ours; a plain layer's weight is the mean of a noisy one's."""
    layer, _, kind = name.rpartition(".")
    kind = kind if "_" in kind else f"{kind}_mu"
    return f"{_OURS[layer]}.{kind}"


def _head(parameters: dict[str, Tensor], sigma: float | None) -> DuelingHead:
    head = DuelingHead(72, num_actions=4, num_atoms=51, hidden=12, sigma=sigma)
    del parameters["advantage_bias"]
    state = {_our_name(name): value for name, value in parameters.items()}
    head.load_state_dict(state | {"noise": head.noise})
    return head


def test_encoder_matches_published(golden: Callable[[str], Any]) -> None:
    file = golden("atari_h_conv_renorm")
    encoder = Encoder((4, 84, 84), "nature", (32, 64, 64), renormalize=True)
    parameters = file.tensors("param/")
    encoder.load_state_dict(
        {f"convs.{int(name[5]) // 2}.{name[7:]}": value for name, value in parameters.items()}
    )
    images = (file.tensor("obs") / 255).requires_grad_()
    latents = encoder(images)
    file.check("renorm_out", latents)
    (latents * file.tensor("cotangent")).sum().backward()
    file.check("grad_obs", images.grad)
    for index, conv in enumerate(encoder.convs):
        file.check(f"grad/conv.{2 * index}.weight", conv.weight.grad)
        file.check(f"grad/conv.{2 * index}.bias", conv.bias.grad)
    file.check("renorm_out_no_div255", encoder(file.tensor("obs").float()))


def test_constant_features_are_finite() -> None:
    """The published code divides 0 by 0 here."""
    features = torch.zeros(3, 4, 7, 7, requires_grad=True)
    latents = renormalize(features)
    latents.sum().backward()
    assert torch.equal(latents, torch.zeros_like(latents))
    assert features.grad.isfinite().all()


def test_encoder_layouts() -> None:
    nature = Encoder((4, 84, 84), "nature", (32, 64, 64), renormalize=True)
    small = Encoder((4, 84, 84), "data_efficient", (32, 64), renormalize=False)
    assert nature.feature_shape == (64, 7, 7)
    assert small.feature_shape == small(torch.rand(2, 4, 84, 84)).shape[1:] == (64, 3, 3)
    with pytest.raises(ConfigError, match="num_filters=.*2 layers"):
        Encoder((4, 84, 84), "data_efficient", (32, 64, 64), renormalize=False)
    with pytest.raises(ConfigError, match="image_size=24"):
        Encoder((4, 24, 24), "nature", (4, 4, 4), renormalize=False)


def test_noisy_head_matches_published(golden: Callable[[str], Any]) -> None:
    file = golden("atari_i_noisy_dueling_head")
    head = _head(file.tensors("param/"), sigma=0.1)
    draws = [file.tensor(f"noise/lin{i}_raw_{side}") for i in range(4) for side in ("in", "out")]
    head.redraw(torch.cat(draws))
    latents = file.tensor("input").flatten(1).requires_grad_()
    outputs = head(latents, noisy=True)
    file.check("out_noise_on", outputs)
    file.check("out_noise_off", head(latents, noisy=False))
    file.check("ql1/value+advantage", Projection(head)(latents))
    support = torch.linspace(-10, 10, 51)
    file.check("softmax_q_values_limit10", outputs.softmax(-1) @ support)
    (outputs * file.tensor("cotangent")).sum().backward()
    assert latents.grad is not None
    file.check("grad_input", latents.grad.view(5, 8, 3, 3))
    for name in file.names("grad/"):
        if name != "advantage_bias":
            file.check(f"grad/{name}", head.get_parameter(_our_name(name)).grad)


def test_plain_head_matches_published(golden: Callable[[str], Any]) -> None:
    file = golden("atari_i_noisy_dueling_head")
    head = _head(file.tensors("plain_param/"), sigma=None)
    assert head.noise_size == 0
    file.check("plain_out", head(file.tensor("input").flatten(1), noisy=True))


def test_normals_are_found_although_some_are_zero() -> None:
    """The outer product hides the input draws wherever an output draw is zero."""
    draws = torch.randn(40, generator=torch.Generator().manual_seed(0))
    draws[4:8:2] = 0
    parts = (draws.sign() * draws.abs().sqrt()).split([4, 6] * 4)
    buffers = {}
    for i, name in enumerate(HEAD_LAYERS):
        buffers[f"head.{name}.weight_epsilon"] = torch.outer(parts[2 * i + 1], parts[2 * i])
        buffers[f"head.{name}.bias_epsilon"] = parts[2 * i + 1]
    assert torch.allclose(head_normals(buffers), draws, rtol=1e-5, atol=1e-6)


def test_initialisation(golden: Callable[[str], Any]) -> None:
    file = golden("atari_i_noisy_dueling_head")
    with initialisation(0, "test"):
        head = DuelingHead(72, num_actions=4, num_atoms=51, hidden=12, sigma=0.1)
    for index, layer in enumerate(head.layers):
        bound = float(file[f"init/lin{index}_mu_range"][2])
        assert max(layer.weight_mu.abs().max(), layer.bias_mu.abs().max()) <= bound
        assert layer.weight_mu.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert layer.weight_sigma is not None
        assert layer.bias_sigma is not None
        weight_sigma, bias_sigma = file[f"init/lin{index}_sigma_w_b"][:2]
        assert torch.allclose(layer.weight_sigma, torch.tensor(weight_sigma).float())
        assert torch.allclose(layer.bias_sigma, torch.tensor(bias_sigma).float())
