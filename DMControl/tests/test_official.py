"""Goldens: stored numbers of the published code, through `load_official` and public functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_agents import GOLDEN, agent_cfg, build_agent
from torch import nn

from mlr_dmcontrol.augmentation import AugmentationNoise, to_float
from mlr_dmcontrol.batch import Batch, SequenceBatch
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.frames import FrameStacks
from mlr_dmcontrol.losses import actor_loss, soft_target, squashed_gaussian, temperature_loss
from mlr_dmcontrol.networks import Encoder, initialise_orthogonal
from mlr_dmcontrol.objectives.heads import distance
from mlr_dmcontrol.objectives.mlr import MLR, MLRNoise
from mlr_dmcontrol.official import export_official, load_official
from mlr_dmcontrol.optimization import warmup_inverse_sqrt
from mlr_dmcontrol.sac import SAC, SACNoise

Load = Callable[[str], Any]
LENGTH, SEQUENCES = 8, 3


def published_agent(golden: Load, name: str = "mlr_official") -> SAC:
    cfg = agent_cfg(
        name, **GOLDEN, sequence_length=LENGTH, sequence_batch_size=SEQUENCES, cube_depth=4
    )
    agent = build_agent(cfg, obs_shape=(9, 100, 100), action_dim=3, device="cpu", seed=3)
    tensors = golden("dmc_agent_weights").tensors("")
    if agent.objective is None:
        tensors = {key: value for key, value in tensors.items() if not key.startswith("MTM/")}
    load_official(agent, tensors)
    return agent


def transitions(golden: Load) -> tuple[Batch, Any]:
    """Five transitions of 84x84 images, and the file of their random numbers."""
    file = golden("dmc_e_inputs")
    obs, next_obs = (FrameStacks.from_dense(file.tensor(key), 3) for key in ("obs", "next_obs"))
    reward, not_done = file.tensor("reward").flatten(), file.tensor("not_done").flatten()
    batch = Batch(obs, next_obs, file.tensor("action"), reward, 1 - not_done, None, torch.arange(5))
    return batch, file


def sac_noise(next_action: torch.Tensor, action: torch.Tensor, objective: Any = None) -> SACNoise:
    still = AugmentationNoise(offsets=torch.zeros(1, len(action), 2, dtype=torch.int64))
    return SACNoise(still, still, next_action[None], action, objective)


def sequences(golden: Load) -> tuple[SequenceBatch, Any]:
    """Three windows of eight stacks, and the file of their random numbers."""
    file = golden("dmc_cd_inputs")
    frames = file.tensor("frames")  # (K + 2, B, 3, 100, 100)
    index = torch.arange(frames.shape[0] * SEQUENCES).view(-1, SEQUENCES)
    index = torch.stack([index[age : age + LENGTH] for age in range(3)], dim=-1)
    obs = FrameStacks(frames.flatten(0, 1), index)
    reward = file.tensor("reward").squeeze(-1)
    return SequenceBatch(obs, file.tensor("action"), reward, torch.arange(SEQUENCES)), file


def mlr_noise(file: Any, centred: bool) -> MLRNoise:
    lead = (LENGTH, SEQUENCES)
    branches = []
    for branch in range(2):
        if centred:
            branches.append(AugmentationNoise(offsets=torch.full((*lead, 2), 8)))
            continue
        offsets = file.tensor("crop_offsets")[branch].view(*lead, 2)
        branches.append(
            AugmentationNoise(offsets, intensity=file.tensor("intensity")[branch].view(lead))
        )
    return MLRNoise(file.tensor("mask_grid").bool(), *branches)


def gradients(agent: SAC) -> dict[str, torch.Tensor | None]:
    return export_official(agent, lambda parameter: parameter.grad)


def check_steps(
    file: Any, prefix: str, after: dict[str, Any], gradient: dict[str, torch.Tensor | None]
) -> None:
    """Weights after an Adam step; where the gradient is noise, so is the step's sign."""
    for name, value in after.items():
        mine, seen = value.detach().clone(), gradient.get(name)
        stored = f"{prefix}{name}|sample"
        if stored not in file.arrays:
            file.check(f"{prefix}{name}", mine, rtol=0, atol=2e-5)
            continue
        if seen is None:
            file.check(f"{prefix}{name}", mine, rtol=1e-6)
            continue
        places = torch.linspace(0, mine.numel() - 1, min(mine.numel(), 48), dtype=torch.float64)
        places = places.long().unique()
        clear = seen.flatten()[places].abs() > 1e-7
        difference = mine.flatten()[places] - file.tensor(stored)
        assert clear.any(), name
        assert difference[clear].abs().max() < 2e-5, (name, difference)


