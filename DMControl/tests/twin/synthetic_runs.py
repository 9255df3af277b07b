"""Run folders with known numbers, written as training writes them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mlr_dmcontrol import protocol

BUDGET = 100_000
# Environment steps per agent step where the budget counts environment steps.
REPEAT, PROTOCOL = (1, "atari100k") if protocol.STEP == "agent_step" else (4, "dmcontrol")
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

    Args: `values`: of the final episodes. `curve`: mean by step. `config`: further keys, dotted.
    `final`, `record`: what is to be something else in final.json (`{}`: no such file), run.json.
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
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "seconds": {"update": 1800.0, "evaluation": 1800.0},
    }
    (folder / "run.json").write_text(json.dumps(info | record))
    rows = [f"{step // REPEAT},{step},2,{mean},0,0\n" for step, mean in (curve or {}).items()]
    header = "agent_step,env_step,episodes,mean,std,normalized\n"
    (folder / "eval.csv").write_text(header + "".join(rows))
    score = {"agent_step": budget // REPEAT, "env_step": budget}
    score |= {"values": list(values), "mean": sum(values) / len(values), **(final or {})}
    if final != {}:
        (folder / "final.json").write_text(json.dumps(score))
    return folder


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
