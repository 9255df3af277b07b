"""Reading finished and unfinished run folders.

A run folder is `runs/<task or game>/<agent>[-tag]/seed_<n>/`; its parent's name is the method.
Read are

- `config.yaml`: the resolved configuration: `CONFIG_KEYS`, `<task or game>.name`, all the rest;
- `run.json`: keys `RUN_KEYS`; for `repro.md` also `FACT_KEYS` and `seconds`, by phase;
- `eval.csv`: columns `EVAL_COLUMNS`, one row per evaluation during training;
- `final.json`: keys `FINAL_KEYS`, the final policy at exactly the budget, one value per episode.

Everything is plain text: a report needs neither the networks nor the simulator.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from .. import protocol
from ..errors import ConfigError
from ..run.folder import MAY_CHANGE, flatten

CONFIG_KEYS = ("seed", "preset", "budget")
"""Required in config.yaml. `budget` counts in the benchmark's own unit, `protocol.STEP`."""
RUN_KEYS = ("status", "protocol")
"""Required in run.json; `last_error`, `host` and `pid` are read if they are there."""
FACT_KEYS = (
    "revision", "device", "hardware", protocol.SIMULATOR, "versions", "started", "finished",
)  # fmt: skip
"""Reproducibility facts in run.json, reported as they are; and `command`, `hours`."""
EVAL_COLUMNS = ("agent_step", "env_step", "episodes", "mean", "std", "normalized")
FINAL_KEYS = ("agent_step", "env_step", "metric", "values", "mean", "normalized")
STATUSES = ("running", "finished", "preempted", "failed")

INCIDENTAL = (*MAY_CHANGE, "seed", "tag", "deterministic", "evaluation")
"""Configuration keys, or sections, in which the runs of one method on one task may differ.

Evaluating does not touch training; the length of the final evaluation is compared by itself."""


class Setting(NamedTuple):
    """What runs must share before their scores may be put side by side."""

    protocol: str
    preset: str
    budget: int

    def __str__(self) -> str:
        return (
            f"protocol {self.protocol}, preset {self.preset}, {self.budget:,} {protocol.STEP_NAME}"
        )

    def short(self, fields: Iterable[str]) -> str:
        """Only some of it, as what tells it from others."""
        return ", ".join(f"{name} {getattr(self, name)}" for name in fields)


@dataclass(frozen=True)
class Point:
    """One evaluation: `mean` over `episodes` episodes, in raw score or return."""

    agent_step: int
    env_step: int
    episodes: int
    mean: float

    @property
    def step(self) -> int:
        """Position on the benchmark's step axis."""
        return self.env_step if protocol.STEP == "env_step" else self.agent_step


@dataclass(frozen=True)
class Run:
    """One training run, from its folder or from a row of `results/runs.csv`."""

    method: str
    task: str
    seed: int
    setting: Setting
    status: str
    final: Point | None
    values: tuple[float, ...]
    """Return or score of each episode of the final evaluation."""
    curve: tuple[Point, ...]
    """Evaluations in order of steps; the last one is the final evaluation, if there is one."""
    settings: str
    """Digest of `config`, so that settings can be compared where only a row of results is left."""
    facts: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    """Flat configuration without the `INCIDENTAL` keys; empty for a row of results."""
    error: str = ""
    process: tuple[str, int] = ("", 0)
    """Host and process id of the last start."""
    origin: str = ""

    @property
    def name(self) -> str:
        """`<task>/<method>/seed_<n>`, as the folder."""
        return f"{self.task}/{self.method}/seed_{self.seed}"

    @property
    def normalized(self) -> float:
        """Normalised final score; NaN without one."""
        return protocol.normalize(self.task, self.final.mean) if self.final else math.nan


