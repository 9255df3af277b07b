"""Goldens: MLR's loss, gradients, step and schedule beside the published code's."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from golden_agent import (
    LENGTH,
    SEQUENCES,
    Load,
    check_steps,
    gradients,
    published_agent,
    sac_noise,
    transitions,
)
from small_agents import agent_cfg, rates
from torch import Tensor, nn

from mlr_dmcontrol.augmentation import AugmentationNoise
from mlr_dmcontrol.batch import Batch, SequenceBatch
from mlr_dmcontrol.frames import FrameStacks
from mlr_dmcontrol.objectives.latents import distance
from mlr_dmcontrol.objectives.mlr import MLRNoise, warmup_inverse_sqrt
from mlr_dmcontrol.official import export_official
from mlr_dmcontrol.sac import SAC


def given(golden: Load, centred: bool) -> tuple[Batch, MLRNoise]:
    """Three windows of eight stacks, and their random numbers."""
    file, lead = golden("dmc_cd_inputs"), (LENGTH, SEQUENCES)
    frames = file.tensor("frames")  # (K + 2, B, 3, 100, 100)
    index = torch.arange(frames.shape[0] * SEQUENCES).view(-1, SEQUENCES)
    index = torch.stack([index[age : age + LENGTH] for age in range(3)], dim=-1)
    obs, reward = FrameStacks(frames.flatten(0, 1), index), file.tensor("reward").squeeze(-1)
    sequence = SequenceBatch(obs, file.tensor("action"), reward)
    views = [AugmentationNoise(offsets=torch.full((*lead, 2), 8))] * 2
    if not centred:
        offsets, intensity = file.tensor("crop_offsets"), file.tensor("intensity")
        views = [
            AugmentationNoise(offsets[i].view(*lead, 2), intensity[i].view(lead)) for i in range(2)
        ]
    noise = MLRNoise(file.tensor("mask_grid").bool(), *views)
    return replace(transitions(golden)[0], sequence=sequence), noise


@pytest.mark.parametrize(
    ("name", "centred"),
    [("dmc_c_mlr_loss_centre_crop", True), ("dmc_cd_mlr_step_given_aug", False)],
)
def test_mlr_loss_gradients_and_step(name: str, centred: bool, golden: Load) -> None:
    file, agent = golden(name), published_agent(golden)
    (batch, noise), objective, encoder = given(golden, centred), agent.objective, agent.encoder
    sequence = batch.sequence
    images = objective.masked_images(sequence, noise)
    originals = objective.augmentation(sequence.obs, noise.target)
    latents, target = encoder(images), objective.target_latents(sequence, noise)
    tokens = objective.decoder.embed(
        latents.unflatten(0, (LENGTH, -1)).transpose(0, 1), sequence.action.transpose(0, 1)
    )
    decoded = objective.decoded(encoder, sequence, noise).flatten(0, 1)
    projected = objective.projection(decoded)
    predicted = objective.predictor(projected)
    projected_target = objective.target_projection(target.flatten(0, 1))
    steps = {
        "encoder_in|image0_ch0": images[0, 0] * 255,
        "encoder_in": images * 255,
        "target_in|image0_ch0": originals[0, 0] * 255,
        "target_in": originals * 255,
        "encoder_out": latents,
        "target_latent": target.flatten(0, 1),
        "tokens_in": _interleaved(tokens),
        "proj_in": decoded,
        "proj_out": projected,
        "pred_out": predicted,
        "target_proj": projected_target,
    }
    for i, block in enumerate(objective.decoder.blocks):
        tokens = block(tokens, tokens.shape[1])
        steps[f"block{i}_out"] = _interleaved(tokens)
    for key, value in steps.items():
        file.check(f"mid/{key}", value)
    if centred:
        file.check("per_position_loss", distance(predicted, projected_target))
    loss, _ = objective.loss(encoder, batch, noise)
    file.check("loss", loss)
    loss.backward()
    seen = gradients(agent)
    for key in file.names("grad/"):
        if "mask_token" not in key and "action_predictor" not in key:  # which nothing uses
            owner = "critic" if key.startswith("encoder.") else "MTM"
            file.check(f"grad/{key}", seen[f"{owner}/{key}"])
    norm = nn.utils.get_total_norm([p.grad for p in agent.objective_optimizer.parameters])
    file.check("grad_total_norm", norm)
    if not centred:
        _check_step(file, agent, batch, noise, seen)


def _interleaved(tokens: Tensor) -> Tensor:
    """States then actions (B, 2K, Z) to the published order s0, a0, s1, a1, ..."""
    return torch.stack(tokens.chunk(2, dim=1), dim=2).flatten(1, 2)


def _check_step(file: Any, agent: SAC, batch: Batch, noise: MLRNoise, seen: dict[str, Any]) -> None:
    agent.networks.zero_grad()
    agent.objective.zero_grad()
    for update_step, key in ((3000, "lr_used"), (3001, "lr_after_scheduler_step")):
        agent.update_step = update_step
        agent.set_schedules(update_step + 1000)
        expected = pytest.approx([float(file[key])] * 2, rel=1e-6)
        assert rates(agent.objective_optimizer) == expected
        if update_step == 3000:
            agent.update_objective(batch, sac_noise(torch.zeros(5, 3), torch.zeros(5, 3), noise))
    after = {key: value for key, value in export_official(agent).items() if key != "log_alpha"}
    check_steps(file, "after_step/", after, seen)


def test_learning_rate_schedule(golden: Load) -> None:
    file, cfg = golden("dmc_d_lr_schedule"), agent_cfg("mlr_official")
    base, warmup = float(file["base_lr"]), int(file["warmup"])
    for k, rate in zip(file["steps"].tolist(), file["lr_used_at_update_k"], strict=True):
        assert warmup_inverse_sqrt(k, warmup, 5e-4) * base == pytest.approx(rate, rel=1e-9)
    assert warmup_inverse_sqrt(1000, 0, 0.1) == 1.0  # no warm-up: constant
    assert cfg["warmup_updates"] == warmup
    rate = cfg["critic_learning_rate"] * cfg["objective_learning_rate_scale"]
    assert rate == pytest.approx(base)