def test_encoder(golden: Load) -> None:
    file = golden("dmc_a_pixel_encoder")
    encoder = Encoder(9, 84, 8, (2, 1, 1, 1), 50)
    filters, rows, columns = encoder.map_shape
    with torch.no_grad():
        for i, layer in enumerate(each for each in encoder.convolutions if hasattr(each, "stride")):
            layer.weight.copy_(file.tensor(f"param/convs.{i}.weight"))
            layer.bias.copy_(file.tensor(f"param/convs.{i}.bias"))
        fc = file.tensor("param/fc.weight").view(50, filters, rows, columns)
        encoder.head.linear.weight.copy_(fc.permute(0, 2, 3, 1).flatten(1))
        encoder.head.linear.bias.copy_(file.tensor("param/fc.bias"))
        encoder.head.norm.weight.copy_(file.tensor("param/ln.weight"))
        encoder.head.norm.bias.copy_(file.tensor("param/ln.bias"))
    images = to_float(file.tensor("obs")).requires_grad_()
    maps, counted = images, 0
    for layer in encoder.convolutions:
        maps = layer(maps)
        if isinstance(layer, nn.ReLU):
            counted += 1
            file.check(f"out/conv{counted}", maps)
    assert counted == 4
    file.check("out/fc", encoder.head.linear(maps.permute(0, 2, 3, 1).flatten(1)))
    latent = encoder(images)
    for name in ("out/ln", "out/final"):
        file.check(name, latent)
    (latent * file.tensor("cotangent")).sum().backward()
    file.check("grad_obs", images.grad / 255.0)
    file.check("grad/fc.weight", _channel_first(encoder.head.linear.weight.grad, encoder))
    for i, layer in enumerate(each for each in encoder.convolutions if hasattr(each, "stride")):
        file.check(f"grad/convs.{i}.weight", layer.weight.grad)
        file.check(f"grad/convs.{i}.bias", layer.bias.grad)
        layer.weight.grad = layer.bias.grad = None
    # With detached features only the latent head learns.
    encoder.zero_grad()
    features = encoder.features(images).detach()
    (encoder.latent(features) * file.tensor("cotangent")).sum().backward()
    file.check("grad_detached/fc.weight", _channel_first(encoder.head.linear.weight.grad, encoder))
    for name, parameter in (("ln.weight", "weight"), ("ln.bias", "bias")):
        file.check(f"grad_detached/{name}", getattr(encoder.head.norm, parameter).grad)
    for i, layer in enumerate(each for each in encoder.convolutions if hasattr(each, "stride")):
        file.check(f"grad_detached/convs.{i}.weight", layer.weight.grad)


