"""Goldens: SAC's stored numbers of the published code, and its weights under their names."""

from typing import Any

import pytest
import torch
from golden_agent import Load, check_steps, gradients, published_agent, sac_noise, transitions
from small_agents import agent_cfg, build_agent
from torch import nn

from mlr_dmcontrol.augmentation import to_float
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.losses import actor_loss, squashed_gaussian, temperature_loss
from mlr_dmcontrol.official import export_official, load_official


def test_initialisation_has_the_published_statistics(golden: Load) -> None:
    file, cfg = golden("dmc_a2_init_statistics"), agent_cfg("sac", num_filters=8, hidden_dim=64)
    agent = build_agent(cfg, obs_shape=(9, 100, 100), action_dim=2, device="cpu", seed=0)
    encoder, critic = agent.encoder, agent.networks.critic.first[0]
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
    file.check("q1_l0_gram", critic.weight.T @ critic.weight, atol=1e-5)


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
    target = agent.critic_target(batch, noise)
    file.check("next/target_Q", target.unsqueeze(-1))
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
    return {key.removeprefix(prefix): values[key] for key in values if key.startswith(prefix)}


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
    assert all(layer.grad is None for layer in networks.encoder.convolutions.parameters())
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
    file.check("select_action", agent.act(transitions(golden)[0].obs.dense()[:1])[0])


def test_soft_updates(golden: Load) -> None:
    file, agent = golden("dmc_e_sac"), published_agent(golden)
    agent.update_targets()
    mine = export_official(agent)
    for stored, part in (("soft_q1_tau0.01/", "Q1"), ("soft_enc_tau0.05/", "encoder")):
        for key in file.names(stored):
            file.check(f"{stored}{key}", mine[f"critic_target/{part}.{key}"], rtol=1e-6)
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
    for name in ("Q1.trunk.0.weight", "MTM/action_predictor.0.weight", "actor/trunk.4.bias"):
        assert name in str(caught.value)
    after = export_official(agent)
    assert all(torch.equal(after[name], before[name]) for name in before)
