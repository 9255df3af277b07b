"""CURL, SPR and PlayVirtual against stored numbers of the published code (goldens g)."""

from typing import Any

import pytest
import torch
from golden_agent import Load, check_steps
from small_agents import GOLDEN, agent_cfg, build_agent
from torch import Tensor, nn

from mlr_dmcontrol.augmentation import AugmentationNoise
from mlr_dmcontrol.batch import Batch, SequenceBatch, UpdateNoise
from mlr_dmcontrol.frames import FrameStacks
from mlr_dmcontrol.networks import Encoder
from mlr_dmcontrol.objectives.curl import CURL, CURLNoise, similarities
from mlr_dmcontrol.objectives.playvirtual import PlayVirtual, PlayVirtualNoise
from mlr_dmcontrol.objectives.spr import PredictionNoise, TransitionModel, rollout
from mlr_dmcontrol.sac import SAC

LENGTH, WINDOWS = 5, 3
SIZES = {
    "sequence_length": LENGTH,
    "sequence_batch_size": WINDOWS,
    "transition_hidden_dim": 64,
    "objective_augmentation": ["crop"],
}


def offsets(value: int, *lead: int) -> AugmentationNoise:
    return AugmentationNoise(offsets=torch.full((*lead, 2), value))


def parts(agent: SAC) -> dict[str, nn.Module]:
    """The networks of an agent by their published names."""
    objective, networks = agent.objective, agent.networks
    if isinstance(objective, CURL):
        target = networks.encoder_target.target
        return {"critic.encoder": networks.encoder, "critic_target.encoder": target}
    named = {
        "encoder": networks.encoder,
        "transition_model": objective.dynamics,
        "global_classifier": objective.projection,
        "global_final_classifier": objective.predictor,
        "target_encoder": objective.target_encoder.target,
        "global_target_classifier": objective.target_projection.target,
    }
    if isinstance(objective, PlayVirtual):
        named["reverse_transition_model"] = objective.reverse_dynamics
    return named


def parameters(part: nn.Module) -> dict[str, Tensor]:
    """A network's parameters by their published names."""
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


def published(agent: SAC, name: str, value: Tensor) -> Tensor:
    """In the published layout: the columns of an encoder's linear map are channels first."""
    if not name.endswith("encoder.fc.weight"):
        return value
    filters, rows, columns = agent.networks.encoder.map_shape
    return value.view(-1, rows, columns, filters).permute(0, 3, 1, 2).flatten(1)


def agent_for(file: Any, name: str, size: int, **more: Any) -> SAC:
    cfg = agent_cfg(name, **GOLDEN, **more, batch_size=6)
    agent = build_agent(cfg, obs_shape=(9, size, size), action_dim=3, device="cpu", seed=3)
    filters, rows, columns = agent.networks.encoder.map_shape
    with torch.no_grad():
        for prefix, part in parts(agent).items():
            for name, parameter in parameters(part).items():
                value = file.tensor(f"{prefix}/{name}")
                if isinstance(part, Encoder) and name == "fc.weight":
                    value = value.view(-1, filters, rows, columns).permute(0, 2, 3, 1).flatten(1)
                parameter.copy_(value)
    return agent


def stepped(
    agent: SAC, file: Any, batch: Batch, noise: Any, gradients: str, own: dict[str, Tensor]
) -> dict[str, Tensor]:
    """One step of the objective, compared with the stored gradients and weights; its metrics."""
    trained = {k.removeprefix("critic."): p for k, p in parts(agent).items() if "target" not in k}
    named = {
        f"{k}.{name}": p for k, each in trained.items() for name, p in parameters(each).items()
    }
    named |= own
    noise = UpdateNoise(
        offsets(0, 1, 6), offsets(0, 1, 6), torch.zeros(1, 6, 3), torch.zeros(6, 3), noise
    )
    metrics = agent.update_objective(batch, noise)
    optimizer = agent.objective_optimizer
    # The first moment of a first step is a tenth of the gradient that was stepped.
    states = zip(optimizer.parameters, optimizer.state_dict()["moments"], strict=True)
    moments = {id(parameter): state["exp_avg"] * 10 for parameter, state in states}
    assert len(moments) == len(named)
    seen = {name: published(agent, name, moments[id(p)]) for name, p in named.items()}
    assert set(file.names(f"{gradients}/")) == set(seen)
    for name, gradient in seen.items():
        file.check(f"{gradients}/{name}", gradient)
    after = {name: published(agent, name, parameter) for name, parameter in named.items()}
    check_steps(file, "after/", after, seen)
    return metrics


