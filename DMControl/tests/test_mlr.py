"""The MLR objective: initialisation, weight; its options, each written out."""

from typing import Any

import pytest
import torch
from small_agents import diagnostics, make_agent, make_batch, tiny, updates
from torch import Tensor

from mlr_dmcontrol.batch import Batch
from mlr_dmcontrol.objectives.latents import distance
from mlr_dmcontrol.objectives.mlr import MLR
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
    {"projection_heads": False},
    {"target_ema_tau": None, "projection_heads": False},
    {"decoder_actions": False},
    {"decoder_width": 10, "decoder_depth": 1},
    {"augmentation": ["center_crop"], "objective_augmentation": ["center_crop"]},
    {"sequence_length": 6, "cube_depth": 4},
]


def given(**changes: Any) -> tuple[SAC, MLR, Batch, Any]:
    agent = tiny("mlr", **changes)
    assert isinstance(agent.objective, MLR)
    noise = agent.draw_noise(Streams(0)).objective
    return agent, agent.objective, make_batch(agent, size=32), noise


def test_initialisation_paper_and_published() -> None:
    paper, published = make_agent("mlr", seed=4), make_agent("mlr_official", seed=4)
    for agent in (paper, published):
        for name, parameter in agent.objective.named_parameters():
            if name.startswith("target_") or "norm" in name:
                continue
            if name.endswith("weight"):
                assert parameter.abs().max() <= 0.02, name
                assert parameter.std().item() == pytest.approx(0.0108, rel=0.1), name
            else:
                assert parameter.abs().max() == 0, name

    def weights(agent: SAC) -> dict[str, Tensor]:
        objective, networks = agent.objective, agent.networks
        encoders = {
            "online": networks.encoder,
            "momentum": objective.target_encoder.target,
            "critic": networks.encoder_target.target,
        }
        heads = {"q": objective.projection, "q momentum": objective.target_projection.target}
        linear = {key: each.head.linear.weight for key, each in encoders.items()}
        first = {f"{key} first": each.convolutions[0].weight for key, each in encoders.items()}
        return linear | first | {key: each[0].weight for key, each in heads.items()}

    ours, theirs = weights(paper), weights(published)
    assert torch.equal(ours["online"], ours["momentum"])
    assert torch.equal(ours["q"], ours["q momentum"])
    # Published: drawn anew, each on its own, after the critic's target was copied.
    assert torch.equal(theirs["critic"], ours["critic"])
    assert torch.equal(theirs["online first"], theirs["momentum first"])
    for one, other in (("online", "momentum"), ("online", "critic"), ("q", "q momentum")):
        assert not torch.equal(theirs[one], theirs[other])
    assert max(theirs[key].abs().max() for key in ("online", "momentum", "q momentum")) <= 0.02


def test_a_gpu_takes_all_sequences_at_once() -> None:
    objective = tiny("mlr", sequence_batch_size=64).objective
    assert isinstance(objective, MLR)
    assert objective.sequences_at_once == 32
    assert objective.to("meta").sequences_at_once == 64


