"""SPR and PlayVirtual against numbers worked out by hand, and against slow loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from agents import parts, small_agent, synthetic_batch
from torch import Tensor, nn
from torch.nn import functional as F

from mlr_atari.augmentation import AugmentationNoise
from mlr_atari.networks import Encoder
from mlr_atari.objectives.playvirtual import PlayVirtual, cycle_ramp
from mlr_atari.objectives.spr import SPR, masked_losses, real_targets
from mlr_atari.objectives.transition import TransitionModel, cycle, rollout
from mlr_atari.run.seeding import Streams
from mlr_atari.settings import load

# ---- distance ------------------------------------------------------------------------------


# ---- dynamics ------------------------------------------------------------------------------


def test_dynamics_by_the_formula() -> None:
    torch.manual_seed(0)
    model = TransitionModel(Encoder((4, 84, 84), "nature", (4, 4, 3), True), 5).eval()
    latents, action = torch.rand(6, 3, 7, 7), torch.tensor([0, 4, 2, 2, 1, 3])
    planes = torch.zeros(6, 5, 7, 7)
    for sample, chosen in enumerate(action.tolist()):
        planes[sample, chosen] = 1
    hidden = F.conv2d(torch.cat([latents, planes], 1), model.first.weight, model.first.bias,
                      padding=1).relu()  # fmt: skip
    mean, variance = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3), unbiased=False)
    hidden = (hidden - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
    out = F.conv2d(hidden, model.second.weight, model.second.bias, padding=1).relu()
    flat = out.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    expected = ((flat - low) / (high - low + 1e-8)).view(out.shape)
    assert torch.allclose(model(latents, action), expected, atol=1e-5)


def test_rollout_order() -> None:
    actions = torch.tensor([[1], [2], [3]])
    latents = rollout(lambda z, a: 10 * z + a, torch.zeros(1), actions)
    assert latents.flatten().tolist() == [1, 12, 123]


def test_cycle_takes_actions_back_last_first() -> None:
    def forward(z: Tensor, a: Tensor) -> Tensor:
        return 10 * z + a

    def backward(z: Tensor, a: Tensor) -> Tensor:
        return (z - a) / 10

    actions = torch.tensor([[1], [2]])
    assert cycle(forward, backward, torch.zeros(1), actions).item() == pytest.approx(0)
    wrong = backward(backward(forward(forward(torch.zeros(1), actions[0]), actions[1]),
                              actions[0]), actions[1])  # fmt: skip
    assert wrong.item() == pytest.approx(-0.09)


# ---- SPR -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "strict", "expected"),
    [([1], True, 1.5), ([1], False, 1.75), ([0], True, 1.5), ([0], False, 1.5), ([], True, 2.25)],
)
def test_mask_and_mean_of_spr(ends: list[int], strict: bool, expected: float) -> None:
    """K = 2, distances 2 and 4; the second of two samples ends, importance weights 1 and 1/2."""
    prediction = torch.tensor([[1.0, 0.0]]).expand(2, 2, 2)
    target = torch.stack([torch.tensor([[0.0, 1.0]] * 2), torch.tensor([[-1.0, 0.0]] * 2)])
    ended = torch.zeros(3, 2, dtype=torch.bool)
    ended[ends, 1] = True
    losses = masked_losses(prediction, target, ended, strict)
    assert (losses * torch.tensor([1.0, 0.5])).mean().item() == pytest.approx(expected)


def test_real_targets_by_hand() -> None:
    ends = torch.zeros(4, 3, dtype=torch.bool)
    ends[1, 1] = ends[3, 1] = ends[0, 2] = True
    assert real_targets(ends, strict=True).t().tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert real_targets(ends, strict=False).t().tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("name", ["spr", "playvirtual"])
def test_nothing_is_learned_beyond_an_end(name: str) -> None:
    agent = small_agent(name, strict_end_mask=False)
    batch = synthetic_batch(0, 3, agent.settings.sequence_length)
    batch.ends[0] = True
    assert agent.objective is not None
    noise = agent.draw_noise(Streams(1)).objective
    loss, _ = agent.objective.loss(agent.network.encoder, batch, noise)
    loss.backward()
    assert loss == 0
    gradients = [each.grad for each in agent.network.parameters() if each.grad is not None]
    assert all(each.abs().sum() == 0 for each in gradients)


def test_spr_step_by_step() -> None:
    """The whole loss, from the networks' layers, one prediction at a time."""
    agent, objective = parts("spr", SPR)
    batch = synthetic_batch(4, 3, 6)
    batch.ends[3, 1] = True
    noise = agent.draw_noise(Streams(1))
    loss, metrics = objective.loss(agent.network.encoder, batch, noise.objective)
    network = agent.network

    def project(latents: Tensor) -> Tensor:
        flat, head = latents.flatten(1), network.head
        value = F.linear(flat, head.value_hidden.weight_mu, head.value_hidden.bias_mu)
        advantage = F.linear(flat, head.advantage_hidden.weight_mu, head.advantage_hidden.bias_mu)
        return torch.cat([value, advantage], 1)

    latents = network.encoder(agent.augmentation(batch.obs.select(slice(0, 1)), noise.obs))
    later = noise.objective.target
    expected = torch.zeros(3)
    for k in range(1, 6):
        latents = objective.dynamics(latents, batch.action[k - 1])
        predicted = objective.predictor(project(latents))
        draw = AugmentationNoise(later.offsets[k - 1], later.intensity[k - 1])
        target = project(network.encoder(agent.augmentation(batch.obs.select(k), draw)))
        goes_on = torch.tensor([1.0, 1.0 if k < 3 else 0.0, 1.0])
        expected += goes_on * (2 - 2 * F.cosine_similarity(predicted, target)) / 5
    assert metrics["loss/spr"].item() == pytest.approx(expected.mean().item(), rel=1e-4)
    weighted = (expected * batch.importance_weights).mean()
    assert loss.item() == pytest.approx(weighted.item(), rel=1e-4)


