"""SPR and PlayVirtual by brute force, and the dynamics, cycles and distance that they share."""

from __future__ import annotations

import pytest
import torch
from small_agents import agent_cfg, make_batch, objective_of, tiny
from torch import Tensor, nn

from mlr_dmcontrol.augmentation import AugmentationNoise, to_float
from mlr_dmcontrol.objectives.heads import distance
from mlr_dmcontrol.objectives.playvirtual import PlayVirtual, cycle_ramp
from mlr_dmcontrol.objectives.spr import SPR
from mlr_dmcontrol.objectives.transition import cycle, rollout
from mlr_dmcontrol.run.seeding import Streams
from mlr_dmcontrol.sac import SAC


def still(*lead: int) -> AugmentationNoise:
    """Centre crops of images of 32 to 28 pixels."""
    return AugmentationNoise(offsets=torch.full((*lead, 2), 2))


# --- dynamics, cycles, distance -------------------------------------------------------------------


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_rollout_indexing() -> None:
    def model(latent: Tensor, action: Tensor) -> Tensor:
        return 10 * latent + action

    assert rollout(model, numbers(0)[0], numbers(1, 2, 3)).flatten().tolist() == [1, 12, 123]


def test_cycle_takes_actions_back_last_first() -> None:
    def forward(latent: Tensor, action: Tensor) -> Tensor:
        return 10 * latent + action

    def backward(latent: Tensor, action: Tensor) -> Tensor:
        return (latent - action) / 10

    start, actions = numbers(0)[0], numbers(1, 2)
    assert cycle(forward, backward, start, actions).item() == 0
    wrong = rollout(backward, rollout(forward, start, actions)[-1], actions)[-1]
    assert wrong.item() == pytest.approx(-0.09)


@pytest.mark.parametrize(
    "step, expected",
    [
        (0, 0.006739),
        (2000, 0.009974),
        (12_000, 0.055696),
        (25_000, 0.286533),
        (40_000, 0.818764),
        (49_999, 1),
        (50_000, 1),
        (400_000, 1),
    ],
)
def test_cycle_ramp(step: int, expected: float) -> None:
    assert cycle_ramp(step, 50_000) == pytest.approx(expected, abs=1e-6)


def test_the_ramp_counts_env_steps_from_the_start_of_the_run() -> None:
    agent = tiny("playvirtual", cycle_ramp_action_repeat=8)
    assert agent_cfg("playvirtual")["cycle_ramp_env_steps"] == 50_000
    objective = objective_of(agent)
    for agent_step, env_step in ((1000, 8000), (4000, 32_000), (6250, 50_000)):
        agent.set_schedules(agent_step)
        assert objective.ramp.item() == pytest.approx(cycle_ramp(env_step, 50_000))


# --- SPR and PlayVirtual --------------------------------------------------------------------------


def spr_loss_by_hand(agent: SAC, first: list[Tensor], later: list[list[Tensor]], actions) -> Tensor:
    """Window by window, step by step; `first` (B'), `later` (K)(B') images of each window."""
    objective, encoder = agent.objective, agent.networks.encoder
    assert isinstance(objective, SPR)
    terms = []
    for b, image in enumerate(first):
        latent = encoder(image[None])
        for k, images in enumerate(later):
            latent = objective.dynamics(latent, actions[k, b][None])
            y = objective.predictor(objective.projection(latent))[0]
            target = objective.target_encoder.target(images[b][None])
            target = objective.target_projection.target(target)[0].detach()
            y, target = (v / max(v.norm().item(), 1e-3) for v in (y, target))
            terms.append((y - target).square().sum())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("name", ["spr", "playvirtual"])
def test_spr_by_hand(name: str) -> None:
    agent = tiny(name)
    objective, batch = objective_of(agent), make_batch(agent, size=32)
    assert isinstance(objective, SPR)
    with torch.no_grad():
        for each in agent.networks.encoder.parameters():
            each.add_(0.01)  # online and momentum networks differ
    noise = agent.draw_noise(Streams(0)).objective
    assert noise.first.offsets.shape == (3, 2)
    assert noise.target.offsets.shape == (3, 3, 2)
    obs, dense = batch.sequence.obs, batch.sequence.obs.dense()

    def image(k: int, b: int, draw: AugmentationNoise, *key: int) -> Tensor:
        row, column = draw.offsets[key].tolist()
        return (
            to_float(dense[k, b, None, :, row : row + 28, column : column + 28])[0]
            * (draw.intensity[key])
        )

    first = [image(0, b, noise.first, b) for b in range(3)]
    later = [[image(k + 1, b, noise.target, k, b) for b in range(3)] for k in range(3)]
    expected = spr_loss_by_hand(agent, first, later, batch.sequence.action)
    latent = objective.first_latent(agent.networks.encoder, batch.sequence, noise)
    found = objective.prediction_loss(latent, batch.sequence, noise)
    torch.testing.assert_close(found, expected)
    assert obs.lead == (4, 3)


