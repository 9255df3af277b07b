"""The MLR objective against the published one (goldens), its masks and clipping, its options."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from agents import diagnostics, small_agent, synthetic_batch, updated
from torch import Tensor, nn

from mlr_atari.augmentation import AugmentationNoise
from mlr_atari.batch import Batch
from mlr_atari.frames import FrameStacks
from mlr_atari.networks import Encoder
from mlr_atari.objectives.latents import distance
from mlr_atari.objectives.mlr import MLR, MLRNoise, PixelDecoder
from mlr_atari.official import export_official, load_official
from mlr_atari.rainbow import Rainbow
from mlr_atari.run.seeding import Streams

AUGMENTATIONS = ["identity", "given"]


def mlr(agent: Rainbow) -> MLR:
    assert isinstance(agent.objective, MLR)
    return agent.objective


def _published_agent(file: Any) -> Rainbow:
    agent = small_agent("mlr_official", sequence_length=16, batch_size=2)
    weights = file("atari_j_small_weights")
    tensors = weights.tensors("param/") | weights.tensors("buffer/")
    load_official(agent, tensors)
    return agent


def _published_batch(inputs: Any) -> Batch:
    frames, action = inputs.tensor("frames"), inputs.tensor("all_action")  # (29, 2, 84, 84)
    time, sample = torch.arange(16)[:, None, None], torch.arange(2)[:, None]
    index = (time + torch.arange(4)) * 2 + sample  # frames are flattened to (29 * 2, ...)
    stacks = FrameStacks(frames.reshape(-1, 1, 84, 84), index)
    zeros = torch.zeros(2)
    return Batch(
        obs=stacks,
        n_step_obs=stacks.select(10),
        action=action[1:17],
        n_step_return=zeros,
        bootstrap_discount=zeros,
        ends=torch.zeros(16, 2, dtype=torch.bool),
        importance_weights=torch.ones(2),
    )


def _augmentation(inputs: Any, call: str, kind: str) -> AugmentationNoise:
    """Published draws are flattened batch first; ours are (K, B)."""
    offsets, intensity = inputs.tensor(f"aug/off_{call}"), inputs.tensor(f"aug/intensity_{call}")
    if kind == "identity":
        offsets, intensity = torch.full_like(offsets, 4), torch.ones_like(intensity)
    if len(offsets) == 2:
        return AugmentationNoise(offsets[None], intensity[None])
    return AugmentationNoise(
        offsets.view(2, 16, 2).transpose(0, 1), intensity.view(2, 16).transpose(0, 1)
    )


def _noise(inputs: Any, kind: str) -> MLRNoise:
    return MLRNoise(
        inputs.tensor("mask_grid").bool(),
        _augmentation(inputs, "masked", kind),
        _augmentation(inputs, "target", kind),
    )


def _batch_first(tensor: Tensor) -> Tensor:
    """(K, B, ...) to rows in published order."""
    return tensor.transpose(0, 1).flatten(0, 1)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_loss_and_gradients_match_published(kind: str, golden: Callable[[str], Any]) -> None:
    inputs, file = golden("atari_j_inputs"), golden(f"atari_j_small_{kind}_aug")
    agent = _published_agent(golden)
    batch, noise, objective = _published_batch(inputs), _noise(inputs, kind), mlr(agent)
    loss, _ = objective.loss(agent.encoder, batch, noise)
    file.check("mlr_loss_mean", loss)
    target = objective.target_projection(objective.target_latents(batch, noise))
    predicted = objective.predictions(agent.encoder, batch, noise)
    file.check("mlr_loss_T_B", distance(predicted, target))
    file.check("mid/pred", _batch_first(predicted))
    file.check("mid/tproj", _batch_first(target))
    loss.backward()
    ours = export_official(agent, lambda parameter: parameter.grad)
    for name in file.names("grad/"):
        if name != "head.advantage_bias":  # not carried over: it has no effect
            file.check(f"grad/{name}", ours[name])


def test_momentum_update_matches_published(golden: Callable[[str], Any]) -> None:
    agent, file = _published_agent(golden), golden("atari_j_small_identity_aug")
    objective = mlr(agent)
    before = export_official(agent)
    assert not torch.equal(before["target_encoder.conv.0.weight"], before["conv.conv.0.weight"])
    objective.update_targets()
    after = export_official(agent)
    assert file["momentum_update/target_encoder_equals_conv"]
    for name, tensor in after.items():
        if name.startswith("target_encoder."):
            assert torch.equal(tensor, after["conv." + name.removeprefix("target_encoder.")])
    assert file["momentum_update/target_projection_equals_head"]
    for index, layer in enumerate(("value.1", "advantage_hidden.1")):
        for kind in ("weight_mu", "bias_mu"):
            target = after[f"global_target_classifier.encoders.{index}.{kind}"]
            assert torch.equal(target, after[f"head.{layer}.{kind}"])


def test_decoder_is_clipped_without_its_action_embedding() -> None:
    agent = small_agent()
    objective = mlr(agent)
    clipped = {id(each) for group in agent.optimizer.clip for each in group.parameters}
    free = {
        name
        for name, each in objective.named_parameters()
        if each.requires_grad and id(each) not in clipped
    }
    assert free == {
        "decoder.action_embedding.weight",
        "decoder.action_embedding.bias",
        "predictor.weight",
        "predictor.bias",
    }


# ---- options ------------------------------------------------------------------------------


def given(**changes: Any) -> tuple[Rainbow, MLR, Batch, MLRNoise]:
    agent = small_agent("mlr", decoder_width=16, **changes)
    noise = agent.draw_noise(Streams(1)).objective
    assert isinstance(noise, MLRNoise)
    return agent, mlr(agent), synthetic_batch(0), noise


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
    agent, objective, batch, noise = given(**changes)
    for seed in (1, 2):
        metrics, _ = updated(agent, batch, agent.draw_noise(Streams(seed)))
        assert set(metrics) == set(agent.metric_names)
        assert all(value.isfinite() for value in metrics.values())
        assert metrics["gradient_norm/decoder"] > 0
    for parameter in agent.optimizer.parameters:
        parameter.grad = None
    loss, _ = objective.loss(agent.encoder, batch, noise)
    loss.backward()
    assert all(each.grad is not None for each in objective.trained())
    assert agent.encoder.convs[0].weight.grad is not None
    found = diagnostics(agent, batch, agent.draw_noise(Streams(1)))
    assert set(found) == set(objective.diagnostic_names)
    other = small_agent("mlr", decoder_width=16, seed=9, **changes)
    other.load_state_dict(agent.state_dict())
    theirs, _ = other.objective.loss(other.network.encoder, batch, noise)
    assert torch.equal(theirs, loss)


def test_the_token_stands_for_hidden_latents() -> None:
    agent, objective, batch, noise = given(mask_level="latent", mask_per="sequence", mask_ratio=0.5)
    hidden = objective.masking.steps(noise.grid)
    assert hidden.sum(dim=0).tolist() == [2, 2, 2]
    seen = []
    objective.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    objective.token.data.fill_(7.0)
    objective.decoded(agent.encoder, batch, noise)
    (latents,) = seen  # (B, K, Z)
    assert torch.equal((latents == 7).all(-1), hidden.t())


def test_loss_of_masked_positions_by_hand() -> None:
    changes = {"mask_mode": "temporal", "mask_per": "sequence"}
    agent, objective, batch, noise = given(loss_positions="masked", **changes)
    errors = objective.errors(agent.encoder, batch, noise)
    hidden = objective.masking.steps(noise.grid)
    means = torch.stack([errors[hidden[:, b], b].mean() for b in range(3)])
    loss, _ = objective.loss(agent.encoder, batch, noise)
    torch.testing.assert_close(loss, (means * batch.importance_weights).mean())


def test_without_momentum_and_heads_latents_of_the_online_network_are_compared() -> None:
    agent, objective, batch, noise = given(target_ema_tau=None, projection_heads=False)
    assert not any("target_" in name for name in objective.state_dict())
    target = objective.target_latents(batch, noise)
    images = agent.augmentation(batch.obs, noise.target)
    assert torch.equal(target, agent.encoder(images).flatten(1).view_as(target))
    assert not target.requires_grad
    prediction = objective.predictions(agent.encoder, batch, noise)
    assert torch.equal(prediction, objective.decoded(agent.encoder, batch, noise))
    objective.loss(agent.encoder, batch, noise)[0].backward()
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


@pytest.mark.parametrize("polarity", ["masked", "kept"])
def test_hidden_pixels_of_the_reconstruction(polarity: str) -> None:
    changes = {"reconstruction": "pixel", "loss_positions": "masked", "augmentation": []}
    agent, objective, batch, noise = given(mask_polarity=polarity, **changes)
    errors = objective.errors(agent.encoder, batch, noise)
    latents = objective.decoded(agent.encoder, batch, noise)
    images = objective.pixel_decoder(latents.flatten(0, 1)).view(4, 3, 4, 84, 84)
    hidden = objective.masking.pixels(noise.grid) == (polarity == "masked")
    for step in range(4):
        wrong = (images[step, 1] - batch.obs.dense()[step, 1] / 255).square()
        expected = wrong[:, hidden[step]].mean()
        assert errors[step, 1].item() == pytest.approx(expected.item(), rel=1e-4)
