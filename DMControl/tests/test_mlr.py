"""The MLR objective: masks in time, gradients in pieces, initialisation, schedule, diagnostics."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_agents import diagnostics, make_agent, make_batch, preview, rates, updates

from mlr_dmcontrol.objectives.heads import distance, effective_rank
from mlr_dmcontrol.objectives.mlr import MLR, warmup_inverse_sqrt
from mlr_dmcontrol.run.seeding import Streams
from mlr_dmcontrol.sac import SAC


def _mlr(agent: SAC) -> MLR:
    assert isinstance(agent.objective, MLR)
    return agent.objective


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
    objective, batch = _mlr(agent), make_batch(agent)
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


def test_online_and_target_have_draws_of_their_own() -> None:
    agent = make_agent("mlr")
    noise = agent.draw_noise(Streams(0)).objective
    assert noise.online.offsets.shape == (4, 3, 2)
    assert len(noise.online.offsets.flatten(0, 1).unique(dim=0)) > 1
    assert not torch.equal(noise.online.offsets, noise.target.offsets)
    assert not torch.equal(noise.online.intensity, noise.target.intensity)


@pytest.mark.parametrize("per", ["batch", "sequence"])
def test_gradients_in_pieces_are_those_of_the_whole(per: str) -> None:
    whole = make_agent("mlr", mask_per=per, sequence_batch_size=5, sequences_at_once=5)
    pieces = make_agent("mlr", mask_per=per, sequence_batch_size=5, sequences_at_once=2)
    batch, noise = make_batch(whole), whole.draw_noise(Streams(0))
    assert len(list(_mlr(pieces).pieces(batch, noise.objective))) == 3
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


def test_clip_is_joint_over_all_it_trains() -> None:
    agent = make_agent("mlr", max_gradient_norm=1e-3)
    batch, noise = make_batch(agent), agent.draw_noise(Streams(0))
    loss, _ = _mlr(agent).loss(agent.networks.encoder, batch, noise.objective)
    (group,) = _mlr(agent).parameter_groups(agent.networks.encoder)
    gradients = torch.autograd.grad(loss, group.parameters)
    total = torch.stack([g.norm() for g in gradients]).norm()
    metrics = agent.update_objective(batch, noise)
    torch.testing.assert_close(metrics["gradient_norm/objective"], total)
    moments = agent.objective_optimizer.state_dict()["moments"]
    for gradient, moment in zip(gradients, moments, strict=True):
        expected = 0.1 * gradient * 1e-3 / (total + 1e-6)
        torch.testing.assert_close(moment["exp_avg"], expected, rtol=1e-3, atol=1e-10)


def test_initialisation_paper_and_published() -> None:
    paper, published = make_agent("mlr", seed=4), make_agent("mlr_official", seed=4)
    for agent in (paper, published):
        objective = _mlr(agent)
        for name, parameter in objective.named_parameters():
            if name.startswith(("target_", "decoder.positions")) or "norm" in name:
                continue
            if name.endswith("weight"):
                assert parameter.abs().max() <= 0.02, name
                assert parameter.std().item() == pytest.approx(0.0108, rel=0.1), name
            else:
                assert parameter.abs().max() == 0, name
    encoder, target = paper.networks.encoder, _mlr(paper).target_encoder.target
    assert all(
        torch.equal(a, b)
        for a, b in zip(encoder.state_dict().values(), target.state_dict().values(), strict=True)
    )
    assert torch.equal(
        _mlr(paper).projection[0].weight, _mlr(paper).target_projection.target[0].weight
    )

    encoder, target = published.networks.encoder, _mlr(published).target_encoder.target
    critic_target = published.networks.encoder_target.target
    for other in (target, critic_target):
        assert torch.equal(encoder.convolutions[0].weight, other.convolutions[0].weight)
        assert not torch.equal(encoder.head.linear.weight, other.head.linear.weight)
    assert encoder.head.linear.weight.abs().max() <= 0.02
    assert target.head.linear.weight.abs().max() <= 0.02
    torch.testing.assert_close(
        critic_target.head.linear.weight, paper.networks.encoder.head.linear.weight
    )
    online, momentum = _mlr(published).projection[0], _mlr(published).target_projection.target[0]
    assert not torch.equal(online.weight, momentum.weight)


def test_schedule() -> None:
    assert warmup_inverse_sqrt(0, 10, 0.1) == pytest.approx(0.1)
    assert warmup_inverse_sqrt(5, 10, 0.1) == pytest.approx(0.55)
    assert warmup_inverse_sqrt(10, 10, 0.1) == 1.0
    assert warmup_inverse_sqrt(40, 10, 0.1) == pytest.approx(0.5)
    assert warmup_inverse_sqrt(1000, 0, 0.1) == 1.0
    agent = make_agent("mlr", warmup_updates=2, warmup_start=0.5, critic_learning_rate=0.1)
    seen = []
    for step in range(4):
        updates(agent, 1, first=step)
        seen += rates(agent.objective_optimizer)
    assert seen == pytest.approx([0.025, 0.0375, 0.05, 0.05 * (2 / 3) ** 0.5])
    assert rates(agent.critic_optimizer) == pytest.approx([0.1])


@pytest.mark.parametrize("step", [0, 1, 5999, 6000, 6001])
def test_the_schedule_goes_on_after_a_resume(step: int) -> None:
    agent = make_agent("mlr", warmup_updates=6000, warmup_start=1e-7)
    resumed = make_agent("mlr", seed=1, warmup_updates=6000, warmup_start=1e-7)
    agent.update_step = step
    resumed.load_state_dict(agent.state_dict())
    for each in (agent, resumed):
        each.set_schedules(step)
    first, again = (rates(each.objective_optimizer) for each in (agent, resumed))
    assert first == again
    base = agent.settings.critic_learning_rate * _mlr(agent).settings.objective_learning_rate_scale
    assert first == pytest.approx([base * warmup_inverse_sqrt(step, 6000, 1e-7)])


def test_the_weight_scales_the_loss_only() -> None:
    one, two = make_agent("mlr"), make_agent("mlr", mlr_weight=2.5)
    batch, noise = make_batch(one), one.draw_noise(Streams(0))
    mine, theirs = one.update_objective(batch, noise), two.update_objective(batch, noise)
    torch.testing.assert_close(mine["loss/mlr"], theirs["loss/mlr"])
    torch.testing.assert_close(
        mine["gradient_norm/objective"] * 2.5, theirs["gradient_norm/objective"]
    )


def test_actions_matter_and_can_be_left_out() -> None:
    for uses, expected in ((True, False), (False, True)):
        agent = make_agent("mlr", decoder_actions=uses)
        with torch.no_grad():
            for parameter in _mlr(agent).decoder.parameters():
                parameter.mul_(20)
        batch, noise = make_batch(agent), agent.draw_noise(Streams(0))
        other = dataclasses.replace(
            batch, sequence=dataclasses.replace(batch.sequence, action=-batch.sequence.action)
        )
        losses = [
            _mlr(agent).loss(agent.networks.encoder, each, noise.objective)[0]
            for each in (batch, other)
        ]
        assert torch.equal(*losses) == expected


def test_diagnostics() -> None:
    agent = make_agent("mlr")
    values = diagnostics(agent, make_batch(agent), agent.draw_noise(Streams(0)))
    assert values["mlr/masked_fraction"] == pytest.approx(0.5)
    assert -1 <= values["mlr/cosine_similarity"] <= 1
    assert 1 <= values["mlr/effective_rank"] <= 12
    assert 0 < values["mlr/projection_std"] <= 1.05


def test_effective_rank_counts_directions() -> None:
    directions = torch.eye(6)[:3]
    assert effective_rank(torch.cat([directions, -directions])).item() == pytest.approx(3.0)
    line = torch.outer(torch.linspace(-1, 1, 9), torch.ones(6))
    assert effective_rank(line).item() == pytest.approx(1.0, abs=1e-3)
    assert effective_rank(torch.ones(9, 6)).item() == pytest.approx(1.0)


def test_preview_shows_original_masked_and_target() -> None:
    agent = make_agent("mlr", mask_ratio=1.0)
    batch, noise = make_batch(agent), agent.draw_noise(Streams(0))
    picture = preview(agent, batch, noise)
    assert picture.shape == (3, 3 * 84, 4 * 84)
    assert picture.dtype == torch.uint8
    newest = batch.sequence.obs.dense()[0, 0, -3:, 8:92, 8:92]
    assert torch.equal(picture[:, :84, :84], newest)
    assert picture[:, 84:168].max() == 0
    assert picture[:, 168:].float().std() > 10
