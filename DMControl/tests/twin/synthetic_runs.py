"""Run folders with known numbers, written as training writes them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mlr_dmcontrol import protocol

BUDGET = 100_000
REPEAT = 1 if protocol.STEP == "agent_step" else 4
"""Environment steps per agent step where the budget counts environment steps."""
PROTOCOL = "atari100k" if protocol.STEP == "agent_step" else "dmcontrol"
A, B, C = protocol.TASKS[:3]
BASELINE = protocol.BASELINE


def make_run(
    root: Path,
    task: str,
    method: str,
    seed: int,
    values: Sequence[float] = (1.0,),
    curve: Mapping[int, float] | None = None,
    *,
    budget: int = BUDGET,
    preset: str = "paper",
    config: Mapping[str, Any] | None = None,
    final: Mapping[str, Any] | None = None,
    **record: Any,
) -> Path:
    """Write a run folder; returns it.

    Args:
        values: episodes of the final evaluation.
        curve: mean by step of the evaluations in training.
        config: further keys of config.yaml, in dotted form.
        final: keys of final.json that are to be something else; empty means no such file.
        record: keys of run.json that are to be something else.
    """
    folder = root / task.replace("/", "-") / method / f"seed_{seed}"
    folder.mkdir(parents=True)
    settings = OmegaConf.create({"seed": seed, "preset": preset, "budget": budget})
    dotted = {f"{protocol.TASK_KEY}.name": task, "agent.name": method, **(config or {})}
    for key, value in dotted.items():
        OmegaConf.update(settings, key, value)
    OmegaConf.save(settings, folder / "config.yaml")
    info = {
        "status": "finished",
        "protocol": PROTOCOL,
        "command": f"train.py {protocol.TASK_KEY}={task} agent={method} seed={seed}",
        "revision": "abc123",
        "device": "cpu",
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "seconds": {"update": 1800.0, "evaluation": 1800.0},
        **record,
    }
    (folder / "run.json").write_text(json.dumps(info))
    _write_curve(folder, task, curve or {})
    if final is None or final:
        score = _score(task, values, budget) | dict(final or {})
        (folder / "final.json").write_text(json.dumps(score))
    return folder


def _write_curve(folder: Path, task: str, curve: Mapping[int, float]) -> None:
    with (folder / "eval.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["agent_step", "env_step", "episodes", "mean", "std", "normalized"])
        for step, mean in curve.items():
            writer.writerow([step // REPEAT, step, 2, mean, 0.0, protocol.normalize(task, mean)])


def _score(task: str, values: Sequence[float], budget: int) -> dict[str, Any]:
    mean = sum(values) / len(values)
    return {
        "agent_step": budget // REPEAT,
        "env_step": budget,
        "metric": "return",
        "values": list(values),
        "mean": mean,
        "normalized": protocol.normalize(task, mean),
    }


def raw(task: str, normalized: float) -> float:
    """The raw score that is `normalized` on this task."""
    low, high = protocol.normalize(task, 0.0), protocol.normalize(task, 1.0)
    return (normalized - low) / (high - low)


def make_sweep(root: Path) -> Path:
    """Two methods, two tasks, three seeds; normalised scores are seed/10 and, of `mlr`, +0.2."""
    for task in (A, B):
        for seed in (1, 2, 3):
            for method, bonus in (("mlr", 0.2), (BASELINE, 0.0)):
                final = seed / 10 + bonus
                values = [raw(task, final - 0.05), raw(task, final + 0.05)]
                curve = {step: raw(task, final * step / BUDGET) for step in (20_000, 60_000)}
                make_run(root, task, method, seed, values, curve)
    return root
