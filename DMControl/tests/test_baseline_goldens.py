"""CURL, SPR and PlayVirtual against stored numbers of the published code (goldens g)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden_agent import check_steps
from small_agents import GOLDEN, agent_cfg, build_agent
from torch import Tensor, nn

from mlr_dmcontrol.augmentation import AugmentationNoise
from mlr_dmcontrol.batch import Batch, SequenceBatch, UpdateNoise
from mlr_dmcontrol.frames import FrameStacks
from mlr_dmcontrol.networks import Encoder
from mlr_dmcontrol.objectives.curl import CURL, CURLNoise, similarities
from mlr_dmcontrol.objectives.playvirtual import PlayVirtual, PlayVirtualNoise
from mlr_dmcontrol.objectives.spr import SPR, PredictionNoise
from mlr_dmcontrol.objectives.transition import TransitionModel, rollout
from mlr_dmcontrol.sac import SAC

Load = Callable[[str], Any]
LENGTH, WINDOWS = 5, 3


def centred(*lead: int) -> AugmentationNoise:
    return AugmentationNoise(offsets=torch.full((*lead, 2), 8))


def whole(*lead: int) -> AugmentationNoise:
    return AugmentationNoise(offsets=torch.zeros(*lead, 2, dtype=torch.int64))


def names_of(part: nn.Module) -> dict[str, Tensor]:
    """A part's parameters by their published names."""
    if isinstance(part, Encoder):
        convolutions = (each for each in part.convolutions if isinstance(each, nn.Conv2d))
        layers: dict[str, nn.Module] = {f"convs.{i}": each for i, each in enumerate(convolutions)}
        layers |= {"fc": part.head.linear, "ln": part.head.norm}
    elif isinstance(part, TransitionModel):
        layers = {"fc": part.first, "ln": part.norm, "fc_mu": part.second}
    else:
        layers = {str(i): each for i, each in enumerate(part)}
    return {
        f"{key}.{name}": p for key, each in layers.items() for name, p in each.named_parameters()
    }


def channel_first(name: str, value: Tensor) -> Tensor:
    """Our layout to the published one: columns of an encoder's linear map."""
    if not name.endswith("encoder.fc.weight"):
        return value
    side = int((value.shape[1] / GOLDEN["num_filters"]) ** 0.5)
    return value.view(-1, side, side, GOLDEN["num_filters"]).permute(0, 3, 1, 2).flatten(1)


