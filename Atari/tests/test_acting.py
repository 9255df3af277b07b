"""Acting: greedy in the noise that is kept, chance by its draws; exploration's schedules."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from agents import agent_settings, small_agent
from torch import Tensor

from mlr_atari.batch import ActionNoise
from mlr_atari.rainbow import evaluation_noise
from mlr_atari.run.seeding import Streams
from mlr_atari.settings import agent_settings as checked


def _obs(count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 4, 84, 84), generator=generator, dtype=torch.uint8)


def test_acting_is_greedy_in_the_kept_noise_and_random_below_epsilon() -> None:
    agent = small_agent("rainbow")
    agent.network.head.redraw(5 * torch.randn(agent.network.head.noise_size))
    with torch.no_grad():
        outputs = [agent.network(_obs() / 255, noisy=noisy) for noisy in (True, False)]
    noisy, plain = ((each.softmax(-1) @ torch.linspace(-10, 10, 51)).argmax(-1) for each in outputs)
    random = torch.full((5,), 3)
    noise = ActionNoise(torch.tensor([0.29, 0.29, 0.3, 0.3, 0.9]), random, None)
    assert torch.equal(agent.act(_obs(), noise, 0.0), noisy)
    assert torch.equal(agent.act(_obs(), noise, 0.0, noisy=False), plain)
    assert not torch.equal(outputs[0], outputs[1])
    assert torch.equal(agent.act(_obs(), noise, 0.3), torch.cat([random[:2], noisy[2:]]))


def test_an_evaluation_acts_at_random_by_each_games_own_draws() -> None:
    agent = small_agent("rainbow", epsilon_evaluation=0.5)
    generators, same = ([np.random.default_rng(seed) for seed in range(5)] for _ in range(2))
    noise = evaluation_noise(same, 4)
    assert 0 < (noise.uniform < 0.5).sum() < 5
    actions = torch.from_numpy(agent.evaluation_policy(_obs().numpy(), generators))
    assert torch.equal(actions, agent.act(_obs(), noise, 0.5, noisy=False))


def test_action_noise_is_uniform_and_redraws_the_head_if_asked() -> None:
    agent = small_agent("rainbow", redraw_noise_to_act=True)
    noise = agent.draw_action_noise(Streams(0), 4000)
    counts = torch.bincount(noise.random_action, minlength=4)
    assert len(counts) == 4
    assert (counts - 1000).abs().max() < 150
    assert noise.uniform.min() >= 0
    assert noise.uniform.max() < 1
    assert noise.head is not None
    before = agent.network.head.noise.clone()
    few = ActionNoise(noise.uniform[:5], noise.random_action[:5], noise.head)
    agent.act(_obs(), few, 0.0, noisy=False)
    assert torch.equal(agent.network.head.noise, before)
    agent.act(_obs(), few, 0.0)
    assert torch.equal(agent.network.head.noise, noise.head.sign() * noise.head.abs().sqrt())
    assert small_agent("rainbow").draw_action_noise(Streams(0), 1).head is None


def test_schedules_match_published(golden: Callable[[str], Any]) -> None:
    file = golden("atari_l_replay_rlpyt_b32d589")
    settings = checked(agent_settings("rainbow"))
    pairs = zip(file["eps_schedule/itr"], file["eps_schedule/eps"], strict=True)
    assert [settings.epsilon(int(step)) for step, _ in pairs] == list(file["eps_schedule/eps"])
    assert settings.epsilon_evaluation == file["eps_schedule/eval_eps_itr0_later"][1]
    steps, exponents = file["beta_schedule/itr"], file["beta_schedule/beta_after_itr"]
    ours = [settings.importance_exponent(int(step)) for step in steps]
    assert ours == pytest.approx(list(exponents), abs=1e-7)