def _channel_first(weight: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    filters, rows, columns = encoder.map_shape
    return weight.view(-1, rows, columns, filters).permute(0, 3, 1, 2).flatten(1)


def test_initialisation_has_the_published_statistics(golden: Load) -> None:
    file = golden("dmc_a2_init_statistics")
    torch.manual_seed(0)
    encoder, critic = Encoder(9, 84, 8, (2, 1, 1, 1), 50), nn.Linear(52, 64)
    initialise_orthogonal(encoder)
    initialise_orthogonal(critic)
    layers = [each for each in encoder.convolutions if isinstance(each, nn.Conv2d)]
    for i, layer in enumerate(layers):
        taps = layer.weight.detach().clone()
        centre = taps[:, :, 1, 1].clone()
        taps[:, :, 1, 1] = 0
        assert taps.abs().max() == file["conv_offcentre_abs_max"][i] == 0
        expected = torch.from_numpy(file["conv_centre_gram_0_1_2_3"][i])
        torch.testing.assert_close(centre @ centre.T, expected, atol=1e-5, rtol=0)
        assert layer.bias.abs().max() == 0
    weight = encoder.head.linear.weight
    file.check("fc_gram", weight @ weight.T, atol=1e-5)
    assert encoder.head.linear.bias.abs().max() == file["fc_bias_absmax"] == 0
    assert file["q1_l0_gram"].shape == (52, 52)
    gram = critic.weight.T @ critic.weight
    file.check("q1_l0_gram", gram, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "centred"),
    [("dmc_c_mlr_loss_centre_crop", True), ("dmc_cd_mlr_step_given_aug", False)],
)
def test_mlr_loss_and_gradients(name: str, centred: bool, golden: Load) -> None:
    file, agent = golden(name), published_agent(golden)
    sequence, inputs = sequences(golden)
    noise, objective = mlr_noise(inputs, centred), agent.objective
    assert isinstance(objective, MLR)
    encoder = agent.networks.encoder

    images = objective.masked_images(sequence.obs, noise)
    file.check("mid/encoder_in|image0_ch0", images[0, 0] * 255)
    file.check("mid/encoder_in", images * 255)
    originals = objective.augmentation(sequence.obs, noise.target)
    file.check("mid/target_in|image0_ch0", originals[0, 0] * 255)
    file.check("mid/target_in", originals * 255)
    latents = encoder(images)
    file.check("mid/encoder_out", latents)
    target = objective.target_latents(sequence, noise)
    file.check("mid/target_latent", target.flatten(0, 1))
    tokens = objective.decoder.embed(
        latents.unflatten(0, (LENGTH, -1)).transpose(0, 1), sequence.action.transpose(0, 1)
    )
    file.check("mid/tokens_in", _interleaved(tokens))
    for i, block in enumerate(objective.decoder.blocks):
        tokens = block(tokens, tokens.shape[1])
        file.check(f"mid/block{i}_out", _interleaved(tokens))
    decoded = objective.decoded(encoder, sequence, noise).flatten(0, 1)
    file.check("mid/proj_in", decoded)
    projected = objective.projection(decoded)
    file.check("mid/proj_out", projected)
    predicted = objective.predictor(projected)
    file.check("mid/pred_out", predicted)
    projected_target = objective.target_projection(target.flatten(0, 1))
    file.check("mid/target_proj", projected_target)
    if centred:
        file.check("pred_norms", predicted.norm(dim=-1))
        file.check("per_position_loss", distance(predicted, projected_target))

    batch, _ = transitions(golden)
    batch = Batch(**(vars(batch) | {"sequence": sequence}))
    loss, metrics = objective.loss(encoder, batch, noise)
    file.check("loss", loss)
    file.check("loss", metrics["loss/mlr"])
    loss.backward()
    mine = gradients(agent)
    dead = ("mask_token", "action_predictor")
    for key in file.names("grad/"):
        if any(part in key for part in dead):
            continue
        owner = "critic" if key.startswith("encoder.") else "MTM"
        file.check(f"grad/{key}", mine[f"{owner}/{key}"])
    norm = nn.utils.get_total_norm([p.grad for p in _objective_parameters(agent)])
    file.check("grad_total_norm", norm)


def _interleaved(tokens: torch.Tensor) -> torch.Tensor:
    """States then actions (B, 2K, Z) to the published order s0, a0, s1, a1, ..."""
    return torch.stack(tokens.chunk(2, dim=1), dim=2).flatten(1, 2)


def _objective_parameters(agent: SAC) -> list[nn.Parameter]:
    assert agent.objective is not None
    (group,) = agent.objective.parameter_groups(agent.networks.encoder)
    return list(group.parameters)


