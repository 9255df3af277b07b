"""What the ablations change in MLR, each against its meaning written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_agents import diagnostics, make_batch, tiny, updates
from torch import Tensor

from mlr_dmcontrol.batch import Batch
from mlr_dmcontrol.momentum import OnlineTarget
from mlr_dmcontrol.objectives.heads import distance
from mlr_dmcontrol.objectives.mlr import MLR
from mlr_dmcontrol.objectives.pixels import pixel_errors
from mlr_dmcontrol.run.seeding import Streams
from mlr_dmcontrol.sac import SAC

OPTIONS: list[dict[str, Any]] = [
    {"mask_level": "latent"},
    {"mask_level": "latent", "mask_per": "sequence", "loss_positions": "masked"},
    {"reconstruction": "pixel"},
    {"reconstruction": "pixel", "loss_positions": "masked", "mask_per": "sequence"},
    {"mask_mode": "temporal", "loss_positions": "masked"},
    {"mask_mode": "spatial"},
    {"target_ema_tau": None},
    {"projection_dim": None},
    {"target_ema_tau": None, "projection_dim": None},
    {"decoder_actions": False},
    {"decoder_width": 10, "decoder_depth": 1},
    {"augmentation": ["center_crop"], "objective_augmentation": ["center_crop"]},
    {"sequence_length": 6, "cube_depth": 4},
]


def mlr(agent: SAC) -> MLR:
    assert isinstance(agent.objective, MLR)
    return agent.objective


def given(agent: SAC) -> tuple[Batch, Any]:
    return make_batch(agent, size=32), agent.draw_noise(Streams(0)).objective


def loss_of(agent: SAC, batch: Batch, noise: Any) -> Tensor:
    return mlr(agent).loss(agent.networks.encoder, batch, noise)[0]


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_each_option_trains_all_it_owns(changes: dict[str, Any]) -> None:
    agent = tiny("mlr", **changes)
    batch, noise = given(agent)
    loss_of(agent, batch, noise).backward()
    for name, each in mlr(agent).named_parameters():
        assert (each.grad is None) == name.startswith("target_"), name
        assert name.startswith("target_") or each.grad.abs().sum() > 0, name
    assert all(each.grad.abs().sum() > 0 for each in agent.networks.encoder.parameters())
    agent = tiny("mlr", **changes)
    for values in updates(agent, 2):
        assert all(value.isfinite() for value in values.values())
    found = diagnostics(agent, make_batch(agent, size=32), agent.draw_noise(Streams(0)))
    assert set(found) == set(mlr(agent).diagnostic_names)
    other = tiny("mlr", seed=7, **changes)
    other.load_state_dict(agent.state_dict())
    mine, theirs = updates(agent, 1, first=2)[0], updates(other, 1, first=2)[0]
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("per", ["batch", "sequence"])
def test_hidden_latents_are_replaced_by_the_token(per: str) -> None:
    agent = tiny("mlr", mask_level="latent", mask_per=per, mask_ratio=0.5)
    objective, (batch, noise) = mlr(agent), given(agent)
    sequence, encoder = batch.sequence, agent.networks.encoder
    with torch.no_grad():
        objective.token.fill_(0.3)
    hidden = objective.hidden_steps(noise.grid).expand(4, 3)
    assert (hidden.sum(dim=0) == 2).all()  # half of the four steps, in every sequence
    latents = encoder(objective.augmentation(sequence.obs, noise.online)).unflatten(0, (4, 3))
    latents = latents.clone()
    for k in range(4):
        for b in range(3):
            if hidden[k, b]:
                latents[k, b] = 0.3
    expected = objective.decoder(latents.transpose(0, 1), sequence.action.transpose(0, 1))
    found = objective.decoded(encoder, sequence, noise)
    torch.testing.assert_close(found, expected.transpose(0, 1))


def test_nothing_of_a_hidden_step_gets_through() -> None:
    agent = tiny("mlr", mask_level="latent")
    batch, noise = given(agent)
    objective, encoder = mlr(agent), agent.networks.encoder
    hidden = objective.hidden_steps(noise.grid).flatten()
    before = objective.decoded(encoder, batch.sequence, noise)
    batch.sequence.obs.index[hidden] = batch.sequence.obs.index[hidden].flip(1)
    after = objective.decoded(encoder, batch.sequence, noise)
    assert torch.equal(before, after)
    batch.sequence.obs.index[~hidden] = batch.sequence.obs.index[~hidden].flip(1)
    assert not torch.equal(after, objective.decoded(encoder, batch.sequence, noise))


@pytest.mark.parametrize("per", ["batch", "sequence"])
def test_only_masked_steps_count(per: str) -> None:
    agent = tiny("mlr", mask_mode="temporal", loss_positions="masked", mask_per=per)
    objective, (batch, noise) = mlr(agent), given(agent)
    target = objective.target_projection(objective.target_latents(batch.sequence, noise))
    decoded = objective.decoded(agent.networks.encoder, batch.sequence, noise)
    errors = distance(objective.predictor(objective.projection(decoded)), target)
    hidden = objective.hidden_steps(noise.grid).expand(4, 3)
    assert hidden.sum() == 6
    torch.testing.assert_close(loss_of(agent, batch, noise), errors[hidden].mean())


def test_cubes_leave_no_step_whole() -> None:
    every, masked = tiny("mlr"), tiny("mlr", loss_positions="masked")
    batch, noise = given(every)
    torch.testing.assert_close(loss_of(every, batch, noise), loss_of(masked, batch, noise))


def test_a_loss_without_masks_is_zero() -> None:
    agent = tiny("mlr", loss_positions="masked", mask_ratio=0.0)
    assert loss_of(agent, *given(agent)).item() == 0


def test_without_momentum_targets_are_the_online_networks() -> None:
    agent = tiny("mlr", target_ema_tau=None)
    objective, (batch, noise) = mlr(agent), given(agent)
    assert not any("target_" in name for name in objective.state_dict())
    assert objective.target_encoder.target is agent.networks.encoder
    updates(agent, 2)
    images = objective.augmentation(batch.sequence.obs, noise.target)
    with torch.no_grad():
        expected = agent.networks.encoder(images).unflatten(0, (4, 3))
    found = objective.target_latents(batch.sequence, noise)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert not objective.target_projection(found).requires_grad


def test_without_projection_latents_are_compared() -> None:
    agent = tiny("mlr", projection_dim=None)
    objective, (batch, noise) = mlr(agent), given(agent)
    assert isinstance(objective.target_projection, OnlineTarget)
    decoded = objective.decoded(agent.networks.encoder, batch.sequence, noise)
    target = objective.target_latents(batch.sequence, noise)
    torch.testing.assert_close(loss_of(agent, batch, noise), distance(decoded, target).mean())


@pytest.mark.parametrize("positions", ["all", "masked"])
def test_pixels_are_those_of_the_online_view(positions: str) -> None:
    agent = tiny("mlr", reconstruction="pixel", loss_positions=positions)
    objective, (batch, noise) = mlr(agent), given(agent)
    obs = batch.sequence.obs
    decoded = objective.decoded(agent.networks.encoder, batch.sequence, noise).flatten(0, 1)
    images = objective.pixel_decoder(decoded)
    assert images.shape == (12, 9, 28, 28)
    whole = objective.augmentation(obs, noise.online)
    masked = objective.masked_images(obs, noise)
    errors = (images - whole).square()
    if positions == "masked":
        # Of random frames, only what is hidden is black in all channels.
        hidden = (masked == 0).all(dim=1, keepdim=True).expand_as(errors)
        expected = torch.stack([e[h].mean() for e, h in zip(errors, hidden, strict=True)]).mean()
    else:
        expected = errors.mean()
    torch.testing.assert_close(loss_of(agent, batch, noise), expected)


def test_pixel_errors() -> None:
    images = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # (1, 2, 1, 2)
    target, hidden = torch.zeros(1, 2, 1, 2), torch.tensor([[[[False, True]]]])
    assert pixel_errors(images, target).tolist() == [7.5]
    assert pixel_errors(images, target, hidden).tolist() == [10.0]
    assert pixel_errors(images, target, torch.zeros_like(hidden)).tolist() == [0.0]
