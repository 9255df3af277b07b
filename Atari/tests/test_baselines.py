"""CURL, SPR and PlayVirtual against numbers worked out by hand, and against slow loops."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from agents import parts, synthetic_batch
from torch import Tensor, nn
from torch.nn import functional as F

from mlr_atari.augmentation import AugmentationNoise
from mlr_atari.frames import FrameStacks
from mlr_atari.networks import Encoder
from mlr_atari.objectives.curl import CURL, ContrastHead, crop_pad_crop
from mlr_atari.objectives.playvirtual import PlayVirtual, cycle_ramp
from mlr_atari.objectives.spr import SPR, TransitionModel, masked_losses
from mlr_atari.run.seeding import Streams

# ---- CURL ----------------------------------------------------------------------------------

QUERY = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
KEY = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
MATRIX = torch.tensor([[2.0, 1.0], [0.0, 1.0]])


class _Given(nn.Module):
    """Outputs a fixed tensor, whatever comes in."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Tensor) -> Tensor:
        return self.output


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 1.239225), (0.1, 1.090433)])
def test_contrastive_loss_and_its_mean_importance(scale: float, expected: float) -> None:
    """Neither with the matrix transposed nor over the queries: 1.342741 and 1.449060."""
    agent, objective = parts("curl", CURL, contrast_dim=2, logit_scale=scale)
    objective.head, objective.target_head = _Given(QUERY), _Given(KEY)
    objective.matrix = nn.Parameter(MATRIX)
    weights = torch.tensor([1.0, 0.5, 0.5])
    batch = replace(synthetic_batch(0), importance_weights=weights)
    noise = agent.draw_noise(Streams(1)).objective
    loss, metrics = objective.loss(agent.encoder, batch, noise)
    assert metrics["loss/curl"].item() == pytest.approx(expected, abs=1e-6)
    assert loss.item() == pytest.approx(expected * 2 / 3, abs=1e-6)


@pytest.mark.parametrize("offsets", [(0, 0), (4, 4), (1, 3), (4, 0), (2, 1)])
def test_curl_view(offsets: tuple[int, int]) -> None:
    columns = torch.arange(84, dtype=torch.uint8).expand(84, 84)
    frames = torch.stack([columns, columns.t()])[:, None].contiguous()
    stacks = FrameStacks(frames, torch.tensor([[0, 1]]))
    first, second = offsets
    # Rows move by other offsets than columns.
    noise = torch.tensor([[[4 - first, first], [4 - second, second]]])
    across, down = crop_pad_crop(stacks, noise, 4)[0]
    place = torch.arange(84)
    expected = first + (place + second - 4).clamp(0, 79)
    assert torch.equal(across, expected.to(torch.uint8).expand(84, 84))
    expected = 4 - first + (place - second).clamp(0, 79)
    assert torch.equal(down, expected.to(torch.uint8)[:, None].expand(84, 84))


@pytest.mark.parametrize(("latent_dim", "total"), [(3136, 852_352), (576, 196_992)])
def test_weights_of_the_contrastive_head(latent_dim: int, total: int) -> None:
    head = ContrastHead(latent_dim, 256, 128)
    assert sum(each.numel() for each in head.parameters()) + 128 * 128 == total
    assert 0 <= head.hidden.weight.min() < 0.01 < 0.99 < head.hidden.weight.max() < 1
    assert head.out.bias.abs().sum() == 0
    normal = head(torch.rand(5, latent_dim))
    assert torch.allclose(normal.mean(-1), torch.zeros(5), atol=1e-5)
    assert torch.allclose(normal.var(-1, unbiased=False), torch.ones(5), atol=1e-3)


def test_curl_published_clips_everything_together() -> None:
    agent, _ = parts("curl_published", CURL)
    (group,) = agent.optimizer.clip
    assert group.name == "network"
    assert len(group.parameters) == len(agent.optimizer.parameters)
    names = [group.name for group in parts("curl", CURL)[0].optimizer.clip]
    assert names == ["network", "contrast"]


# ---- SPR -----------------------------------------------------------------------------------


