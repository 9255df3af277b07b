"""What a DMControl run writes down, and where: folder, tables, facts, banner, charts."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from .. import protocol
from ..cost import update_flops
from ..machine import matmul_rate
from ..parts import Parts

COUNTERS = ("agent_step", "env_step", "update_step", "episode")
EVAL_COLUMNS = ("agent_step", "env_step", "episodes", "mean", "std", "normalized")
EPISODE_COLUMNS = ("agent_step", "env_step", "episode", "value", "length")
# What shows whether an objective still learns, or its latents have collapsed.
_WATCHED = ("cosine_similarity", "projection_std", "effective_rank")


def tables(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Columns of every CSV file of a run whose metrics have these names."""
    return {
        "train": (*COUNTERS, "episode_return", *names),
        "eval": EVAL_COLUMNS,
        "eval_episodes": EPISODE_COLUMNS,
    }


def layout(names: Sequence[str]) -> dict[str, Any]:
    """TensorBoard's custom-scalars page: the charts that matter; Scalars has all of them."""
    losses = [name for name in names if name.startswith("loss/")]
    watched = [name for name in names if name.rpartition("/")[2] in _WATCHED]
    charts = {
        "score": {
            protocol.METRIC: [f"eval/{protocol.CHART}", f"train/{protocol.CHART}"],
            "normalized": ["eval/normalized_score"],
        },
        "losses": {name.removeprefix("loss/"): [name] for name in losses},
        "representation": {name: [name] for name in watched},
        "speed": {"agent steps per second": ["time/agent_steps_per_second"]},
    }
    return {
        page: {title: ["Multiline", tags] for title, tags in content.items()}
        for page, content in charts.items()
        if content
    }


def facts(cfg: DictConfig, parts: Parts) -> dict[str, Any]:
    """What `run.json` says about a run beside its status, versions and times."""
    return {
        **parts.env.identity(),
        "preset": cfg.preset,
        "budget": cfg.budget,
        "agent_steps": parts.plan.agent_steps,
        "env_steps": parts.plan.env_steps,
        "updates": parts.plan.updates,
        "device": str(parts.agent.device),
        "hardware": hardware(parts.agent.device),
    }


def banner(cfg: DictConfig, parts: Parts) -> dict[str, object]:
    """Lines shown before training."""
    plan, agent, device = parts.plan, parts.agent, parts.agent.device
    repeat, folder = cfg.environment.action_repeat, protocol.run_path(cfg)
    lines: dict[str, object] = {
        "run": f"{cfg.agent.name} on {cfg.task.name}, seed {cfg.seed}, preset {cfg.preset}",
        "protocol": ", ".join(f"{key} {value}" for key, value in parts.env.identity().items()),
        "budget": f"{cfg.budget:,} env steps = {plan.agent_steps:,} agent steps of {repeat}; "
        f"{plan.updates:,} updates, {len(plan.evaluations)} evaluations",
        "shapes": f"observation {parts.env.obs_shape} uint8, action ({parts.env.action_dim},)",
        "parameters": f"{agent.num_parameters:,} trained",
        "replay": f"{parts.replay.nbytes / 1e6:,.0f} MB for {plan.capacity:,} transitions",
        "device": f"{device} ({hardware(device)}), {cfg.precision}",
        "folder": folder,
        "curves": f"tensorboard --logdir {cfg.runs_dir}",
    }
    if device.type == "cpu" and cfg.preset == "paper":
        lines["expected"] = (
            f"about {expected_hours(parts):,.0f} hours without a GPU; preset=laptop takes minutes"
        )
    return lines


def expected_hours(parts: Parts) -> float:
    """Hours that the updates will take on the CPU, from their arithmetic and a timed product."""
    flops = parts.plan.updates * update_flops(parts.agent)
    return flops / matmul_rate(torch.device("cpu")) / 3600


def hardware(device: torch.device) -> str:
    """Name of the GPU, or of the processor and the threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()
