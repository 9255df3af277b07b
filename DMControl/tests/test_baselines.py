"""CURL, SPR, PlayVirtual and DrQ's convolutions by brute force."""

import pytest
import torch
from small_agents import make_batch, objective_of, tiny
from torch import Tensor, nn

from mlr_dmcontrol.augmentation import AugmentationNoise, to_float
from mlr_dmcontrol.objectives.curl import info_nce, similarities
from mlr_dmcontrol.objectives.latents import distance
from mlr_dmcontrol.objectives.playvirtual import cycle_ramp
from mlr_dmcontrol.run.seeding import Streams


def view(image: Tensor, draw: AugmentationNoise, *key: int) -> Tensor:
    """One image of 32 pixels, cropped to 28 by one draw, (1, S*C, 28, 28)."""
    row, column = draw.offsets[key].tolist()
    seen = to_float(image[None, :, row : row + 28, column : column + 28])
    return seen if draw.intensity is None else seen * draw.intensity[key]


def test_info_nce() -> None:
    anchor = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    key = torch.tensor([[1.0, 0], [1, 1], [0, 2]])
    weight = torch.tensor([[2.0, 1], [0, 1]])
    logits = torch.tensor([[2.0, 3, 2], [0, 1, 2], [2, 4, 4]])
    expected = logits - torch.tensor([[3.0], [2], [4]])
    assert torch.equal(similarities(anchor, key, weight), expected)
    # Neither the map transposed, nor a softmax over the anchors, nor a temperature.
    assert info_nce(anchor, key, weight).item() == pytest.approx(1.239225, abs=1e-6)


def test_curl_contrasts_the_critics_view_with_another_by_the_target() -> None:
    agent = tiny("curl", batch_size=50)
    batch, noise = make_batch(agent, size=32), agent.draw_noise(Streams(0))
    drawn, objective, dense = noise.objective, objective_of(agent), batch.obs.dense()
    assert torch.equal(drawn.anchor.offsets, noise.obs.offsets[0])
    assert not torch.equal(drawn.key.offsets, drawn.anchor.offsets)
    with torch.no_grad():
        agent.networks.encoder.head.linear.weight.mul_(2)  # now the target's is another
    images = [
        torch.cat([view(dense[i], draw, i) for i in range(50)])
        for draw in (drawn.anchor, drawn.key)
    ]
    anchor, key = agent.encoder(images[0]), agent.networks.encoder_target.target(images[1])
    loss, _ = objective.loss(agent.encoder, batch, drawn)
    torch.testing.assert_close(loss, info_nce(anchor, key, objective.bilinear))


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
    if name == "curl_published":
        by_hand = parts.update_objective(batch, noise)
    assert metrics["loss/curl"] == by_hand["loss/curl"]
    mine, theirs = (each.networks.state_dict() for each in (whole, parts))
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_orthogonal_convolutions() -> None:
    for layer in tiny("drq_published").encoder.convolutions:
        if isinstance(layer, nn.Conv2d):
            kernel = layer.weight.flatten(1)
            expected = 2 * torch.eye(len(kernel))
            torch.testing.assert_close(kernel @ kernel.T, expected, atol=1e-5, rtol=0)
            assert layer.weight[:, :, 0, 0].abs().max() > 0.01


def test_spr_by_hand() -> None:
    """Window by window, step by step."""
    agent = tiny("spr")
    objective, batch = objective_of(agent), make_batch(agent, size=32)
    with torch.no_grad():
        for each in agent.encoder.parameters():
            each.add_(0.01)  # online and momentum networks differ
    noise = agent.draw_noise(Streams(0)).objective
    dense, terms = batch.sequence.obs.dense(), []
    for b in range(3):
        latent = agent.encoder(view(dense[0, b], noise.first, b))
        for k in range(3):
            latent = objective.dynamics(latent, batch.sequence.action[k, b][None])
            y = objective.predictor(objective.projection(latent))
            image = view(dense[k + 1, b], noise.target, k, b)
            target = objective.target_projection.target(objective.target_encoder.target(image))
            terms.append(2 - 2 * torch.cosine_similarity(y, target.detach()))
    loss, _ = objective.loss(agent.encoder, batch, noise)
    torch.testing.assert_close(loss, torch.cat(terms).mean())


def test_each_cycle_has_its_own_target_and_actions() -> None:
    agent = tiny("playvirtual", num_cycles=4)
    batch, noise = make_batch(agent, size=32), agent.draw_noise(Streams(0)).objective
    objective, sequence = objective_of(agent), batch.sequence
    assert len(noise.home.offsets.flatten(0, 1).unique(dim=0)) > 3
    latent = objective.first_latent(agent.encoder, sequence, noise)
    terms = []
    for m in range(4):
        end = objective.returned(latent, noise.virtual_actions[:, m])
        images = objective.augmentation(sequence.obs.select(0), noise.home.select(m))
        target = objective.target_projection(objective.target_encoder(images))
        terms.append(distance(objective.projected(end), target))
    found = objective.cycle_loss(latent, sequence, noise)
    torch.testing.assert_close(found, torch.stack(terms).mean())


def test_the_ramp_counts_env_steps_from_the_start_of_the_run() -> None:
    agent = tiny("playvirtual", cycle_ramp_action_repeat=8)
    for agent_step, expected in ((0, 0.006739), (250, 0.009974), (5000, 0.818764), (6250, 1.0)):
        agent.set_schedules(agent_step)
        assert objective_of(agent).ramp.item() == pytest.approx(expected, abs=1e-6)
    assert cycle_ramp(49_999, 50_000) == 1


@pytest.mark.parametrize("name", ["spr", "spr_published", "playvirtual", "playvirtual_published"])
def test_how_the_momentum_projection_starts(name: str) -> None:
    objective = objective_of(tiny(name))
    online, target = objective.projection, objective.target_projection.target
    pairs = zip(online.parameters(), target.parameters(), strict=True)
    copied = all(torch.equal(first, second) for first, second in pairs)
    assert copied != name.endswith("published")
