"""One update of the agent and its order."""

from dataclasses import replace

import pytest
import torch
from agents import run_updates, small_agent, synthetic_batch, updated
from torch import Tensor

from mlr_atari.rainbow import Rainbow
from mlr_atari.run.seeding import Streams


def _weights(agent: Rainbow) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in agent.network.state_dict().items()}


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_target_keeps_the_noise_of_the_last_update() -> None:
    """A copy takes the noise along; during the next update only the online noise is new."""
    agent = small_agent("rainbow")
    first, second = (agent.draw_noise(Streams(seed)) for seed in (1, 2))
    updated(agent, synthetic_batch(0), first)
    old = agent.target_network.head.noise.clone()
    assert torch.equal(old, first.head.sign() * first.head.abs().sqrt())
    seen: list[Tensor] = []
    handle = agent.target_network.head.register_forward_hook(
        lambda head, *_: seen.append(head.noise.clone())
    )
    updated(agent, synthetic_batch(1), second)
    handle.remove()
    assert [torch.equal(noise, old) for noise in seen] == [True]
    fresh = replace(second, target_head=torch.zeros_like(second.head))
    agent.update(synthetic_batch(1), fresh, copy_target=False)
    assert torch.equal(agent.target_network.head.noise, fresh.target_head)


@pytest.mark.parametrize("name", ["der", "der_published", "curl_published"])
def test_targets_are_copied_at_multiples_of_the_interval_whenever_updates_began(name: str) -> None:
    """As published, steps are counted from 1; updates begin at 1,600."""
    agent = small_agent(name, num_filters=[4, 2] if "published" in name else [4, 4, 2])
    steps = range(agent.settings.learning_starts, 6500)
    assert [step + 1 for step in steps if agent.due(step)["copy_target"]] == [2000, 4000, 6000]


def test_between_two_copies_the_target_stays() -> None:
    agent = small_agent("rainbow", target_update_interval=3)
    run_updates(agent, 1)  # at agent step 2,001 = 3 * 667, counted from 1
    copied = _weights(agent)
    assert _same(dict(agent.target_network.state_dict()), copied)
    run_updates(agent, 2)
    assert _same(dict(agent.target_network.state_dict()), copied)
    run_updates(agent, 1)
    assert _same(dict(agent.target_network.state_dict()), _weights(agent))


def test_two_draws_average_the_targets_and_the_losses() -> None:
    agent = small_agent("rainbow", num_target_augmentations=2, num_q_augmentations=2)
    noise, batch = agent.draw_noise(Streams(1)), synthetic_batch(0)
    alone = small_agent("rainbow")
    for each in (agent, alone):
        each.network.head.redraw(noise.head)
    views = []
    for view in (slice(0, 1), slice(1, 2)):
        parts = {name: getattr(noise, name).select(view) for name in ("n_step_obs", "selection")}
        views.append(replace(noise, obs=noise.obs.select(view), **parts))
    targets = [alone._regression_target(batch, view) for view in views]
    target = agent._regression_target(batch, noise)
    assert not torch.allclose(targets[0], targets[1], atol=1e-4)
    assert torch.allclose(target, (targets[0] + targets[1]) / 2, atol=1e-6)
    expected = torch.zeros(())
    for view in views:
        outputs = alone._outputs(alone.network, batch.obs.select(0), view.obs, 1)
        losses, _ = alone.values.loss(outputs, batch.action[0], target)
        expected = expected + (batch.importance_weights * losses[0]).mean() / 2
    torch.testing.assert_close(agent.rl_loss(batch, noise)[0], expected)


def test_scalar_double_q_learning() -> None:
    """DrQ: y = R + discount * target(argmax of online), Huber; the same view for both networks."""
    agent = small_agent("rainbow", values="scalar", noisy_sigma=None, separate_selection_draw=False)
    noise, batch = agent.draw_noise(Streams(1)), synthetic_batch(0)
    assert noise.selection is None
    assert len(noise.head) == 0
    later = agent.augmentation(batch.n_step_obs.select(None), noise.n_step_obs)
    values = agent.network(later, noisy=False).squeeze(-1).detach()
    target = batch.n_step_return + batch.bootstrap_discount * values.amax(-1)
    views = agent.augmentation(batch.obs.select(slice(0, 1)), noise.obs)
    predicted = agent.network(views, noisy=False).squeeze(-1)[torch.arange(3), batch.action[0]]
    losses = torch.nn.functional.huber_loss(predicted, target, reduction="none")
    metrics, _ = updated(agent, batch, noise)
    expected = (losses * batch.importance_weights).mean().item()
    assert metrics["loss/rl"].item() == pytest.approx(expected, rel=1e-5)


def test_bfloat16_stays_close_and_weights_stay_float32() -> None:
    exact, rough = small_agent("mlr"), small_agent("mlr", precision="bf16")
    ours, theirs = run_updates(exact, 2)[-1], run_updates(rough, 2)[-1]
    for name in ("loss/rl", "loss/mlr"):
        assert theirs[name].item() != ours[name].item()
        assert theirs[name].item() == pytest.approx(ours[name].item(), rel=0.05)
    assert {each.dtype for each in rough.network.parameters()} == {torch.float32}
    assert rough.network.encoder(torch.rand(1, 4, 84, 84)).dtype == torch.float32
