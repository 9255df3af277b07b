"""The MLR objective: masks, pieces, initialisation, schedule; its options, each written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_agents import diagnostics, make_agent, make_batch, preview, tiny, updates
from torch import Tensor

from mlr_dmcontrol.batch import Batch
from mlr_dmcontrol.momentum import OnlineTarget
from mlr_dmcontrol.objectives.heads import distance, effective_rank
from mlr_dmcontrol.objectives.mlr import MLR, warmup_inverse_sqrt
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


def mlr(agent: SAC) -> MLR:
    assert isinstance(agent.objective, MLR)
    return agent.objective


def given(agent: SAC) -> tuple[Batch, Any]:
    return make_batch(agent, size=32), agent.draw_noise(Streams(0)).objective


def loss_of(agent: SAC, batch: Batch, noise: Any) -> Tensor:
    return mlr(agent).loss(agent.encoder, batch, noise)[0]


def test_distance_is_that_of_the_specification() -> None:
    assert distance(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.1])).item() == pytest.approx(2.0)
    # Lengths below 1e-3 are not blown up to 1.
    tiny = distance(torch.tensor([5e-4, 0.0]), torch.tensor([0.0, 0.0]))
    assert tiny.item() == pytest.approx(0.25)
    a, b = torch.randn(4, 7), torch.randn(4, 7)
    expected = 2 - 2 * torch.cosine_similarity(a, b, dim=-1)
    torch.testing.assert_close(distance(a, b), expected)


@pytest.mark.parametrize("per", ["batch", "sequence"])
def test_masked_images(per: str) -> None:
    agent = make_agent("mlr", mask_per=per)
    objective, batch = mlr(agent), make_batch(agent)
    noise, obs = agent.draw_noise(Streams(0)).objective, batch.sequence.obs
    assert noise.grid.shape == ((3, 2, 10, 10) if per == "sequence" else (2, 10, 10))
    images = objective.masked_images(obs, noise).unflatten(0, obs.lead)
    whole = objective.augmentation(obs, noise.online).unflatten(0, obs.lead)
    for t in range(4):
        for b in range(3):
            grid = (noise.grid[b] if per == "sequence" else noise.grid)[t // 2]
            visible = (~grid).repeat_interleave(10, 0).repeat_interleave(10, 1)
            row, column = noise.online.offsets[t, b].tolist()
            seen = visible[row : row + 84, column : column + 84]
            assert torch.equal(images[t, b], whole[t, b] * seen)


@pytest.mark.parametrize("per", ["batch", "sequence"])
def test_gradients_in_pieces_are_those_of_the_whole(per: str) -> None:
    whole = make_agent("mlr", mask_per=per, sequence_batch_size=5)
    pieces = make_agent("mlr", mask_per=per, sequence_batch_size=5, sequences_at_once=2)
    batch, noise = make_batch(whole), whole.draw_noise(Streams(0))
    assert len(list(mlr(pieces).pieces(batch, noise.objective))) == 3
    seen = []
    for agent in (whole, pieces):
        agent.set_schedules(0)
        metrics = agent.update_objective(batch, noise)
        seen.append(torch.stack([metrics["loss/mlr"], metrics["gradient_norm/objective"]]))
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-5, atol=0)
    moments = [agent.objective_optimizer.state_dict()["moments"] for agent in (whole, pieces)]
    for mine, theirs in zip(*moments, strict=True):
        scale = mine["exp_avg"].abs().max().item()
        torch.testing.assert_close(
            mine["exp_avg"], theirs["exp_avg"], rtol=1e-3, atol=1e-4 * scale + 1e-12
        )


def test_all_sequences_at_once_but_on_a_cpu() -> None:
    objective = make_agent("mlr", sequence_batch_size=40).objective
    assert objective.sequences_at_once == 32
    assert objective.to("meta").sequences_at_once == 40


def test_initialisation_paper_and_published() -> None:
    paper, published = make_agent("mlr", seed=4), make_agent("mlr_official", seed=4)
    for agent in (paper, published):
        objective = mlr(agent)
        for name, parameter in objective.named_parameters():
            if name.startswith(("target_", "decoder.positions")) or "norm" in name:
                continue
            if name.endswith("weight"):
                assert parameter.abs().max() <= 0.02, name
                assert parameter.std().item() == pytest.approx(0.0108, rel=0.1), name
            else:
                assert parameter.abs().max() == 0, name
    encoder, target = paper.networks.encoder, mlr(paper).target_encoder.target
    assert all(
        torch.equal(a, b)
        for a, b in zip(encoder.state_dict().values(), target.state_dict().values(), strict=True)
    )
    assert torch.equal(
        mlr(paper).projection[0].weight, mlr(paper).target_projection.target[0].weight
    )

    encoder, target = published.networks.encoder, mlr(published).target_encoder.target
    critic_target = published.networks.encoder_target.target
    for other in (target, critic_target):
        assert torch.equal(encoder.convolutions[0].weight, other.convolutions[0].weight)
        assert not torch.equal(encoder.head.linear.weight, other.head.linear.weight)
    assert encoder.head.linear.weight.abs().max() <= 0.02
    assert target.head.linear.weight.abs().max() <= 0.02
    torch.testing.assert_close(
        critic_target.head.linear.weight, paper.networks.encoder.head.linear.weight
    )
    online, momentum = mlr(published).projection[0], mlr(published).target_projection.target[0]
    assert not torch.equal(online.weight, momentum.weight)


def test_schedule() -> None:
    assert warmup_inverse_sqrt(0, 10, 0.1) == pytest.approx(0.1)
    assert warmup_inverse_sqrt(5, 10, 0.1) == pytest.approx(0.55)
    assert warmup_inverse_sqrt(10, 10, 0.1) == 1.0
    assert warmup_inverse_sqrt(40, 10, 0.1) == pytest.approx(0.5)
    assert warmup_inverse_sqrt(1000, 0, 0.1) == 1.0


def test_the_weight_scales_the_loss_only() -> None:
    one, two = make_agent("mlr"), make_agent("mlr", mlr_weight=2.5)
    batch, noise = make_batch(one), one.draw_noise(Streams(0))
    mine, theirs = one.update_objective(batch, noise), two.update_objective(batch, noise)
    torch.testing.assert_close(mine["loss/mlr"], theirs["loss/mlr"])
    torch.testing.assert_close(
        mine["gradient_norm/objective"] * 2.5, theirs["gradient_norm/objective"]
    )


def test_effective_rank_counts_directions() -> None:
    directions = torch.eye(6)[:3]
    assert effective_rank(torch.cat([directions, -directions])).item() == pytest.approx(3.0)
    line = torch.outer(torch.linspace(-1, 1, 9), torch.ones(6))
    assert effective_rank(line).item() == pytest.approx(1.0, abs=1e-3)
    assert effective_rank(torch.ones(9, 6)).item() == pytest.approx(1.0)


def test_preview_shows_original_masked_and_target() -> None:
    agent = make_agent("mlr", mask_ratio=1.0)
    batch, noise = make_batch(agent), agent.draw_noise(Streams(0))
    assert diagnostics(agent, batch, noise)["mlr/masked_fraction"] == 1
    picture = preview(agent, batch, noise)
    assert picture.shape == (3, 3 * 84, 4 * 84)
    assert picture.dtype == torch.uint8
    newest = batch.sequence.obs.dense()[0, 0, -3:, 8:92, 8:92]
    assert torch.equal(picture[:, :84, :84], newest)
    assert picture[:, 84:168].max() == 0
    assert picture[:, 168:].float().std() > 10


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_each_option_trains_all_it_owns(changes: dict[str, Any]) -> None:
    agent = tiny("mlr", **changes)
    batch, noise = given(agent)
    loss_of(agent, batch, noise).backward()
    for name, each in mlr(agent).named_parameters():
        assert (each.grad is None) == name.startswith("target_"), name
        assert name.startswith("target_") or each.grad.abs().sum() > 0, name
    assert all(each.grad.abs().sum() > 0 for each in agent.encoder.parameters())
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
    sequence, encoder = batch.sequence, agent.encoder
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


@pytest.mark.parametrize("per", ["batch", "sequence"])
def test_only_masked_steps_count(per: str) -> None:
    agent = tiny("mlr", mask_mode="temporal", loss_positions="masked", mask_per=per)
    objective, (batch, noise) = mlr(agent), given(agent)
    target = objective.target_projection(objective.target_latents(batch.sequence, noise))
    decoded = objective.decoded(agent.encoder, batch.sequence, noise)
    errors = distance(objective.predictor(objective.projection(decoded)), target)
    hidden = objective.hidden_steps(noise.grid).expand(4, 3)
    assert hidden.sum() == 6
    torch.testing.assert_close(loss_of(agent, batch, noise), errors[hidden].mean())


def test_without_momentum_targets_are_the_online_networks() -> None:
    agent = tiny("mlr", target_ema_tau=None)
    objective, (batch, noise) = mlr(agent), given(agent)
    assert not any("target_" in name for name in objective.state_dict())
    assert objective.target_encoder.target is agent.encoder
    updates(agent, 2)
    images = objective.augmentation(batch.sequence.obs, noise.target)
    with torch.no_grad():
        expected = agent.encoder(images).unflatten(0, (4, 3))
    found = objective.target_latents(batch.sequence, noise)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert not objective.target_projection(found).requires_grad


def test_without_projection_latents_are_compared() -> None:
    agent = tiny("mlr", projection_heads=False)
    objective, (batch, noise) = mlr(agent), given(agent)
    assert isinstance(objective.target_projection, OnlineTarget)
    decoded = objective.decoded(agent.encoder, batch.sequence, noise)
    target = objective.target_latents(batch.sequence, noise)
    torch.testing.assert_close(loss_of(agent, batch, noise), distance(decoded, target).mean())


@pytest.mark.parametrize("positions", ["all", "masked"])
def test_pixels_are_those_of_the_online_view(positions: str) -> None:
    agent = tiny("mlr", reconstruction="pixel", loss_positions=positions)
    objective, (batch, noise) = mlr(agent), given(agent)
    obs = batch.sequence.obs
    decoded = objective.decoded(agent.encoder, batch.sequence, noise).flatten(0, 1)
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