def find(paths: Iterable[Path]) -> list[Path]:
    """Run folders at or below the given paths, each once, in order.

    Raises:
        ConfigError: a path that does not exist.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"RUNS={path}: no such folder; give a run folder or one above it")
        for marker in sorted(path.rglob("run.json")):
            found[marker.parent.resolve()] = None
    return list(found)


def read(folder: Path) -> Run:
    """One run folder.

    Raises:
        ConfigError: a file or key that a run of this project always has is missing or malformed.
    """
    info = _json(folder / "run.json", RUN_KEYS)
    config = _config(folder / "config.yaml")
    task = config.get(protocol.TASK_KEY)
    missing = [key for key in CONFIG_KEYS if key not in config]
    if missing or not isinstance(task, Mapping) or "name" not in task:
        wanted = ", ".join([f"{protocol.TASK_KEY}.name", *CONFIG_KEYS])
        raise ConfigError(f"{folder}/config.yaml: needs {wanted}")
    if info["status"] not in STATUSES:
        raise ConfigError(f"{folder}/run.json: status={info['status']}; known: {STATUSES}")
    final, values = _final(folder / "final.json")
    shared = comparable(config)
    return Run(
        method=folder.parent.name,
        task=str(task["name"]),
        seed=int(config["seed"]),
        setting=Setting(str(info["protocol"]), str(config["preset"]), int(config["budget"])),
        status=str(info["status"]),
        final=final,
        values=values,
        curve=join_final(_points(folder / "eval.csv"), final),
        settings=digest(shared),
        facts=_facts(info),
        config=shared,
        error=text(info.get("last_error") or ""),
        process=(str(info.get("host") or ""), int(info.get("pid") or 0)),
        origin=str(folder),
    )


def join_final(points: Iterable[Point], final: Point | None) -> tuple[Point, ...]:
    """Evaluations with the final one at the end, which replaces those at its step or later."""
    kept = [point for point in points if final is None or point.step < final.step]
    return tuple(kept) if final is None else (*kept, final)


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration by dotted key, without what seeds and machines may differ in."""
    return {
        key: value
        for key, value in flatten(config).items()
        if not any(key == each or key.startswith(f"{each}.") for each in INCIDENTAL)
    }


def digest(shared: Mapping[str, Any]) -> str:
    """Short fingerprint of a comparable configuration, the same for all seeds."""
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]


def text(value: Any) -> str:
    """A fact as one line; a mapping as `key=value` pairs."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}={text(value[key])}" for key in value)
    if isinstance(value, list):
        return " ".join(text(item) for item in value)
    return " ".join(str(value).split())


def _facts(info: Mapping[str, Any]) -> dict[str, str]:
    facts = {key: text(info[key]) for key in FACT_KEYS if info.get(key) is not None}
    if info.get("command"):
        facts["command"] = command(str(info["command"]))
    if isinstance(info.get("seconds"), Mapping):
        facts["hours"] = f"{sum(info['seconds'].values()) / 3600:.2f}"
    return facts


def command(recorded: str) -> str:
    """A recorded command line without the places that exist on one machine only."""
    program, *words = shlex.split(recorded)
    kept = [word for word in words if not word.startswith("runs_dir=")]
    return shlex.join(["python", Path(program).name, *kept])


def _json(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a JSON object")
    missing = [key for key in keys if key not in content]
    if missing:
        raise ConfigError(f"{path}: no {', '.join(missing)}")
    return content


def _config(path: Path) -> dict[str, Any]:
    # The loader that wrote it: plain YAML readers take 1e-4 for a string.
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a mapping")
    return {str(key): value for key, value in content.items()}


def _final(path: Path) -> tuple[Point | None, tuple[float, ...]]:
    if not path.is_file():
        return None, ()
    content = _json(path, FINAL_KEYS)
    values = tuple(float(value) for value in content["values"])
    mean = math.nan if content["mean"] is None else float(content["mean"])
    return Point(int(content["agent_step"]), int(content["env_step"]), len(values), mean), values


def _points(path: Path) -> list[Point]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in EVAL_COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(f"{path}: no column {', '.join(missing)}")
        points = [
            Point(
                int(row["agent_step"]),
                int(row["env_step"]),
                int(row["episodes"]),
                float(row["mean"]),
            )
            for row in reader
        ]
    return sorted(points, key=lambda point: point.step)
