"""Options of the MLR objective that the paper's ablations switch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from agents import diagnostics, small_agent, synthetic_batch, updated
from torch import nn

from mlr_atari.batch import Batch
from mlr_atari.errors import ConfigError
from mlr_atari.momentum import MomentumTarget
from mlr_atari.networks import Encoder
from mlr_atari.objectives.mlr import MLR, MLRNoise
from mlr_atari.objectives.pixels import PixelDecoder, pixel_errors
from mlr_atari.official import export_official
from mlr_atari.rainbow import Rainbow
from mlr_atari.run.seeding import Streams


def parts(**changes: Any) -> tuple[Rainbow, MLR, Batch, MLRNoise]:
    agent = small_agent("mlr", decoder_width=16, **changes)
    assert isinstance(agent.objective, MLR)
    noise = agent.draw_noise(Streams(1)).objective
    assert isinstance(noise, MLRNoise)
    return agent, agent.objective, synthetic_batch(0), noise


OPTIONS: list[dict[str, Any]] = [
    {"mask_level": "latent", "mask_per": "sequence"},
    {"mask_level": "latent", "loss_positions": "masked"},
    {"reconstruction": "pixel"},
    {"reconstruction": "pixel", "loss_positions": "masked", "mask_per": "sequence"},
    {"mask_mode": "temporal", "loss_positions": "masked", "mask_per": "sequence"},
    {"mask_mode": "spatial"},
    {"target_ema_tau": None},
    {"projection_heads": False},
    {"projection_heads": False, "target_ema_tau": None},
    {"decoder_actions": False, "decoder_depth": 1},
]


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_every_option_learns(changes: dict[str, Any]) -> None:
    agent, objective, batch, noise = parts(**changes)
    for seed in (1, 2):
        metrics, _ = updated(agent, batch, agent.draw_noise(Streams(seed)))
        assert set(metrics) == set(agent.metric_names)
        assert all(value.isfinite() for value in metrics.values())
        assert metrics["gradient_norm/decoder"] > 0
    for parameter in agent.optimizer.parameters:
        parameter.grad = None
    loss, _ = objective.loss(agent.network.encoder, batch, noise)
    loss.backward()
    idle = [key for key, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    assert agent.network.encoder.convs[0].weight.grad is not None
    found = diagnostics(agent, batch, agent.draw_noise(Streams(1)))
    assert set(found) == set(objective.diagnostic_names)
    other = small_agent("mlr", decoder_width=16, seed=9, **changes)
    other.load_state_dict(agent.state_dict())
    assert other.objective is not None
    theirs, _ = other.objective.loss(other.network.encoder, batch, noise)
    assert torch.equal(theirs, loss)


def test_the_token_stands_for_hidden_latents() -> None:
    _, objective, batch, noise = parts(mask_level="latent", mask_per="sequence", mask_ratio=0.5)
    hidden = objective.hidden_steps(noise.grid)
    assert hidden.shape == (4, 3)
    assert hidden.sum(dim=0).tolist() == [2, 2, 2]
    seen = []
    objective.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    objective.token.data.fill_(7.0)
    encoder = small_agent("mlr").network.encoder
    objective.decoded(encoder, batch, noise)
    (latents,) = seen  # (B, K, Z)
    assert torch.equal((latents == 7).all(-1), hidden.t())


def test_loss_of_masked_positions_by_hand() -> None:
    changes = {"mask_mode": "temporal", "mask_per": "sequence"}
    agent, objective, batch, noise = parts(loss_positions="masked", **changes)
    errors = objective.errors(agent.network.encoder, batch, noise)
    hidden, expected = objective.hidden_steps(noise.grid), 0.0
    for sample, weight in enumerate(batch.importance_weights):
        counted = [errors[k, sample] for k in range(4) if hidden[k, sample]]
        assert len(counted) == 2
        expected += weight.item() * sum(each.item() for each in counted) / 2 / 3
    loss, _ = objective.loss(agent.network.encoder, batch, noise)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_without_momentum_targets_are_the_online_network() -> None:
    agent, objective, batch, noise = parts(target_ema_tau=None)
    assert not [each for each in objective.modules() if isinstance(each, MomentumTarget)]
    target = objective.target_latents(batch, noise)
    images = agent.augmentation(batch.obs, noise.target)
    expected = agent.network.encoder(images).flatten(1).view_as(target)
    assert torch.equal(target, expected)
    assert not target.requires_grad


def test_without_heads_latents_are_compared() -> None:
    agent, objective, batch, noise = parts(projection_heads=False)
    encoder = agent.network.encoder
    prediction = objective.predictions(encoder, batch, noise)
    assert torch.equal(prediction, objective.decoded(encoder, batch, noise))
    loss, _ = objective.loss(encoder, batch, noise)
    loss.backward()
    assert all(each.grad is None for each in agent.network.head.parameters())


@pytest.mark.parametrize("size", [84, 44, 61])
@pytest.mark.parametrize(
    ("layout", "channels"), [("nature", (4, 6, 5)), ("data_efficient", (4, 5))]
)
def test_pixel_decoder_gives_images_of_the_size(
    layout: str, channels: tuple[int, ...], size: int
) -> None:
    encoder = Encoder((4, size, size), layout, channels, renormalize=True)
    decoder = PixelDecoder(encoder, size)
    assert decoder(torch.rand(2, encoder.latent_dim)).shape == (2, 4, size, size)
    convs = [each for each in decoder.modules() if isinstance(each, nn.ConvTranspose2d)]
    assert [each.out_channels for each in convs] == [*channels[-2::-1], 4]


def test_pixel_errors_by_hand() -> None:
    images, target = torch.zeros(1, 2, 2, 2), torch.tensor([[[[1.0, 2.0], [3.0, 0.0]]] * 2])
    assert pixel_errors(images, target).item() == pytest.approx(14 / 4)
    hidden = torch.tensor([[[[True, False], [True, False]]]])
    assert pixel_errors(images, target, hidden).item() == pytest.approx(5.0)
    assert pixel_errors(images, target, torch.zeros_like(hidden)).item() == 0.0


def test_hidden_pixels_of_the_reconstruction() -> None:
    changes = {"reconstruction": "pixel", "loss_positions": "masked", "augmentation": []}
    agent, objective, batch, noise = parts(**changes)
    errors = objective.errors(agent.network.encoder, batch, noise)
    latents = objective.decoded(agent.network.encoder, batch, noise)
    assert objective.pixel_decoder is not None
    images = objective.pixel_decoder(latents.flatten(0, 1)).view(4, 3, 4, 84, 84)
    hidden = objective.hidden_pixels(noise.grid)
    for step in range(4):
        wrong = (images[step, 1] - batch.obs.dense()[step, 1] / 255).square()
        expected = wrong[:, hidden[step]].mean()
        assert errors[step, 1].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("changes", [{"projection_heads": False}, {"target_ema_tau": None}])
def test_published_weights_need_the_published_model(changes: dict[str, Any]) -> None:
    agent = small_agent("mlr_official", **changes)
    with pytest.raises(ConfigError, match="projection heads and momentum targets"):
        export_official(agent)
