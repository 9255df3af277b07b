"""An objective trained by itself on frames of a random policy: does it collapse without RL?"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ..errors import ConfigError
from ..parts import Parts
from ..run.seeding import Streams
from . import world

Row = dict[str, Any]

SIGNS = ("loss", "projection_std", "effective_rank")


def train_alone(cfg: DictConfig, parts: Parts, updates: int, frames: int, every: int) -> list[Row]:
    """Train the objective of `parts.agent` in place, without rewards and without RL.

    Args:
        updates: of the objective. frames: of a random policy, that it learns from.
        every: updates between two rows.

    Returns:
        Rows with `update` and the signs of a collapse.

    Raises:
        ConfigError: the agent has no objective.
    """
    name, objective = cfg.agent.objective, parts.agent.objective
    if objective is None:
        raise ConfigError(f"agent={cfg.agent.name}: has no objective that could be trained alone")
    streams, rows = Streams(cfg.seed), []
    world.fill(parts, streams, frames)
    for update in range(1, updates + 1):
        metrics, batch, noise = world.objective_step(parts, streams, update)
        if update == 1 or update % every == 0 or update == updates:
            loss = {f"loss/{name}": float(metrics[f"loss/{name}"])}
            seen = objective.diagnostics(parts.agent.encoder, batch, noise.objective)
            rows.append({"update": update} | _signs(name, loss | seen))
    return rows


def along_run(cfg: DictConfig, run: Path) -> list[Row]:
    """The same signs of a run, with RL, from its train.csv; none without an objective."""
    name = cfg.agent.objective
    if name is None:
        return []
    with (run / "train.csv").open(newline="", encoding="utf-8") as file:
        return [
            {"update": int(row["update_step"])} | _signs(name, row)
            for row in csv.DictReader(file)
            if row[f"loss/{name}"]
        ]


def _signs(name: str, values: Mapping[str, Any]) -> Row:
    keys = {sign: f"{name}/{sign}" for sign in SIGNS} | {"loss": f"loss/{name}"}
    return {sign: float(values.get(key) or math.nan) for sign, key in keys.items()}
