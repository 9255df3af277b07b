"""What every objective of the folder, and every agent file, must keep to."""

import dataclasses
import io
from typing import Any

import pytest
import torch
from small_agents import (
    agent_cfg,
    batch_for,
    build_agent,
    diagnostics,
    make_batch,
    objective_of,
    preview,
    tiny,
    updates,
)
from torch import Tensor

from mlr_dmcontrol.batch import UpdateNoise
from mlr_dmcontrol.cost import update_cost
from mlr_dmcontrol.momentum import MomentumTarget
from mlr_dmcontrol.networks import Encoder
from mlr_dmcontrol.objectives import available
from mlr_dmcontrol.run.seeding import Streams
from mlr_dmcontrol.settings import LAYOUT, load

OBJECTIVES = sorted(available())
AGENTS, PRESETS = LAYOUT.options("agent"), LAYOUT.options("preset")
DUE = {"actor_step": True, "target_step": True}


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


# --- every agent file -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_updates_are_finite_and_report_what_they_name(name: str) -> None:
    agent = tiny(name)
    before = {key: value.clone() for key, value in agent.networks.state_dict().items()}
    first, second = updates(agent, 2)
    assert set(first) == set(agent.metric_names) > set(second)
    for values in (first, second):
        assert all(each.isfinite() and each.ndim == 0 for each in values.values())
        assert not any(each.requires_grad for each in values.values())
        assert all(values[key] > 0 for key in values if key.startswith("gradient_norm/"))
    after = agent.networks.state_dict()
    changed = {key.split(".")[0] for key in after if not torch.equal(before[key], after[key])}
    assert changed == {key.split(".")[0] for key in after}


@pytest.mark.parametrize("name", AGENTS)
def test_restored_agents_go_on_exactly(name: str) -> None:
    agent, other = tiny(name, seed=1), tiny(name, seed=2)
    updates(agent, 2)
    saved = io.BytesIO()
    torch.save(agent.state_dict(), saved)
    saved.seek(0)
    other.load_state_dict(torch.load(saved, weights_only=True))
    assert same(updates(agent, 2, first=2), updates(other, 2, first=2))
    assert same(agent.state_dict(), other.state_dict())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", AGENTS)
def test_agents_work_at_every_preset(name: str, preset: str) -> None:
    fewer = {"batch_size": 2, "sequence_batch_size": 2, "num_filters": 4, "hidden_dim": 16}
    words = [f"scale.{key}={value}" for key, value in fewer.items()]
    cfg = load([f"agent={name}", f"preset={preset}", *words])
    side = cfg.environment.image_size
    agent = build_agent(cfg.agent, obs_shape=(9, side, side), action_dim=3, device="cpu", seed=0)
    batch = make_batch(agent, size=side)
    metrics = agent.update(batch, agent.draw_noise(Streams(1)), **DUE)
    assert all(value.isfinite() for value in metrics.values())