def test_mlr_step(golden: Load) -> None:
    file, agent = golden("dmc_cd_mlr_step_given_aug"), published_agent(golden)
    sequence, inputs = sequences(golden)
    batch, _ = transitions(golden)
    batch = Batch(**(vars(batch) | {"sequence": sequence}))
    noise = mlr_noise(inputs, centred=False)
    assert agent.objective is not None
    loss, _ = agent.objective.loss(agent.networks.encoder, batch, noise)
    loss.backward()
    seen = gradients(agent)
    agent.networks.zero_grad()
    agent.objective.zero_grad()

    agent.update_step = 3000
    agent.set_schedules()
    assert agent.objective_optimizer is not None
    (rate,) = agent.objective_optimizer.learning_rates
    assert rate.item() == pytest.approx(float(file["lr_used"]), rel=1e-6)
    noise = sac_noise(torch.zeros(5, 3), torch.zeros(5, 3), noise)
    metrics = agent.update_objective(batch, noise)
    file.check("grad_total_norm", metrics["gradient_norm/objective"])
    after = {key: value for key, value in export_official(agent).items() if key != "log_alpha"}
    check_steps(file, "after_step/", after, seen)
    agent.update_step = 3001
    agent.set_schedules()
    assert rate.item() == pytest.approx(float(file["lr_after_scheduler_step"]), rel=1e-6)


def test_learning_rate_schedule(golden: Load) -> None:
    file = golden("dmc_d_lr_schedule")
    for k, factor, rate in zip(
        file["steps"].tolist(), file["factor"], file["lr_used_at_update_k"], strict=True
    ):
        mine = warmup_inverse_sqrt(k, int(file["warmup"]), 5e-4)
        assert mine == pytest.approx(factor, rel=1e-9)
        assert mine * float(file["base_lr"]) == pytest.approx(rate, rel=1e-9)
    cfg = agent_cfg("mlr_official")
    assert cfg["warmup_updates"] == int(file["warmup"])
    base = cfg["critic_learning_rate"] * cfg["objective_learning_rate_scale"]
    assert base == pytest.approx(float(file["base_lr"]))


def test_critic_update(golden: Load) -> None:
    file, agent = golden("dmc_e_sac"), published_agent(golden, "sac")
    batch, inputs = transitions(golden)
    networks, noise = agent.networks, sac_noise(inputs.tensor("noise")[0], torch.zeros(5, 3))
    next_images = to_float(batch.next_obs.dense())
    mean, log_std = networks.actor(networks.encoder.features(next_images))
    action, log_prob = squashed_gaussian(mean, log_std, noise.next_action[0])
    file.check("next/mu", mean.tanh())
    file.check("next/pi", action)
    file.check("next/log_std", log_std)
    file.check("next/log_pi", log_prob.unsqueeze(-1))
    values = networks.critic_target(networks.encoder_target(next_images), action)
    target = agent.critic_target(batch, noise)
    file.check("next/target_Q", target.unsqueeze(-1))
    by_hand = soft_target(
        values[:, None],
        log_prob[None],
        networks.log_temperature.exp(),
        batch.reward,
        batch.terminated,
        agent.settings.discount,
    )
    torch.testing.assert_close(by_hand, target)
    current = networks.critic(networks.encoder(to_float(batch.obs.dense())), batch.action)
    for i, key in enumerate(("cur/q1", "cur/q2")):
        file.check(key, current[i].unsqueeze(-1))
    loss = (current - target).square().mean(dim=1).sum()
    loss.backward()
    seen = _below("critic/", gradients(agent))
    for key in file.names("critic_grad/"):
        file.check(f"critic_grad/{key}", seen[key])
    networks.zero_grad()
    metrics = agent.update_critic(batch, noise)
    file.check("critic_loss", metrics["loss/critic"])
    check_steps(file, "critic_after/", _below("critic/", export_official(agent)), seen)


def _below(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in values.items() if key.startswith(prefix)}
    return {key.removeprefix(prefix): value for key, value in found.items()}