def test_the_weight_scales_the_loss_only() -> None:
    one, two = make_agent("mlr"), make_agent("mlr", mlr_weight=2.5)
    batch, noise = make_batch(one), one.draw_noise(Streams(0))
    mine, theirs = one.update_objective(batch, noise), two.update_objective(batch, noise)
    torch.testing.assert_close(mine["loss/mlr"], theirs["loss/mlr"])
    norms = [each["gradient_norm/objective"] for each in (mine, theirs)]
    torch.testing.assert_close(norms[0] * 2.5, norms[1])


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_each_option_trains_all_it_owns(changes: dict[str, Any]) -> None:
    agent, objective, batch, noise = given(**changes)
    objective.loss(agent.encoder, batch, noise)[0].backward()
    for name, each in objective.named_parameters():
        assert (each.grad is None) == name.startswith("target_"), name
        assert name.startswith("target_") or each.grad.abs().sum() > 0, name
    assert all(each.grad.abs().sum() > 0 for each in agent.encoder.parameters())
    agent, other = tiny("mlr", **changes), tiny("mlr", seed=7, **changes)
    for values in updates(agent, 2):
        assert all(value.isfinite() for value in values.values())
    signs = diagnostics(agent, batch, agent.draw_noise(Streams(0)))
    assert set(signs) == set(objective.diagnostic_names)
    other.load_state_dict(agent.state_dict())
    mine, theirs = updates(agent, 1, first=2)[0], updates(other, 1, first=2)[0]
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("per", ["batch", "sequence"])
def test_hidden_latents_are_replaced_by_the_token(per: str) -> None:
    changes = {"mask_level": "latent", "mask_per": per, "mask_ratio": 0.5}
    agent, objective, batch, noise = given(**changes)
    sequence = batch.sequence
    with torch.no_grad():
        objective.token.fill_(0.3)
    hidden = objective.masking.steps(noise.grid).expand(4, 3)
    assert (hidden.sum(dim=0) == 2).all()  # half of the four steps, in every sequence
    images = objective.augmentation(sequence.obs, noise.online)
    latents = agent.encoder(images).unflatten(0, (4, 3)).clone()
    for k, b in hidden.nonzero().tolist():
        latents[k, b] = 0.3
    expected = objective.decoder(latents.transpose(0, 1), sequence.action.transpose(0, 1))
    found = objective.decoded(agent.encoder, sequence, noise)
    torch.testing.assert_close(found, expected.transpose(0, 1))


@pytest.mark.parametrize("per", ["batch", "sequence"])
def test_only_masked_steps_count(per: str) -> None:
    changes = {"mask_mode": "temporal", "loss_positions": "masked", "mask_per": per}
    agent, objective, batch, noise = given(**changes)
    errors = objective.errors(agent.encoder, batch.sequence, noise)
    hidden = objective.masking.steps(noise.grid).expand(4, 3)
    assert hidden.sum() == 6
    loss, _ = objective.loss(agent.encoder, batch, noise)
    torch.testing.assert_close(loss, errors[hidden].mean())


def test_without_momentum_and_projection_latents_of_the_online_encoder_are_compared() -> None:
    agent, objective, batch, noise = given(target_ema_tau=None, projection_heads=False)
    assert not any("target_" in name for name in objective.state_dict())
    updates(agent, 2)
    images = objective.augmentation(batch.sequence.obs, noise.target)
    target = agent.encoder(images).unflatten(0, (4, 3))
    found = objective.target_latents(batch.sequence, noise)
    assert torch.equal(found, target)
    assert not found.requires_grad
    decoded = objective.decoded(agent.encoder, batch.sequence, noise)
    loss, _ = objective.loss(agent.encoder, batch, noise)
    torch.testing.assert_close(loss, distance(decoded, target).mean())


@pytest.mark.parametrize("positions", ["all", "masked"])
def test_pixels_are_those_of_the_online_view(positions: str) -> None:
    agent, objective, batch, noise = given(reconstruction="pixel", loss_positions=positions)
    decoded = objective.decoded(agent.encoder, batch.sequence, noise).flatten(0, 1)
    images = objective.pixel_decoder(decoded)
    assert images.shape == (12, 9, 28, 28)
    errors = (images - objective.augmentation(batch.sequence.obs, noise.online)).square()
    expected = errors.mean()
    if positions == "masked":
        # Of random frames, only what is hidden is black in all channels.
        masked = objective.masked_images(batch.sequence, noise)
        hidden = (masked == 0).all(dim=1, keepdim=True).expand_as(errors)
        expected = torch.stack([e[h].mean() for e, h in zip(errors, hidden, strict=True)]).mean()
    torch.testing.assert_close(objective.loss(agent.encoder, batch, noise)[0], expected)
