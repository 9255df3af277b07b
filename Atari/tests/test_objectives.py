"""What every objective of the folder, and every agent file, must keep to."""

import dataclasses
import io
from typing import Any

import pytest
import torch
from agents import (
    CONFIGS,
    CPU,
    batch_for,
    diagnostics,
    objective_of,
    preview,
    run_updates,
    small_agent,
    synthetic_batch,
    updated,
)
from torch import Tensor

from mlr_atari.batch import Batch
from mlr_atari.build import build_agent
from mlr_atari.cost import update_cost
from mlr_atari.momentum import MomentumTarget
from mlr_atari.objectives import available
from mlr_atari.rainbow import Rainbow
from mlr_atari.run.seeding import Streams
from mlr_atari.settings import load

OBJECTIVES = sorted(available())
AGENTS = sorted(path.stem for path in (CONFIGS / "agent").glob("*.yaml"))
PRESETS = sorted(path.stem for path in (CONFIGS / "preset").glob("*.yaml"))


def objective_loss(agent: Rainbow, batch: Batch) -> Tensor:
    noise = agent.draw_noise(Streams(1)).objective
    return objective_of(agent).loss(agent.encoder, batch, noise)[0]


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if dataclasses.is_dataclass(first):
        return same(vars(first), vars(second))
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


# ---- every agent file ----------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_updates_are_finite_and_report_what_they_name(name: str) -> None:
    agent = small_agent(name)
    before = {key: value.clone() for key, value in agent.network.state_dict().items()}
    for results in run_updates(agent, 2):
        assert set(results) - {"priorities"} == set(agent.metric_names)
        assert all(value.isfinite().all() for value in results.values())
        assert all(results[key].ndim == 0 for key in agent.metric_names)
        assert results["priorities"].shape == (3,)
        assert all(results[key] > 0 for key in results if key.startswith("gradient_norm/"))
    after = agent.network.state_dict()
    assert not torch.equal(before["encoder.convs.0.weight"], after["encoder.convs.0.weight"])
    assert all(each.isfinite().all() for each in after.values())


@pytest.mark.parametrize("name", AGENTS)
def test_restored_agents_go_on_exactly(name: str) -> None:
    agent, other = small_agent(name, seed=1), small_agent(name, seed=2)
    run_updates(agent, 2)
    saved = io.BytesIO()
    torch.save(agent.state_dict(), saved)
    saved.seek(0)
    other.load_state_dict(torch.load(saved, weights_only=True))
    assert same(run_updates(agent, 2, first=2), run_updates(other, 2, first=2))
    assert same(agent.state_dict(), other.state_dict())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", AGENTS)
def test_agents_work_at_every_preset(name: str, preset: str) -> None:
    size = ["scale.decoder_width=16"] if preset == "paper" else []  # 161 M weights otherwise
    words = [f"agent={name}", f"preset={preset}", "scale.batch_size=2", *size]
    cfg = load(words)
    shape = (4, cfg.environment.image_size, cfg.environment.image_size)
    agent = build_agent(cfg.agent, obs_shape=shape, num_actions=3, device=CPU, seed=0)
    batch = synthetic_batch(0, 2, agent.settings.sequence_length, 3, shape[-1])
    metrics, _ = updated(agent, batch, agent.draw_noise(Streams(1)))
    assert all(value.isfinite() for value in metrics.values())


