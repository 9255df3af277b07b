"""The configuration of a run: read, checked and complete before anything expensive begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .environment import EnvironmentSettings
from .errors import ConfigError
from .games import BENCHMARK_GAMES, canonical
from .objectives import available
from .protocol import SWEEPS
from .rainbow import RainbowSettings
from .ranges import bounded
from .run.command import Layout, as_plain, compose_overrides, finished, read_command
from .run.help import help_text
from .run.schema import (
    CheckpointSettings,
    EvaluationSettings,
    LoggingSettings,
    RunSettings,
    check_agent,
    check_decoder,
    check_execution,
    check_patches,
    check_section,
)

LAYOUT = Layout(
    Path(__file__).resolve().parents[1] / "configs",
    "game",
    canonical,
    SWEEPS,
)


@dataclass(frozen=True, kw_only=True)
class GameSettings:
    """What depends on the game; agents take the weights through `${game.mlr_weight}`."""

    name: str
    mlr_weight: float = bounded(0)
    curl_weight: float = bounded(0)


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """The replay buffer."""

    capacity: int = bounded(1)


@dataclass(frozen=True, kw_only=True)
class ScaleSettings:
    """Sizes that agents and the environment take through `${scale.…}`."""

    image_size: int = bounded(16)
    patch_size: int = bounded(1)
    sequence_length: int = bounded(1)
    cube_depth: int = bounded(1)
    batch_size: int = bounded(1)
    num_filters: tuple[int, ...] = bounded(1)
    hidden_dim: int = bounded(1)
    decoder_width: int | None = bounded(1)
    cycle_steps: int = bounded(1)
    virtual_per_action: int = bounded(1)
    cycle_ramp_agent_steps: int = bounded(1)


SECTIONS: Mapping[str, type] = {
    "scale": ScaleSettings,
    "game": GameSettings,
    "environment": EnvironmentSettings,
    "replay": ReplaySettings,
    "evaluation": EvaluationSettings,
    "logging": LoggingSettings,
    "checkpoint": CheckpointSettings,
}


def load(argv: Sequence[str]) -> DictConfig:
    """The complete configuration that a command line asks for.

    Prints and ends the process with code 0 for `--help` and `--print-config`.

    Args:
        argv: the words after `train.py`.

    Raises:
        ConfigError: the first thing that is wrong, in one line.
    """
    if "--help" in argv or "-h" in argv:
        print(help_text(LAYOUT, BENCHMARK_GAMES))
        raise SystemExit(0)
    command = read_command(argv, LAYOUT)
    cfg = compose(command.overrides)
    if command.print_config:
        print(OmegaConf.to_yaml(cfg), end="")
        raise SystemExit(0)
    return cfg


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose, resolve and check one job; read-only. Command line and launchers both end here.

    Args:
        overrides: as `command.normalise` leaves them.

    Raises:
        ConfigError: as `load`.
    """
    cfg = compose_overrides(overrides, LAYOUT)
    check_values(as_plain(cfg))
    return finished(cfg, LAYOUT)


def check_values(values: Mapping[str, Any]) -> None:
    """Every type and range, and the rules that tie several keys together.

    Args:
        values: a composed and resolved configuration, nested plain values.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    check_section(RunSettings, values, "", also=[*SECTIONS, "agent"])
    for name, settings_type in SECTIONS.items():
        check_section(settings_type, values[name], name)
    objectives = {name: kind.settings_type for name, kind in available().items()}
    check_agent(values["agent"], RainbowSettings, objectives)
    check_execution(values)
    _check_steps(values)
    check_patches(values["agent"], values["environment"]["image_size"])
    check_decoder(values["agent"], None)
    _check_replay(values)


def _check_steps(cfg: Mapping[str, Any]) -> None:
    """Learning starts within the budget."""
    budget, starts = cfg["budget"], cfg["agent"]["learning_starts"]
    if starts >= budget:
        raise ConfigError(
            f"agent.learning_starts={starts}: the run ends after {budget} agent steps, before "
            f"any update; use a larger budget or fewer random steps"
        )


def _check_replay(cfg: Mapping[str, Any]) -> None:
    """Sequences with their n-step returns can be drawn at every update."""
    agent = cfg["agent"]
    length, n_step = agent["sequence_length"], agent["n_step"]
    # The newest steps are off limits, and so are those whose frames the ring has overwritten.
    span = length + n_step + cfg["environment"]["frame_stack"]
    starts = cfg["agent"]["learning_starts"]
    if starts <= span:
        raise ConfigError(
            f"agent.learning_starts={starts}: no sequence of {length} with {n_step}-step "
            f"returns can be drawn so early; use at least {span + 1}"
        )
    if cfg["replay"]["capacity"] <= span:
        raise ConfigError(
            f"replay.capacity={cfg['replay']['capacity']}: too small to hold a sequence of "
            f"{length} with {n_step}-step returns; use at least {span + 1}"
        )