def test_actor_and_temperature_update(golden: Load) -> None:
    file, agent = golden("dmc_e_sac"), published_agent(golden, "sac")
    batch, inputs = transitions(golden)
    networks, normal = agent.networks, inputs.tensor("noise")[1]
    features = networks.encoder.features(to_float(batch.obs.dense())).detach()
    mean, log_std = networks.actor(features)
    action, log_prob = squashed_gaussian(mean, log_std, normal)
    values = networks.critic(networks.encoder.latent(features), action)
    temperature = networks.log_temperature.exp()
    file.check("alpha_before", temperature, rtol=1e-6)
    loss = actor_loss(values, log_prob, temperature.detach())
    file.check("actor_loss", loss)
    term = temperature_loss(networks.log_temperature, log_prob, agent.target_entropy)
    file.check("alpha_loss", term)
    assert agent.target_entropy == float(file["target_entropy"])
    (loss + term).backward()
    file.check("log_alpha_grad", networks.log_temperature.grad)
    seen = _below("actor/", gradients(agent))
    for key in seen:
        file.check(f"actor_grad/{key}", seen[key])
    for layer in networks.encoder.convolutions.parameters():
        assert layer.grad is None
    networks.zero_grad()

    before = export_official(agent)
    metrics = agent.update_actor(batch, sac_noise(torch.zeros(5, 3), normal))
    file.check("actor_loss", metrics["loss/actor"])
    file.check("alpha_loss", metrics["loss/temperature"])
    after = export_official(agent)
    check_steps(file, "actor_after/", _below("actor/", after), seen)
    file.check("log_alpha_after", after["log_alpha"], rtol=1e-6)
    for key in after:
        if not key.startswith(("actor/", "log_alpha")):
            assert torch.equal(after[key], before[key]), key


def test_action(golden: Load) -> None:
    file, agent = golden("dmc_e_sac"), published_agent(golden, "sac")
    batch, _ = transitions(golden)
    action = agent.act(batch.obs.dense()[:1])
    file.check("select_action", action[0])


def test_soft_updates(golden: Load) -> None:
    file, agent = golden("dmc_e_sac"), published_agent(golden)
    agent.update_targets()
    mine = export_official(agent)
    for key in file.names("soft_q1_tau0.01/"):
        file.check(f"soft_q1_tau0.01/{key}", mine[f"critic_target/Q1.{key}"], rtol=1e-6)
    for key in file.names("soft_enc_tau0.05/"):
        file.check(f"soft_enc_tau0.05/{key}", mine[f"critic_target/encoder.{key}"], rtol=1e-6)
    weights = golden("dmc_agent_weights").tensors("")
    for target, online in (
        ("MTM/target_encoder.convs.1.weight", "critic/encoder.convs.1.weight"),
        ("MTM/target_encoder.fc.weight", "critic/encoder.fc.weight"),
        ("MTM/global_target_classifier.2.weight", "MTM/global_classifier.2.weight"),
    ):
        expected = 0.95 * weights[target] + 0.05 * weights[online]
        torch.testing.assert_close(mine[target], expected)


def test_weights_go_in_and_come_out(golden: Load) -> None:
    weights = golden("dmc_agent_weights").tensors("")
    exported = export_official(published_agent(golden))
    assert exported.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(exported[name], value), name


def test_wrong_names_are_all_listed_and_nothing_is_loaded(golden: Load) -> None:
    agent = published_agent(golden)
    before = export_official(agent)
    weights = golden("dmc_agent_weights").tensors("")
    del weights["critic/Q1.trunk.0.weight"]
    weights["MTM/action_predictor.0.weight"] = torch.zeros(1)
    weights["actor/trunk.4.bias"] = torch.zeros(5)
    weights["log_alpha"] = torch.zeros(())
    with pytest.raises(ConfigError) as caught:
        load_official(agent, weights)
    for words in (
        "missing critic/Q1.trunk.0.weight",
        "unknown MTM/action_predictor.0.weight",
        r"actor/trunk.4.bias is (5,), not (6,)",
    ):
        assert words in str(caught.value)
    after = export_official(agent)
    assert all(torch.equal(after[name], before[name]) for name in before)
