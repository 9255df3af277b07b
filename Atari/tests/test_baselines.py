"""CURL, DER and DrQ against numbers worked out by hand; what sets an agent's file apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from agents import agent_settings, parts, small_agent, synthetic_batch, updated
from torch import Tensor, nn
from torch.nn import functional as F

from mlr_atari.augmentation import AugmentationNoise
from mlr_atari.frames import FrameStacks
from mlr_atari.objectives.curl import CURL, ContrastHead, contrast, crop_pad_crop
from mlr_atari.run.seeding import Streams

# ---- the files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "against", "expected"),
    [
        (
            "der",
            "rainbow",
            "renormalize augmentation target_update_interval redraw_target_noise learning_starts"
            " updates_per_step epsilon_initial redraw_noise_to_act new_priority",
        ),
        ("der_published", "der", "encoder num_filters n_step"),
        ("mlr", "rainbow", "objective"),
        ("mlr_official", "mlr", "masked_input_scale mask_polarity n_step_end_flag time_limit"),
        (
            "drq",
            "rainbow",
            "values renormalize noisy_sigma separate_selection_draw learning_starts"
            " updates_per_step epsilon_final epsilon_decay_steps epsilon_evaluation replay",
        ),
        ("drq_eps", "drq", "epsilon_final epsilon_evaluation"),
        ("curl", "rainbow", "objective sequence_length"),
        ("curl_published", "curl", None),
        ("curl_published", "der_published", "objective sequence_length"),
        ("spr", "rainbow", "objective sequence_length"),
        ("spr_published", "spr", "noisy_sigma n_step_end_flag"),
        ("playvirtual", "rainbow", "objective sequence_length"),
        ("playvirtual_published", "playvirtual", "n_step_end_flag"),
    ],
)
def test_what_an_agent_changes(name: str, against: str, expected: str | None) -> None:
    """Objectives leave the trunk alone; every `_published` says what it sets back."""
    ours, theirs = agent_settings(name), agent_settings(against)
    if expected is None:  # DER's values, and how gradients are clipped
        der, trunk = agent_settings("der_published"), agent_settings("rainbow")
        keys = {key for key in trunk if der[key] != trunk[key]} | {"clip_with"}
    else:
        keys = set(expected.split())
    assert {key for key in theirs if key in ours and ours[key] != theirs[key]} == keys


# ---- CURL ----------------------------------------------------------------------------------

QUERY = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
KEY = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
MATRIX = torch.tensor([[2.0, 1.0], [0.0, 1.0]])


def test_contrastive_logits_and_loss() -> None:
    logits = contrast(QUERY, KEY, MATRIX, 1.0)
    plain = torch.tensor([[2.0, 3.0, 2.0], [0.0, 1.0, 2.0], [2.0, 4.0, 4.0]])
    assert torch.equal(logits, plain - plain.amax(1, keepdim=True))
    label = torch.arange(3)
    assert F.cross_entropy(logits, label).item() == pytest.approx(1.239225, abs=1e-6)
    scaled = contrast(QUERY, KEY, MATRIX, 0.1)
    assert F.cross_entropy(scaled, label).item() == pytest.approx(1.090433, abs=1e-6)
    turned = contrast(QUERY, KEY, MATRIX.t(), 1.0)
    assert F.cross_entropy(turned, label).item() == pytest.approx(1.342741, abs=1e-6)
    assert F.cross_entropy(plain.t(), label).item() == pytest.approx(1.449060, abs=1e-6)
    shifted = plain + torch.tensor([[0.0], [7.0], [0.0]])
    assert F.cross_entropy(shifted, label).item() == pytest.approx(1.239225, abs=1e-6)


class _Given(nn.Module):
    """Outputs a fixed tensor, whatever comes in."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Tensor) -> Tensor:
        return self.output


def test_contrastive_loss_is_weighted_by_the_mean_importance() -> None:
    agent, objective = parts("curl", CURL, contrast_dim=2, logit_scale=1.0)
    objective.head, objective.target_head = _Given(QUERY), _Given(KEY)
    objective.matrix = nn.Parameter(MATRIX)
    weights = torch.tensor([1.0, 0.5, 0.5])
    batch = replace(synthetic_batch(0), importance_weights=weights)
    noise = agent.draw_noise(Streams(1)).objective
    loss, metrics = objective.loss(agent.network.encoder, batch, noise)
    assert loss.item() == pytest.approx(0.826150, abs=1e-6)
    assert metrics["loss/curl"].item() == pytest.approx(1.239225, abs=1e-6)


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


def test_curl_views_are_drawn_over_the_whole_range() -> None:
    _, objective = parts("curl", CURL, batch_size=200)
    noise = objective.draw_noise(Streams(1), AugmentationNoise())
    for offsets in (noise.query, noise.key):
        assert offsets.shape == (200, 2, 2)
        assert set(offsets.flatten().tolist()) == {0, 1, 2, 3, 4}
    assert not torch.equal(noise.query, noise.key)


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


# ---- exploration and schedules of the complete agents --------------------------------------


def test_der_acts_and_bootstraps_with_noise_of_its_own() -> None:
    agent = small_agent("der")
    streams = Streams(1)
    obs = synthetic_batch(0).obs.select(0).dense()
    before = agent.network.head.noise.clone()
    agent.act(obs, agent.draw_action_noise(streams, len(obs)), 0.0)
    assert not torch.equal(before, agent.network.head.noise)
    updated(agent, synthetic_batch(0), agent.draw_noise(streams))
    assert not torch.equal(agent.target_network.head.noise, agent.network.head.noise)