class _Same(nn.Module):
    """Dynamics that ignore the action, or add a map of it."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        return latent + self.weight * action.sum(-1, keepdim=True)


@pytest.mark.parametrize("cycles, steps", [(1, 1), (3, 2), (2, 5)])
def test_identical_dynamics_return_home(cycles: int, steps: int) -> None:
    agent = tiny("playvirtual", num_cycles=cycles, cycle_steps=steps)
    objective, batch = objective_of(agent), make_batch(agent, size=32)
    assert isinstance(objective, PlayVirtual)
    noise = agent.draw_noise(Streams(0)).objective
    assert noise.virtual_actions.shape == (steps, cycles, 3, 3)
    assert noise.virtual_actions.abs().max() <= 1
    noise = type(noise)(still(3), still(3, 3), noise.virtual_actions, still(cycles, 3), still(2, 3))
    objective.predictor = nn.Sequential()
    losses = []
    for weight in (0.0, 0.7):
        objective.dynamics = objective.reverse_dynamics = _Same(weight)
        latent = objective.first_latent(agent.networks.encoder, batch.sequence, noise)
        losses.append(objective.cycle_loss(latent, batch.sequence, noise).item())
    assert losses[0] == pytest.approx(0, abs=1e-9)
    assert losses[1] > 1e-3


def test_each_cycle_has_its_own_target_and_actions() -> None:
    agent = tiny("playvirtual", num_cycles=4)
    noise = agent.draw_noise(Streams(0)).objective
    batch = make_batch(agent, size=32)
    objective, encoder = objective_of(agent), agent.networks.encoder
    assert isinstance(objective, PlayVirtual)
    assert len(noise.home.offsets.flatten(0, 1).unique(dim=0)) > 3
    latent = objective.first_latent(encoder, batch.sequence, noise)
    terms = []
    for m in range(4):
        end = cycle(
            objective.dynamics, objective.reverse_dynamics, latent, noise.virtual_actions[:, m]
        )
        images = objective.augmentation(batch.sequence.obs.select(0), noise.home.select(m))
        target = objective.target_projection(objective.target_encoder(images))
        terms.append(distance(objective.predictor(objective.projection(end)), target))
    torch.testing.assert_close(
        objective.cycle_loss(latent, batch.sequence, noise), torch.stack(terms).mean()
    )


def test_playvirtual_adds_up_its_parts() -> None:
    weights = {
        "prediction_weight": 3.0,
        "cycle_weight": 2.0,
        "backward_weight": 0.5,
        "real_cycle_weight": 0.25,
    }
    agent = tiny("playvirtual", **weights)
    objective, batch = objective_of(agent), make_batch(agent, size=32)
    assert isinstance(objective, PlayVirtual)
    noise, encoder = agent.draw_noise(Streams(0)).objective, agent.networks.encoder
    objective.ramp.fill_(0.3)
    latent = objective.first_latent(encoder, batch.sequence, noise)
    expected = (
        3.0 * objective.prediction_loss(latent, batch.sequence, noise)
        + 0.3 * 2.0 * objective.cycle_loss(latent, batch.sequence, noise)
        + 0.5 * objective.backward_loss(encoder, batch.sequence, noise)
        + 0.3 * 0.25 * objective.real_cycle_loss(latent, batch.sequence, noise)
    )
    torch.testing.assert_close(objective.loss(encoder, batch, noise)[0], expected)


@pytest.mark.parametrize("name", ["spr", "spr_published", "playvirtual", "playvirtual_published"])
def test_how_momentum_networks_start(name: str) -> None:
    objective = objective_of(tiny(name))
    assert isinstance(objective, SPR)
    online, target = objective.projection, objective.target_projection.target
    pairs = zip(online.parameters(), target.parameters(), strict=True)
    copied = all(torch.equal(first, second) for first, second in pairs)
    assert copied != name.endswith("published")
    # PyTorch's default: uniform within 1/sqrt(inputs).
    assert objective.dynamics.first.weight.abs().max().item() == pytest.approx(53**-0.5, rel=0.05)
    assert objective.predictor[0].weight.abs().max().item() == pytest.approx(50**-0.5, rel=0.05)