def test_dynamics_by_the_formula() -> None:
    torch.manual_seed(0)
    model = TransitionModel(Encoder((4, 84, 84), "nature", (4, 4, 3), True), 5).eval()
    latents, action = torch.rand(6, 3, 7, 7), torch.tensor([0, 4, 2, 2, 1, 3])
    planes = F.one_hot(action, 5).float()[..., None, None].expand(6, 5, 7, 7)
    inputs = torch.cat([latents, planes], 1)
    hidden = F.conv2d(inputs, model.first.weight, model.first.bias, padding=1).relu()
    mean, variance = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3), unbiased=False)
    hidden = (hidden - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
    out = F.conv2d(hidden, model.second.weight, model.second.bias, padding=1).relu().flatten(1)
    low, high = out.amin(1, keepdim=True), out.amax(1, keepdim=True)
    expected = (out - low) / (high - low + 1e-8)
    assert torch.allclose(model(latents, action).flatten(1), expected, atol=1e-5)


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


def test_spr_step_by_step() -> None:
    """The whole loss, from the networks' layers, one prediction at a time."""
    agent, objective = parts("spr", SPR)
    batch = synthetic_batch(4, 3, 6)
    batch.ends[3, 1] = True
    noise = agent.draw_noise(Streams(1))
    loss, metrics = objective.loss(agent.encoder, batch, noise.objective)
    network, later = agent.network, noise.objective.target

    def project(latents: Tensor) -> Tensor:
        layers = network.head.value_hidden, network.head.advantage_hidden
        flat = latents.flatten(1)
        return torch.cat([F.linear(flat, each.weight_mu, each.bias_mu) for each in layers], 1)

    latents = network.encoder(agent.augmentation(batch.obs.select(slice(0, 1)), noise.obs))
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
    """Dynamics of a given formula; actions (N, 1, 1, 1)."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, latents: Tensor, action: Tensor) -> Tensor:
        return self.formula(latents, action[:, None, None, None])


def test_imagined_sequences_one_by_one() -> None:
    agent, objective = parts("playvirtual", PlayVirtual, cycle_steps=3)
    batch, noise = synthetic_batch(0, 3, 10), agent.draw_noise(Streams(1)).objective
    start = objective.first_latent(agent.encoder, batch, noise)
    grid = torch.arange(start[0].numel()).view(start.shape[1:]) / 10
    objective.dynamics = _Step(lambda z, a: z + 0.1 * (a + 1) * grid)
    objective.reverse_dynamics = _Step(lambda z, a: z - 0.07 * (a + 1) * grid)
    found = objective.cycle_losses(agent.encoder, start, batch, noise)
    for sample in range(3):
        distances, one = [], slice(sample, sample + 1)
        for index in range(8):
            actions, latents = noise.virtual_actions[:, index, one], start[one]
            for action in actions:
                latents = objective.dynamics(latents, action)
            for action in actions.flip(0):
                latents = objective.reverse_dynamics(latents, action)
            draw = noise.home.select((index, one))
            image = agent.augmentation(batch.obs.select((0, one)), draw)
            target = objective.target_projection(objective.target_encoder(image).flatten(1))
            distances.append(2 - 2 * F.cosine_similarity(objective.projected(latents), target))
        assert found[sample].item() == pytest.approx(torch.cat(distances).mean().item(), rel=1e-4)
    ended = replace(batch, ends=torch.ones_like(batch.ends))
    assert objective.cycle_losses(agent.encoder, start, ended, noise).abs().sum() == 0


def test_actions_are_taken_back_last_first() -> None:
    """Steps that do not commute: only in that order do they return."""
    agent, objective = parts("playvirtual", PlayVirtual, augmentation=[], cycle_steps=3)
    batch, noise = synthetic_batch(0, 3, 10), agent.draw_noise(Streams(1)).objective
    start = objective.first_latent(agent.encoder, batch, noise)
    objective.predictor = nn.Identity()
    objective.dynamics = _Step(lambda z, a: 2 * z + a)
    objective.reverse_dynamics = _Step(lambda z, a: (z - a) / 2)
    assert objective.cycle_losses(agent.encoder, start, batch, noise).max() < 1e-6


def test_playvirtual_is_nine_predictions_and_a_ramped_cycle() -> None:
    agent, objective = parts("playvirtual", PlayVirtual)
    batch = replace(synthetic_batch(0, 3, 10), importance_weights=torch.ones(3))
    noise = agent.draw_noise(Streams(1)).objective
    agent.set_schedules(40_000)
    ramp = math.exp(-5 * (1 - 40_001 / 50_000) ** 2)
    assert objective.ramp.item() == pytest.approx(ramp) == pytest.approx(0.818764, abs=1e-6)
    assert cycle_ramp(50_000, 50_000) == 1
    loss, metrics = objective.loss(agent.encoder, batch, noise)
    expected = 9 * metrics["playvirtual/prediction"] + ramp * metrics["playvirtual/cycle"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["loss/playvirtual"].item() == pytest.approx(loss.item(), rel=1e-5)