def load(file: Any, prefix: str, part: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in names_of(part).items():
            value = file.tensor(f"{prefix}/{name}")
            if isinstance(part, Encoder) and name == "fc.weight":
                filters, rows, columns = part.map_shape
                value = value.view(-1, filters, rows, columns).permute(0, 2, 3, 1).flatten(1)
            parameter.copy_(value)


def agent_for(
    file: Any, name: str, size: int, parts: Callable[[SAC], dict[str, nn.Module]], **more
):
    cfg = agent_cfg(name, **GOLDEN, **more, batch_size=6)
    agent = build_agent(cfg, obs_shape=(9, size, size), action_dim=3, device="cpu", seed=3)
    for prefix, part in parts(agent).items():
        load(file, prefix, part)
    return agent


def stepped(
    agent: SAC, file: Any, parts: dict[str, nn.Module], batch: Batch, noise: Any, gradients: str
) -> dict[str, Tensor]:
    """One step of the objective, compared with the stored gradients and weights; its metrics."""
    named = {
        f"{key}.{name}": p for key, each in parts.items() for name, p in names_of(each).items()
    }
    named |= {"W": agent.objective.bilinear} if isinstance(agent.objective, CURL) else {}
    noise = UpdateNoise(whole(1, 6), whole(1, 6), torch.zeros(1, 6, 3), torch.zeros(6, 3), noise)
    metrics = agent.update_objective(batch, noise)
    optimizer = agent.objective_optimizer
    # The first moment of a first step is a tenth of the gradient that was stepped.
    moments = {
        id(parameter): moment["exp_avg"] * 10
        for parameter, moment in zip(
            optimizer.parameters, optimizer.state_dict()["moments"], strict=True
        )
    }
    assert len(moments) == len(named)
    seen = {name: channel_first(name, moments[id(parameter)]) for name, parameter in named.items()}
    assert set(file.names(f"{gradients}/")) == set(seen)
    for name, gradient in seen.items():
        file.check(f"{gradients}/{name}", gradient)
    after = {name: channel_first(name, parameter) for name, parameter in named.items()}
    check_steps(file, "after/", after, seen)
    return metrics


# --- CURL -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["curl", "curl_published"])
def test_curl(name: str, golden: Load) -> None:
    file = golden("dmc_g_curl")
    parts = {"critic.encoder": "encoder", "critic_target.encoder": "encoder_target.target"}
    agent = agent_for(
        file,
        name,
        84,
        lambda agent: {key: agent.networks.get_submodule(part) for key, part in parts.items()},
    )
    objective, encoder = agent.objective, agent.networks.encoder
    assert isinstance(objective, CURL)
    low, high = file["W_init_range"]
    assert 0 <= objective.bilinear.min() < 0.01 < 0.99 < objective.bilinear.max() < 1
    assert 0 <= low < 0.01 < 0.99 < high <= 1
    with torch.no_grad():
        objective.bilinear.copy_(file.tensor("W"))
    # Both views are given: as observations of their own, so that no cropping is left to do.
    frames = torch.stack([file.tensor("obs_anchor"), file.tensor("obs_pos")])
    both = FrameStacks.from_dense(frames, 3)
    noise = CURLNoise(whole(6), whole(6))
    still = torch.zeros(6)
    anchors, keys = (
        Batch(both.select(i), both.select(i), torch.zeros(6, 3), still, still, None)
        for i in range(2)
    )
    key = objective.key_latents(keys, noise)
    file.check("z_pos", key)
    anchor = encoder(objective.augmentation(anchors.obs, noise.anchor))
    file.check("z_anchor", anchor)
    file.check("logits", similarities(anchor, key, objective.bilinear))
    # In one image of twice the height both views are crops of the same observation.
    tall = FrameStacks.from_dense(torch.cat([*frames], dim=-2), 3)
    batch = Batch(tall, tall, torch.zeros(6, 3), still, still, None)
    lower = AugmentationNoise(offsets=torch.tensor([84, 0]).expand(6, 2))
    noise = CURLNoise(whole(6), lower)
    metrics = stepped(agent, file, {"encoder": encoder}, batch, noise, "grad")
    file.check("loss", metrics["loss/curl"])
    assert metrics["loss/curl"].item() == pytest.approx(25.82301, rel=1e-5)


# --- SPR and PlayVirtual --------------------------------------------------------------------------


def published_parts(agent: SAC) -> dict[str, nn.Module]:
    objective = agent.objective
    assert isinstance(objective, SPR)
    parts: dict[str, nn.Module] = {
        "encoder": agent.networks.encoder,
        "transition_model": objective.dynamics,
        "global_classifier": objective.projection,
        "global_final_classifier": objective.predictor,
    }
    if isinstance(objective, PlayVirtual):
        parts["reverse_transition_model"] = objective.reverse_dynamics
    return parts


def all_parts(agent: SAC) -> dict[str, nn.Module]:
    objective = agent.objective
    assert isinstance(objective, SPR)
    return published_parts(agent) | {
        "target_encoder": objective.target_encoder.target,
        "global_target_classifier": objective.target_projection.target,
    }


def windows(file: Any) -> tuple[SequenceBatch, Batch]:
    frames = file.tensor("frames")
    index = torch.arange(frames.shape[0] * WINDOWS).view(-1, WINDOWS)
    index = torch.stack([index[age : age + LENGTH] for age in range(3)], dim=-1)
    obs, reward = FrameStacks(frames.flatten(0, 1), index), file.tensor("reward").squeeze(-1)
    sequence = SequenceBatch(obs, file.tensor("action"), reward)
    still = torch.zeros(6)
    none = obs.select((torch.zeros(6, dtype=torch.int64), torch.zeros(6, dtype=torch.int64)))
    return sequence, Batch(none, none, torch.zeros(6, 3), still, still, sequence)


SIZES = {
    "sequence_length": LENGTH,
    "sequence_batch_size": WINDOWS,
    "transition_hidden_dim": 64,
    "objective_augmentation": ["crop"],
}


def test_spr(golden: Load) -> None:
    file = golden("dmc_g_spr")
    agent = agent_for(file, "spr", 100, all_parts, **SIZES, spr_weight=LENGTH - 1)
    objective = agent.objective
    sequence, batch = windows(file)
    noise = PredictionNoise(centred(WINDOWS), centred(LENGTH - 1, WINDOWS))
    latent = objective.first_latent(agent.networks.encoder, sequence, noise)
    predicted = rollout(objective.dynamics, latent, sequence.action[:-1])
    target = objective.target_latents(sequence, noise)
    for name, mine in (("pred_latents", predicted), ("target_latents", target)):
        # Stored b-major, with k = 0.
        stored = file.tensor(name).view(WINDOWS, LENGTH, -1).transpose(0, 1)[1:]
        torch.testing.assert_close(mine, stored, rtol=0, atol=2e-4 * stored.abs().max().item())
    loss, _ = objective.loss(agent.networks.encoder, batch, noise)
    file.check("loss_times_jumps", loss * (LENGTH - 1))
    metrics = stepped(agent, file, published_parts(agent), batch, noise, "grad_after_clip")
    assert metrics["loss/spr"].item() * 4 == pytest.approx(9.320725, rel=1e-5)


def test_playvirtual(golden: Load) -> None:
    file = golden("dmc_g_playvirtual")
    assert int(file["step"]) == 12_000
    agent = agent_for(
        file,
        "playvirtual",
        100,
        all_parts,
        **SIZES,
        prediction_weight=4.0,
        backward_weight=2.0,
        real_cycle_weight=0.25,
        num_cycles=2,
        cycle_steps=4,
        cycle_ramp_action_repeat=8,
    )
    objective, encoder = agent.objective, agent.networks.encoder
    assert isinstance(objective, PlayVirtual)
    sequence, batch = windows(file)
    noise = PlayVirtualNoise(
        centred(WINDOWS),
        centred(LENGTH - 1, WINDOWS),
        file.tensor("virtual_actions"),
        centred(2, WINDOWS),
        centred(2, WINDOWS),
    )
    latent = objective.first_latent(encoder, sequence, noise)
    file.check("raw/fp", objective.prediction_loss(latent, sequence, noise))
    file.check("raw/vc", objective.cycle_loss(latent, sequence, noise))
    file.check("raw/bp", objective.backward_loss(encoder, sequence, noise))
    file.check("raw/rc", objective.real_cycle_loss(latent, sequence, noise))
    agent.set_schedules(1500)
    file.check("warm_weight", objective.ramp, rtol=1e-6)
    metrics = stepped(agent, file, published_parts(agent), batch, noise, "grad_after_clip")
    file.check("log/cycdm_loss", metrics["loss/playvirtual"])
    assert metrics["loss/playvirtual"].item() == pytest.approx(11.77836, rel=1e-5)
    file.check("raw/fp", metrics["playvirtual/prediction"])
    file.check("raw/vc", metrics["playvirtual/cycle"])


def test_rates_and_weights_of_the_files() -> None:
    """What the goldens were made with is what the YAML files say, apart from the sizes."""
    rates = {"curl": (2, 1), "spr": (0.5, 0.5), "spr_published": (3, 1), "playvirtual": (1, 0.5)}
    for name, (first, rest) in rates.items():
        cfg = agent_cfg(name)
        assert cfg["objective_encoder_learning_rate_scale"] == first, name
        assert cfg["objective_learning_rate_scale"] == rest, name
    assert agent_cfg("spr")["spr_weight"] == agent_cfg("spr")["sequence_length"] - 1 == 6
    cfg = agent_cfg("playvirtual")
    assert cfg["prediction_weight"] == cfg["sequence_length"] - 1 == 6
    assert (cfg["num_cycles"], cfg["cycle_steps"], cfg["cycle_weight"]) == (10, 6, 1)
    assert cfg["backward_weight"] == cfg["real_cycle_weight"] == 0
    assert cfg["cycle_ramp_action_repeat"] == 8
