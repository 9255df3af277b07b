"""The agent: when its parts are due, views, acting, precision."""

import dataclasses

import torch
from small_agents import make_agent, make_batch

from mlr_dmcontrol.batch import UpdateNoise
from mlr_dmcontrol.run.seeding import Streams


def test_actor_and_targets_are_due_by_the_agent_step() -> None:
    agent = make_agent("sac", actor_update_every=2, target_update_every=3)
    due = [agent.due(step) for step in range(6)]
    assert [each["actor_step"] for each in due] == [True, False, True, False, True, False]
    assert [each["target_step"] for each in due] == [True, False, False, True, False, False]


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
    torch.testing.assert_close(agent.critic_terms(batch, noise)[0].detach(), expected)
    # The actor sees the first view only.
    torch.testing.assert_close(
        agent.actor_terms(batch, noise)[0], one.actor_terms(batch, view(0))[0]
    )


def test_acting_uses_the_centre_and_the_given_noise() -> None:
    agent = make_agent("sac")
    obs = make_batch(agent).obs.dense()
    border = obs.clone()
    border[..., :8, :] = 0
    border[..., :, 92:] = 255
    action = agent.act(obs)
    assert (action.shape, action.dtype) == ((6, 3), torch.float32)
    assert torch.equal(action, agent.act(border))
    assert not torch.equal(action, agent.act(255 - obs))
    assert torch.equal(action, agent.act(obs, torch.zeros(6, 3)))
    assert (agent.act(obs, torch.ones(6, 3)) > action).all()


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