# ---- every objective -----------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_weight_zero_is_rainbow_bit_for_bit(name: str) -> None:
    without = small_agent("rainbow", seed=3, sequence_length=4)
    zero = small_agent(name, seed=3, sequence_length=4, **{f"{name}_weight": 0})
    assert zero.objective is None
    assert same(run_updates(without, 3), run_updates(zero, 3))
    assert same(without.state_dict(), zero.state_dict())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_by_itself_it_trains_the_encoder_and_nothing_of_rl(name: str) -> None:
    agent = small_agent(name, rl=False)
    before = {key: value.clone() for key, value in agent.network.named_parameters()}
    (results,) = run_updates(agent, 1)
    assert set(results) - {"priorities"} == set(agent.metric_names) >= {f"loss/{name}"}
    assert (results["priorities"] == 1).all()
    after = dict(agent.network.named_parameters())
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    # A projection may share the head's first layers, but not what they lead to, nor their noise.
    shared = {key for key in moved if key.startswith("head.") and "_hidden." in key}
    assert not any("sigma" in key for key in shared)
    assert {key.partition(".")[0] for key in moved - shared} == {"encoder"}
    assert agent.settings.epsilon(10_000) == 1.0
    assert update_cost(agent)[0] < update_cost(small_agent(name))[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_initial_weights_and_draws_of_the_agent_are_left_alone(name: str) -> None:
    without = small_agent("rainbow", seed=3, sequence_length=4)
    agent = small_agent(name, seed=3, sequence_length=4)
    assert same(dict(without.network.state_dict()), dict(agent.network.state_dict()))
    ours, theirs = without.draw_noise(Streams(1)), agent.draw_noise(Streams(1))
    for each in ("head", "obs", "n_step_obs", "selection"):
        assert same(getattr(ours, each), getattr(theirs, each))


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize(
    "encoder", [{"encoder": "nature"}, {"encoder": "data_efficient", "num_filters": [4, 2]}]
)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_works_with_every_encoder(name: str, encoder: dict[str, Any], renormalize: bool) -> None:
    agent = small_agent(name, renormalize=renormalize, values="scalar", **encoder)
    (metrics,) = run_updates(agent, 1)
    assert all(value.isfinite().all() for value in metrics.values())


SHARED = {
    f"head.{stream}_hidden.{kind}_mu"
    for stream in ("advantage", "value")
    for kind in ("weight", "bias")
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_goes_where_it_should_and_is_stepped_once(name: str) -> None:
    agent = small_agent(name)
    network, objective, optimizer = agent.network, objective_of(agent), agent.optimizer
    objective_loss(agent, batch_for(agent, 0)).backward()
    expected = {key for key, _ in network.named_parameters() if key.startswith("encoder.")}
    expected |= set() if name == "curl" else SHARED
    reached = {key: each for key, each in network.named_parameters() if each.grad is not None}
    assert set(reached) == expected
    assert all(each.grad.abs().sum() > 0 for each in reached.values())
    for key, each in objective.named_parameters():
        assert (each.grad is None) == (not each.requires_grad) == ("target_" in key), key
    assert all(each.grad is None for each in agent.target_network.parameters())
    own = [each for each in objective.parameters() if each.requires_grad]
    stepped = [id(each) for each in optimizer.parameters]
    assert sorted(stepped) == sorted(id(each) for each in (*network.parameters(), *own))
    clipped = [id(each) for group in optimizer.clip for each in group.parameters]
    assert sorted(clipped + [id(each) for each in optimizer.unclipped]) == sorted(stepped)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_targets_move_as_tau_says(name: str) -> None:
    agent = small_agent(name, target_ema_tau=0.3)
    objective = objective_of(agent)
    targets = [each for each in objective.modules() if isinstance(each, MomentumTarget)]
    assert targets
    run_updates(agent, 1)

    def weights(which: str) -> list[Tensor]:
        modules = [each.target if which == "target" else each._online[0] for each in targets]
        return [each.detach().clone() for module in modules for each in module.parameters()]

    old, online = weights("target"), weights("online")
    run_updates(agent, 1, first=1)
    if objective.targets_move == "after_step":
        online = weights("online")
    for before, follows, after in zip(old, online, weights("target"), strict=True):
        assert torch.allclose(after, 0.7 * before + 0.3 * follows, atol=1e-7)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_importance_weights_scale_the_loss(name: str) -> None:
    agent = small_agent(name)
    batch = batch_for(agent, 0)
    values = vars(batch) | {"importance_weights": torch.ones(3)}
    whole = objective_loss(agent, Batch(**values)).item()
    for share in (0.0, 0.25):
        values["importance_weights"] = torch.full((3,), share)
        assert objective_loss(agent, Batch(**values)).item() == pytest.approx(share * whole)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_signs_of_a_collapse_and_a_picture_of_what_it_sees(name: str) -> None:
    agent = small_agent(name, augmentation=[])
    batch, noise = batch_for(agent, 0), agent.draw_noise(Streams(1))
    spread, rank = f"{name}/projection_std", f"{name}/effective_rank"
    values = diagnostics(agent, batch, noise)
    assert set(values) == set(objective_of(agent).diagnostic_names)
    assert all(torch.tensor(value).isfinite() for value in values.values())
    assert 1.5 <= values[rank] <= batch.action.numel()
    assert 1e-3 < values[spread] <= 1.3
    image = preview(agent, batch, noise)
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    assert all(side % 84 == 0 for side in image.shape[1:])
    # Every image the same: latents and projections do not vary.
    batch.obs.frames.fill_(7)
    values = diagnostics(agent, batch, noise)
    assert values[spread] < 1e-3
    assert values[rank] < 1.5
