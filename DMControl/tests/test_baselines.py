"""CURL, DrQ and plain SAC by brute force, and what an update of each method costs."""

from __future__ import annotations

import pytest
import torch
from small_agents import TINY, make_batch, objective_of, tiny
from torch import nn

from mlr_dmcontrol.augmentation import AugmentationNoise, center_crop, to_float
from mlr_dmcontrol.networks import Encoder, initialise_orthogonal
from mlr_dmcontrol.objectives.curl import info_nce, similarities
from mlr_dmcontrol.optimization import Optimizer, ParameterGroup
from mlr_dmcontrol.run.seeding import Streams

# --- CURL -----------------------------------------------------------------------------------------


def test_info_nce() -> None:
    anchor = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    key = torch.tensor([[1.0, 0], [1, 1], [0, 2]])
    weight = torch.tensor([[2.0, 1], [0, 1]])
    logits = torch.tensor([[2.0, 3, 2], [0, 1, 2], [2, 4, 4]])
    expected = logits - torch.tensor([[3.0], [2], [4]])
    assert torch.equal(similarities(anchor, key, weight), expected)
    assert info_nce(anchor, key, weight).item() == pytest.approx(1.239225, abs=1e-6)
    # What it is not: the map transposed, a softmax over the anchors, a temperature of 0.1.
    columns = nn.functional.cross_entropy(logits.T, torch.arange(3))
    assert info_nce(anchor, key, weight.T).item() == pytest.approx(1.342741, abs=1e-6)
    assert columns.item() == pytest.approx(1.449060, abs=1e-6)
    assert info_nce(anchor, key, 0.1 * weight).item() == pytest.approx(1.090433, abs=1e-6)


def test_curl_contrasts_the_critics_view_with_another_by_the_target() -> None:
    agent = tiny("curl", batch_size=50)
    batch, noise = make_batch(agent, size=32), agent.draw_noise(Streams(0))
    drawn = noise.objective
    assert torch.equal(drawn.anchor.offsets, noise.obs.offsets[0])
    assert not torch.equal(drawn.key.offsets, drawn.anchor.offsets)
    with torch.no_grad():
        agent.networks.encoder.head.linear.weight.mul_(2)  # now the target's is another
    obs = batch.obs
    images = [
        torch.stack(
            [to_float(obs.dense()[i, None, :, r : r + 28, c : c + 28])[0] for i, (r, c) in picks]
        )
        for picks in (enumerate(each.offsets.tolist()) for each in (drawn.anchor, drawn.key))
    ]
    anchor = agent.networks.encoder(images[0])
    key = agent.networks.encoder_target.target(images[1])
    objective = objective_of(agent)
    expected = info_nce(anchor, key, objective.bilinear)
    loss, _ = objective.loss(agent.networks.encoder, batch, drawn)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("name", ["curl", "curl_published"])
def test_when_curl_is_stepped(name: str) -> None:
    """The published code contrasts after the momentum targets moved, so with newer keys."""
    whole, parts = tiny(name, encoder_tau=0.5), tiny(name, encoder_tau=0.5)
    batch, noise = make_batch(whole, size=32), whole.draw_noise(Streams(0))
    metrics = whole.update(batch, noise, actor_step=True, target_step=True)
    parts.update_critic(batch, noise)
    if name == "curl":
        by_hand = parts.update_objective(batch, noise)
        parts.update_actor(batch, noise)
        parts.update_targets()
    else:
        parts.update_actor(batch, noise)
        parts.update_targets()
        by_hand = parts.update_objective(batch, noise)
    assert metrics["loss/curl"] == by_hand["loss/curl"]
    mine, theirs = (each.networks.state_dict() for each in (whole, parts))
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


# --- gradients, two optimisers, momentum ----------------------------------------------------------


def test_two_adams_on_one_gradient_are_one_at_the_sum_of_their_rates() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(30, generator=generator)
    twice, once = (nn.Parameter(start.clone()) for _ in range(2))
    adams = [torch.optim.Adam([twice], lr=rate) for rate in (1e-3, 5e-4)]
    one = Optimizer([ParameterGroup([once], scale=1.5)], 1e-3)
    for _ in range(200):
        gradient = torch.randn(30, generator=generator)
        twice.grad = gradient.clone()
        for adam in adams:
            adam.step()
        one.minimise((once * gradient).sum())
    assert (twice - once).abs().max() < 1e-5


# --- DrQ and plain SAC ----------------------------------------------------------------------------


def test_drq_with_one_draw_and_no_shift_is_sac() -> None:
    size = TINY["crop_size"]
    drq = tiny("drq", num_target_augmentations=1, num_q_augmentations=1)
    sac = tiny("sac", size=size)
    batch, noise = make_batch(drq, size=size), sac.draw_noise(Streams(0))
    unmoved = AugmentationNoise(offsets=torch.full((1, 6, 2), drq.settings.shift_pad))
    shifted = type(noise)(unmoved, unmoved, noise.next_action, noise.action, None)
    mine, theirs = drq.update_critic(batch, shifted), sac.update_critic(batch, noise)
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    weights = [each.networks.state_dict() for each in (drq, sac)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_what_drq_draws() -> None:
    agent = tiny("drq", batch_size=200)
    assert agent.augmentation.image_size == agent.settings.crop_size
    noise = agent.draw_noise(Streams(0))
    for each in (noise.obs, noise.next_obs):
        assert each.offsets.shape == (2, 200, 2)
        assert (each.offsets.min(), each.offsets.max()) == (0, 8)
        assert not torch.equal(each.offsets[0], each.offsets[1])
        assert each.intensity is None
    assert noise.next_action.shape == (2, 200, 3)
    assert not torch.equal(noise.next_action[0], noise.next_action[1])


def test_plain_sac_sees_the_centre_only() -> None:
    agent = tiny("sac_plain")
    noise, batch = agent.draw_noise(Streams(0)), make_batch(agent, size=32)
    assert noise.obs.offsets is None
    images = agent.augmentation(batch.obs, noise.obs.select(0))
    assert torch.equal(images, to_float(center_crop(batch.obs.dense(), 28)))


def test_orthogonal_convolutions() -> None:
    torch.manual_seed(0)
    encoder = Encoder(9, 28, 8, (2, 1), 10)
    initialise_orthogonal(encoder, "orthogonal")
    for layer in encoder.convolutions:
        if isinstance(layer, nn.Conv2d):
            kernel = layer.weight.flatten(1)
            torch.testing.assert_close(kernel @ kernel.T, 2 * torch.eye(8), atol=1e-5, rtol=0)
            assert layer.weight[:, :, 0, 0].abs().max() > 0.01
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
