"""One update of the agent, its order and its state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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


def test_averaging_equal_draws_changes_nothing() -> None:
    """Two Q and three target draws that happen to be equal: the update of one draw."""
    many = small_agent("rainbow", num_q_augmentations=2, num_target_augmentations=3)
    single = small_agent("rainbow")
    noise = single.draw_noise(Streams(1))

    def repeated(draw: Any, count: int) -> Any:
        return draw.select(torch.zeros(count, dtype=torch.int64))

    copies = replace(
        noise,
        obs=repeated(noise.obs, 2),
        n_step_obs=repeated(noise.n_step_obs, 3),
        selection=repeated(noise.selection, 3),
    )
    ours, our_priorities = updated(many, synthetic_batch(0), copies)
    theirs, their_priorities = updated(single, synthetic_batch(0), noise)
    assert ours["loss/rl"].item() == pytest.approx(theirs["loss/rl"].item(), rel=1e-5)
    assert torch.allclose(our_priorities, their_priorities, rtol=1e-4)


def test_two_target_draws_average_the_distributions() -> None:
    agent = small_agent("rainbow", num_target_augmentations=2)
    noise, batch = agent.draw_noise(Streams(1)), synthetic_batch(0)
    agent.network.head.redraw(noise.head)
    both = agent._regression_target(batch, noise)

    def one(index: int) -> Tensor:
        alone = small_agent("rainbow")
        alone.network.head.redraw(noise.head)
        view = slice(index, index + 1)
        single = replace(
            noise, n_step_obs=noise.n_step_obs.select(view), selection=noise.selection.select(view)
        )
        return alone._regression_target(batch, single)

    assert not torch.allclose(one(0), one(1), atol=1e-4)
    assert torch.allclose(both, (one(0) + one(1)) / 2, atol=1e-6)


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


# ---- state ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rainbow", "mlr"])
def test_continuing_from_a_state_dict_is_exact(name: str) -> None:
    agent, other = small_agent(name, seed=1), small_agent(name, seed=2)
    run_updates(agent, 2)
    run_updates(other, 1)  # so that it has moments of its own to overwrite
    address = {key: value.data_ptr() for key, value in other.network.state_dict().items()}
    other.load_state_dict(_through_a_file(agent.state_dict()))
    assert {k: v.data_ptr() for k, v in other.network.state_dict().items()} == address
    assert other.update_step == 2
    for ours, theirs in zip(run_updates(agent, 3, 8), run_updates(other, 3, 8), strict=True):
        assert _same(ours, theirs)
    assert _same(_weights(agent), _weights(other))


def _through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
