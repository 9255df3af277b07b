"""The agent: what each loss trains, the order of an update, views, acting."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from small_agents import make_agent, make_batch

from mlr_dmcontrol.batch import UpdateNoise
from mlr_dmcontrol.run.seeding import Streams
from mlr_dmcontrol.sac import SAC


def _weights(agent: SAC) -> dict[str, torch.Tensor]:
    weights = {f"networks.{k}": v.clone() for k, v in agent.networks.state_dict().items()}
    if agent.objective is not None:
        weights |= {f"objective.{k}": v.clone() for k, v in agent.objective.state_dict().items()}
    return weights


def _changed(agent: SAC, before: dict[str, torch.Tensor]) -> set[str]:
    """First parts of the names of all weights that differ now."""
    after = _weights(agent)
    names = (name for name in before if not torch.equal(before[name], after[name]))
    return {".".join(name.split(".")[:3]) for name in names}


def test_each_step_trains_its_own_part() -> None:
    agent = make_agent("mlr")
    batch, noise = make_batch(agent), agent.draw_noise(Streams(0))
    steps: dict[str, tuple[Callable[[], object], str]] = {
        "networks": (
            lambda: agent.update_critic(batch, noise),
            "encoder.convolutions encoder.head critic.first critic.second",
        ),
        "objective": (
            lambda: agent.update_objective(batch, noise),
            "decoder.action_embedding decoder.blocks projection.0 projection.2 predictor.0"
            " predictor.2 networks.encoder.convolutions networks.encoder.head",
        ),
        "actor": (
            lambda: agent.update_actor(batch, noise),
            "networks.actor.head networks.actor.trunk networks.log_temperature",
        ),
        "targets": (
            agent.update_targets,
            "networks.encoder_target.target networks.critic_target.target"
            " objective.target_encoder.target objective.target_projection.target",
        ),
    }
    for part, (step, names) in steps.items():
        before = _weights(agent)
        step()
        known = ("networks.", "objective.")
        expected = {each if each.startswith(known) else f"{part}.{each}" for each in names.split()}
        assert _changed(agent, before) == expected
        trained = [*agent.networks.parameters(), *agent.objective.parameters()]
        assert all(parameter.grad is None for parameter in trained)


def test_actor_and_targets_are_due_by_the_agent_step() -> None:
    agent = make_agent("sac", actor_update_every=2, target_update_every=3)
    due = [agent.due(step) for step in range(6)]
    assert [each["actor_step"] for each in due] == [True, False, True, False, True, False]
    assert [each["target_step"] for each in due] == [True, False, False, True, False, False]
    before = _weights(agent)
    agent.update(make_batch(agent), agent.draw_noise(Streams(0)), **due[1])
    assert not any("actor" in name or "target" in name for name in _changed(agent, before))


def test_state_of_another_agent_is_refused() -> None:
    with pytest.raises((RuntimeError, ValueError, KeyError)):
        make_agent("mlr").load_state_dict(make_agent("sac").state_dict())
    with pytest.raises((RuntimeError, ValueError, KeyError)):
        make_agent("sac", hidden_dim=8).load_state_dict(make_agent("sac").state_dict())


def test_two_draws_average_the_target_and_sum_the_loss() -> None:
    agent = make_agent("sac", num_target_augmentations=2, num_q_augmentations=2)
    one = make_agent("sac")
    one.networks.load_state_dict(agent.networks.state_dict())
    batch, noise = make_batch(agent), agent.draw_noise(Streams(0))

    def view(i: int) -> UpdateNoise:
        key = slice(i, i + 1)
        return dataclasses.replace(
            noise,
            obs=noise.obs.select(key),
            next_obs=noise.next_obs.select(key),
            next_action=noise.next_action[key],
        )

    targets = [one.critic_target(batch, view(i)) for i in range(2)]
    target = agent.critic_target(batch, noise)
    torch.testing.assert_close(target, (targets[0] + targets[1]) / 2)
    expected = torch.zeros(())
    for i in range(2):
        images = one.augmentation(batch.obs, view(i).obs.select(0))
        values = one.networks.critic(one.networks.encoder(images), batch.action)
        expected += (values - target).square().mean(dim=1).sum().detach()
    torch.testing.assert_close(agent.update_critic(batch, noise)["loss/critic"], expected)
    # The actor sees the first view only.
    actor = copy.deepcopy(one)
    actor.networks.load_state_dict(agent.networks.state_dict())
    torch.testing.assert_close(
        agent.update_actor(batch, noise)["loss/actor"],
        actor.update_actor(batch, view(0))["loss/actor"],
    )


def test_acting_uses_the_centre_and_the_given_noise() -> None:
    agent = make_agent("sac")
    obs = make_batch(agent).obs.dense()
    border = obs.clone()
    border[..., :8, :] = 0
    border[..., :, 92:] = 255
    action = agent.act(obs)
    assert action.shape == (6, 3)
    assert action.dtype == torch.float32
    assert torch.equal(action, agent.act(border))
    assert not torch.equal(action, agent.act(255 - obs))
    assert torch.equal(action, agent.act(obs, torch.zeros(6, 3)))
    noisy = agent.act(obs, torch.ones(6, 3))
    assert (noisy > action).all()
    torch.testing.assert_close(agent.act(obs[2:3]), action[2:3])


def test_bf16_stays_close_and_keeps_float32_weights() -> None:
    exact, rough = make_agent("mlr"), make_agent("mlr", precision="bf16")
    online, target = rough.networks.encoder, rough.networks.encoder_target.target
    assert online.autocast_dtype == target.autocast_dtype == torch.bfloat16
    batch, noise = make_batch(exact), exact.draw_noise(Streams(0))
    mine = exact.update(batch, noise, actor_step=True, target_step=True)
    theirs = rough.update(batch, noise, actor_step=True, target_step=True)
    for name in ("loss/critic", "loss/mlr", "loss/actor"):
        assert theirs[name].dtype == torch.float32
        torch.testing.assert_close(theirs[name], mine[name], rtol=0.05, atol=0.05)
    assert all(p.dtype == torch.float32 for p in rough.networks.parameters())
