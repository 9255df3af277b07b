"""Run folders with known numbers, written as training writes them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mlr_atari.report import benchmark

BUDGET = 100_000
REPEAT = 1 if benchmark.STEP_COLUMN == "agent_step" else 4
PROTOCOL = "atari100k" if benchmark.STEP_COLUMN == "agent_step" else "dmcontrol"
"""Environment steps per agent step where the budget counts environment steps."""


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
    dotted = {f"{benchmark.TASK_KEY}.name": task, "agent.name": method, **(config or {})}
    for key, value in dotted.items():
        OmegaConf.update(settings, key, value)
    OmegaConf.save(settings, folder / "config.yaml")
    info = {
        "status": "finished",
        "protocol": PROTOCOL,
        "command": f"train.py {benchmark.TASK_KEY}={task} agent={method} seed={seed}",
        "revision": "abc123",
        "device": "cpu",
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "seconds": {"update": 1800.0, "evaluation": 1800.0},
        **record,
    }
    (folder / "run.json").write_text(json.dumps(info))
    with (folder / "eval.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["agent_step", "env_step", "episodes", "mean", "std", "normalized"])
        for step, mean in (curve or {}).items():
            writer.writerow([step // REPEAT, step, 2, mean, 0.0, benchmark.normalize(task, mean)])
    mean = sum(values) / len(values)
    score = {
        "agent_step": budget // REPEAT,
        "env_step": budget,
        "metric": "return",
        "values": list(values),
        "mean": mean,
        "normalized": benchmark.normalize(task, mean),
    }
    if final is None or final:
        (folder / "final.json").write_text(json.dumps(score | dict(final or {})))
    return folder
