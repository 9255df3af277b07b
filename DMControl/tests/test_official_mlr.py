"""Goldens: MLR's loss, gradients, step and schedule beside the published code's."""

from __future__ import annotations

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
from torch import nn

from mlr_dmcontrol.augmentation import AugmentationNoise
from mlr_dmcontrol.batch import Batch, SequenceBatch
from mlr_dmcontrol.frames import FrameStacks
from mlr_dmcontrol.objectives.heads import distance
from mlr_dmcontrol.objectives.mlr import MLR, MLRNoise, warmup_inverse_sqrt
from mlr_dmcontrol.official import export_official
from mlr_dmcontrol.sac import SAC


def sequences(golden: Load) -> tuple[SequenceBatch, Any]:
    """Three windows of eight stacks, and the file of their random numbers."""
    file = golden("dmc_cd_inputs")
    frames = file.tensor("frames")  # (K + 2, B, 3, 100, 100)
    index = torch.arange(frames.shape[0] * SEQUENCES).view(-1, SEQUENCES)
    index = torch.stack([index[age : age + LENGTH] for age in range(3)], dim=-1)
    obs = FrameStacks(frames.flatten(0, 1), index)
    reward = file.tensor("reward").squeeze(-1)
    return SequenceBatch(obs, file.tensor("action"), reward), file


def mlr_noise(file: Any, centred: bool) -> MLRNoise:
    lead = (LENGTH, SEQUENCES)
    branches = []
    for branch in range(2):
        if centred:
            branches.append(AugmentationNoise(offsets=torch.full((*lead, 2), 8)))
            continue
        offsets = file.tensor("crop_offsets")[branch].view(*lead, 2)
        branches.append(
            AugmentationNoise(offsets, intensity=file.tensor("intensity")[branch].view(lead))
        )
    return MLRNoise(file.tensor("mask_grid").bool(), *branches)


@pytest.mark.parametrize(
    ("name", "centred"),
    [("dmc_c_mlr_loss_centre_crop", True), ("dmc_cd_mlr_step_given_aug", False)],
)
def test_mlr_loss_and_gradients(name: str, centred: bool, golden: Load) -> None:
    file, agent = golden(name), published_agent(golden)
    sequence, inputs = sequences(golden)
    noise, objective = mlr_noise(inputs, centred), agent.objective
    assert isinstance(objective, MLR)
    encoder = agent.networks.encoder

    images = objective.masked_images(sequence.obs, noise)
    file.check("mid/encoder_in|image0_ch0", images[0, 0] * 255)
    file.check("mid/encoder_in", images * 255)
    originals = objective.augmentation(sequence.obs, noise.target)
    file.check("mid/target_in|image0_ch0", originals[0, 0] * 255)
    file.check("mid/target_in", originals * 255)
    latents = encoder(images)
    file.check("mid/encoder_out", latents)
    target = objective.target_latents(sequence, noise)
    file.check("mid/target_latent", target.flatten(0, 1))
    tokens = objective.decoder.embed(
        latents.unflatten(0, (LENGTH, -1)).transpose(0, 1), sequence.action.transpose(0, 1)
    )
    file.check("mid/tokens_in", _interleaved(tokens))
    for i, block in enumerate(objective.decoder.blocks):
        tokens = block(tokens, tokens.shape[1])
        file.check(f"mid/block{i}_out", _interleaved(tokens))
    decoded = objective.decoded(encoder, sequence, noise).flatten(0, 1)
    file.check("mid/proj_in", decoded)
    projected = objective.projection(decoded)
    file.check("mid/proj_out", projected)
    predicted = objective.predictor(projected)
    file.check("mid/pred_out", predicted)
    projected_target = objective.target_projection(target.flatten(0, 1))
    file.check("mid/target_proj", projected_target)
    if centred:
        file.check("pred_norms", predicted.norm(dim=-1))
        file.check("per_position_loss", distance(predicted, projected_target))

    batch, _ = transitions(golden)
    batch = Batch(**(vars(batch) | {"sequence": sequence}))
    loss, metrics = objective.loss(encoder, batch, noise)
    file.check("loss", loss)
    file.check("loss", metrics["loss/mlr"])
    loss.backward()
    _check_gradients(file, agent)


def _check_gradients(file: Any, agent: SAC) -> None:
    mine = gradients(agent)
    dead = ("mask_token", "action_predictor")
    for key in file.names("grad/"):
        if any(part in key for part in dead):
            continue
        owner = "critic" if key.startswith("encoder.") else "MTM"
        file.check(f"grad/{key}", mine[f"{owner}/{key}"])
    norm = nn.utils.get_total_norm([p.grad for p in agent.objective_optimizer.parameters])
    file.check("grad_total_norm", norm)


def _interleaved(tokens: torch.Tensor) -> torch.Tensor:
    """States then actions (B, 2K, Z) to the published order s0, a0, s1, a1, ..."""
    return torch.stack(tokens.chunk(2, dim=1), dim=2).flatten(1, 2)


def test_mlr_step(golden: Load) -> None:
    file, agent = golden("dmc_cd_mlr_step_given_aug"), published_agent(golden)
    sequence, inputs = sequences(golden)
    batch, _ = transitions(golden)
    batch = Batch(**(vars(batch) | {"sequence": sequence}))
    noise = mlr_noise(inputs, centred=False)
    assert agent.objective is not None
    loss, _ = agent.objective.loss(agent.networks.encoder, batch, noise)
    loss.backward()
    seen = gradients(agent)
    agent.networks.zero_grad()
    agent.objective.zero_grad()

    agent.update_step = 3000
    agent.set_schedules(4000)
    assert agent.objective_optimizer is not None
    assert rates(agent.objective_optimizer) == pytest.approx([float(file["lr_used"])] * 2, rel=1e-6)
    noise = sac_noise(torch.zeros(5, 3), torch.zeros(5, 3), noise)
    metrics = agent.update_objective(batch, noise)
    file.check("grad_total_norm", metrics["gradient_norm/objective"])
    after = {key: value for key, value in export_official(agent).items() if key != "log_alpha"}
    check_steps(file, "after_step/", after, seen)
    agent.update_step = 3001
    agent.set_schedules(4001)
    after_step = float(file["lr_after_scheduler_step"])
    assert rates(agent.objective_optimizer) == pytest.approx([after_step] * 2, rel=1e-6)


def test_learning_rate_schedule(golden: Load) -> None:
    file = golden("dmc_d_lr_schedule")
    for k, factor, rate in zip(
        file["steps"].tolist(), file["factor"], file["lr_used_at_update_k"], strict=True
    ):
        mine = warmup_inverse_sqrt(k, int(file["warmup"]), 5e-4)
        assert mine == pytest.approx(factor, rel=1e-9)
        assert mine * float(file["base_lr"]) == pytest.approx(rate, rel=1e-9)
    cfg = agent_cfg("mlr_official")
    assert cfg["warmup_updates"] == int(file["warmup"])
    base = cfg["critic_learning_rate"] * cfg["objective_learning_rate_scale"]
    assert base == pytest.approx(float(file["base_lr"]))