@pytest.mark.parametrize("name", ["curl", "curl_published"])
def test_curl(name: str, golden: Load) -> None:
    file = golden("dmc_g_curl")
    agent = agent_for(file, name, 84)
    objective, encoder = agent.objective, agent.networks.encoder
    low, high = objective.bilinear.min(), objective.bilinear.max()
    assert 0 <= low < 0.01 < 0.99 < high < 1
    with torch.no_grad():
        objective.bilinear.copy_(file.tensor("W"))
    # In one image of twice the height both views are crops of the same observation.
    frames = torch.cat([file.tensor("obs_anchor"), file.tensor("obs_pos")], dim=-2)
    tall, still = FrameStacks.from_dense(frames, 3), torch.zeros(6)
    batch = Batch(tall, tall, torch.zeros(6, 3), still, still, None)
    lower = AugmentationNoise(offsets=torch.tensor([84, 0]).expand(6, 2))
    noise = CURLNoise(offsets(0, 6), lower)
    anchor, key = objective.latents(encoder, batch, noise)
    file.check("z_anchor", anchor)
    file.check("z_pos", key)
    file.check("logits", similarities(anchor, key, objective.bilinear))
    metrics = stepped(agent, file, batch, noise, "grad", {"W": objective.bilinear})
    file.check("loss", metrics["loss/curl"])


def windows(file: Any) -> tuple[SequenceBatch, Batch]:
    frames = file.tensor("frames")
    index = torch.arange(frames.shape[0] * WINDOWS).view(-1, WINDOWS)
    index = torch.stack([index[age : age + LENGTH] for age in range(3)], dim=-1)
    obs, reward = FrameStacks(frames.flatten(0, 1), index), file.tensor("reward").squeeze(-1)
    sequence, still = SequenceBatch(obs, file.tensor("action"), reward), torch.zeros(6)
    none = obs.select((torch.zeros(6, dtype=torch.int64), torch.zeros(6, dtype=torch.int64)))
    return sequence, Batch(none, none, torch.zeros(6, 3), still, still, sequence)


def test_spr(golden: Load) -> None:
    file = golden("dmc_g_spr")
    agent = agent_for(file, "spr", 100, **SIZES, spr_weight=LENGTH - 1)
    objective = agent.objective
    sequence, batch = windows(file)
    noise = PredictionNoise(offsets(8, WINDOWS), offsets(8, LENGTH - 1, WINDOWS))
    latent = objective.first_latent(agent.networks.encoder, sequence, noise)
    predicted = rollout(objective.dynamics, latent, sequence.action[:-1])
    target = objective.target_latents(sequence, noise)
    for name, mine in (("pred_latents", predicted), ("target_latents", target)):
        # Stored b-major, with k = 0.
        stored = file.tensor(name).view(WINDOWS, LENGTH, -1).transpose(0, 1)[1:]
        torch.testing.assert_close(mine, stored, rtol=0, atol=2e-4 * stored.abs().max().item())
    metrics = stepped(agent, file, batch, noise, "grad_after_clip", {})
    file.check("loss_times_jumps", metrics["loss/spr"] * (LENGTH - 1))


def test_playvirtual(golden: Load) -> None:
    file = golden("dmc_g_playvirtual")
    weights = {"prediction_weight": 4.0, "backward_weight": 2.0, "real_cycle_weight": 0.25}
    sizes = {"num_cycles": 2, "cycle_steps": 4, "cycle_ramp_action_repeat": 8}
    agent = agent_for(file, "playvirtual", 100, **SIZES, **weights, **sizes)
    objective, encoder = agent.objective, agent.networks.encoder
    sequence, batch = windows(file)
    noise = PlayVirtualNoise(
        offsets(8, WINDOWS),
        offsets(8, LENGTH - 1, WINDOWS),
        file.tensor("virtual_actions"),
        offsets(8, 2, WINDOWS),
        offsets(8, 2, WINDOWS),
    )
    latent = objective.first_latent(encoder, sequence, noise)
    file.check("raw/bp", objective.backward_loss(encoder, sequence, noise))
    file.check("raw/rc", objective.real_cycle_loss(latent, sequence, noise))
    agent.set_schedules(int(file["step"]) // 8)
    file.check("warm_weight", objective.ramp, rtol=1e-6)
    metrics = stepped(agent, file, batch, noise, "grad_after_clip", {})
    file.check("log/cycdm_loss", metrics["loss/playvirtual"])
    file.check("raw/fp", metrics["playvirtual/prediction"])
    file.check("raw/vc", metrics["playvirtual/cycle"])