# ---- PlayVirtual ---------------------------------------------------------------------------


class _Step(nn.Module):
    """z + reach * a, or z itself."""

    def __init__(self, reach: float) -> None:
        super().__init__()
        self.reach = reach

    def forward(self, latents: Tensor, action: Tensor) -> Tensor:
        grid = torch.arange(latents[0].numel()).view(latents.shape[1:]) / 10
        return latents + self.reach * (action[:, None, None, None] + 1) * grid


@pytest.mark.parametrize(("virtual", "steps"), [(1, 1), (2, 9), (3, 4)])
def test_cycle_of_the_identity_is_closed(virtual: int, steps: int) -> None:
    sizes = {"virtual_per_action": virtual, "cycle_steps": steps, "augmentation": []}
    agent, objective = parts("playvirtual", PlayVirtual, **sizes)
    objective.predictor = nn.Identity()
    batch, noise = synthetic_batch(0, 3, 10), agent.draw_noise(Streams(1)).objective
    assert noise.virtual_actions.shape == (steps, 4 * virtual, 3)
    losses = []
    for reach in (0.0, 0.1):
        objective.dynamics = objective.reverse_dynamics = _Step(reach)
        encoder = agent.network.encoder
        start = objective.first_latent(encoder, batch, noise)
        losses.append(objective.cycle_losses(encoder, start, batch, noise))
    assert losses[0].abs().max() < 1e-10
    assert (losses[1] > 1e-3).all()
    ended = replace(batch, ends=torch.ones_like(batch.ends))
    assert objective.cycle_losses(encoder, start, ended, noise).abs().sum() == 0


def test_imagined_sequences_one_by_one() -> None:
    agent, objective = parts("playvirtual", PlayVirtual, cycle_steps=3)
    objective.dynamics, objective.reverse_dynamics = _Step(0.1), _Step(-0.07)
    batch, noise = synthetic_batch(0, 3, 10), agent.draw_noise(Streams(1)).objective
    encoder = agent.network.encoder
    start = objective.first_latent(encoder, batch, noise)
    found = objective.cycle_losses(encoder, start, batch, noise)
    for sample in range(3):
        distances = []
        for index in range(8):
            actions = noise.virtual_actions[:, index, sample]
            latents = start[sample : sample + 1]
            for action in actions:
                latents = objective.dynamics(latents, action[None])
            for action in actions.flip(0):
                latents = objective.reverse_dynamics(latents, action[None])
            offsets, intensity = noise.home.offsets, noise.home.intensity
            one = slice(sample, sample + 1)
            draw = AugmentationNoise(offsets[index, one], intensity[index, one])
            image = agent.augmentation(batch.obs.select((0, one)), draw)
            target = objective.target_encoder(image).flatten(1)
            target = objective.target_projection(target)
            distances.append(2 - 2 * F.cosine_similarity(objective.projected(latents), target))
        assert found[sample].item() == pytest.approx(torch.cat(distances).mean().item(), rel=1e-4)


def test_ramp_of_the_cycle() -> None:
    expected = {
        0: 0.006739,
        2000: 0.009974,
        12_000: 0.055696,
        25_000: 0.286533,
        40_000: 0.818764,
        49_999: 1.0,
        50_000: 1.0,
        90_000: 1.0,
    }
    for step, value in expected.items():
        assert cycle_ramp(step, 50_000) == pytest.approx(value, abs=1e-6)
    agent, objective = parts("playvirtual", PlayVirtual)
    agent.set_schedules(25_000)
    assert objective.ramp.item() == pytest.approx(math.exp(-5 * (1 - 25_001 / 50_000) ** 2))


@pytest.mark.parametrize("preset", ["paper", "laptop", "smoke"])
def test_cycles_have_full_weight_in_half_of_the_budget(preset: str) -> None:
    cfg = load(["agent=playvirtual", f"preset={preset}"])
    assert cfg.agent.cycle_ramp_agent_steps == cfg.budget // 2
    if preset == "paper":
        assert (cfg.agent.cycle_steps, cfg.agent.virtual_per_action) == (9, 2)


def test_playvirtual_is_nine_predictions_and_a_ramped_cycle() -> None:
    agent, objective = parts("playvirtual", PlayVirtual)
    batch = replace(synthetic_batch(0, 3, 10), importance_weights=torch.ones(3))
    noise = agent.draw_noise(Streams(1)).objective
    agent.set_schedules(40_000)
    loss, metrics = objective.loss(agent.network.encoder, batch, noise)
    expected = 9 * metrics["playvirtual/prediction"] + 0.818764 * metrics["playvirtual/cycle"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["loss/playvirtual"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert agent.objective_weight == 1.0