# --- every objective ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_weight_zero_is_sac_bit_for_bit(name: str) -> None:
    plain, zero = tiny("sac", seed=3), tiny(name, seed=3, **{f"{name}_weight": 0})
    assert zero.objective is None
    assert same(updates(plain, 3), updates(zero, 3))
    assert same(plain.state_dict(), zero.state_dict())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_by_itself_it_trains_the_encoder_and_nothing_of_rl(name: str) -> None:
    agent = tiny(name, rl=False)
    before = {key: value.clone() for key, value in agent.networks.state_dict().items()}
    (metrics,) = updates(agent, 1)
    assert set(metrics) == set(agent.metric_names) >= {f"loss/{name}"}
    after = agent.networks.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.partition(".")[0] for key in moved} <= {"encoder", "encoder_target"}
    assert "encoder.convolutions.0.weight" in moved
    assert update_cost(agent)[0] < update_cost(tiny(name))[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_first_weights_and_draws_of_the_agent_are_left_alone(name: str) -> None:
    plain, agent = tiny("sac", seed=3), tiny(name, seed=3)
    assert same(dict(plain.networks.state_dict()), dict(agent.networks.state_dict()))
    mine, theirs = (each.draw_noise(Streams(1)) for each in (plain, agent))
    for field in dataclasses.fields(UpdateNoise):
        if field.name != "objective":
            first, second = (getattr(each, field.name) for each in (mine, theirs))
            assert same(getattr(first, "offsets", first), getattr(second, "offsets", second))


@pytest.mark.parametrize(
    "changes",
    [
        {"latent_tanh": True},
        {"conv_init": "orthogonal"},
        {"conv_strides": (2, 1, 1, 1)},
        {"latent_dim": 10},
        {"precision": "bf16"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_works_with_every_encoder(name: str, changes: dict[str, Any]) -> None:
    agent = tiny(name, **changes)
    metrics = updates(agent, 1)[0]
    assert all(value.isfinite() and value.dtype == torch.float32 for value in metrics.values())
    assert all(each.dtype == torch.float32 for each in agent.networks.parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_goes_where_it_should_and_is_stepped_once(name: str) -> None:
    agent = tiny(name)
    networks, objective = agent.networks, objective_of(agent)
    noise = agent.draw_noise(Streams(1)).objective
    objective.loss(agent.encoder, batch_for(agent), noise)[0].backward()
    reached = {key for key, each in networks.named_parameters() if each.grad is not None}
    assert reached == {f"encoder.{key}" for key, _ in agent.encoder.named_parameters()}
    for key, each in objective.named_parameters():
        assert (each.grad is None) == (not each.requires_grad) == key.startswith("target_"), key
    own = [each for each in objective.parameters() if each.requires_grad]
    trained = [*agent.encoder.parameters(), *own]
    assert all(each.grad.abs().sum() > 0 for each in trained)
    stepped = [id(each) for each in agent.objective_optimizer.parameters]
    assert sorted(stepped) == sorted(id(each) for each in trained)
    assert not set(map(id, objective.parameters())) & set(map(id, networks.parameters()))
    for group in objective.clip_groups(agent.encoder):
        members = [id(each) for each in group.parameters]
        assert len(members) == len(set(members) & set(stepped))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_targets_move_as_tau_says(name: str) -> None:
    agent = tiny(name, target_ema_tau=0.3)
    updates(agent, 1)
    targets = [each for each in objective_of(agent).modules() if isinstance(each, MomentumTarget)]
    assert targets or not {"target_ema_tau"} & set(agent_cfg(name))

    def weights(which: str) -> list[Tensor]:
        modules = [each.target if which == "target" else each._online[0] for each in targets]
        return [each.detach().clone() for module in modules for each in module.parameters()]

    # Nothing moves but in `update_targets`.
    old = weights("target")
    batch, noise = batch_for(agent, 1), agent.draw_noise(Streams(1))
    agent.update(batch, noise, actor_step=True, target_step=False)
    assert same(old, weights("target"))
    agent.update_targets()
    for before, online, after in zip(old, weights("online"), weights("target"), strict=True):
        torch.testing.assert_close(after, 0.7 * before + 0.3 * online, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_signs_of_a_collapse_and_a_picture_of_what_it_sees(name: str) -> None:
    agent = tiny(name)
    objective, batch, noise = objective_of(agent), batch_for(agent), agent.draw_noise(Streams(0))
    image = preview(agent, batch, noise)
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    assert not {side % agent.settings.crop_size for side in image.shape[1:]} - {0}
    assert image.float().std() > 1
    spread, rank = f"{name}/projection_std", f"{name}/effective_rank"
    healthy = diagnostics(agent, batch, noise)
    assert set(healthy) == set(objective.diagnostic_names)
    assert all(torch.tensor(list(healthy.values())).isfinite())
    assert healthy[spread] > 0.01
    assert healthy[rank] > 1.1
    own = [each.target for each in objective.modules() if isinstance(each, MomentumTarget)]
    with torch.no_grad():
        for network in (agent.encoder, agent.networks.encoder_target.target, *own):
            if isinstance(network, Encoder):
                network.head.norm.weight.zero_()
                network.head.norm.bias.fill_(1.0)
            else:
                network[-1].bias.fill_(1.0)  # a head without a bias might map to nothing
    values = diagnostics(agent, batch, noise)
    assert values[spread] < 1e-3
    assert values[rank] < 1.1
