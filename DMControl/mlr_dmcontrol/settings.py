"""The configuration of a run: read, checked and complete before anything expensive begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .environment import EPISODE_LENGTH, EnvironmentSettings
from .errors import ConfigError
from .objectives import available
from .protocol import SWEEPS, agent_steps
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
from .sac import SACSettings
from .tasks import BENCHMARK_TASKS, canonical

LAYOUT = Layout(
    Path(__file__).resolve().parents[1] / "configs",
    "task",
    canonical,
    SWEEPS,
)


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """What depends on the task; agents take the last three through `${task.…}`."""

    name: str
    action_repeat: int = bounded(1)
    cube_depth: int = bounded(1)
    learning_rate: float = bounded(above=0)
    target_ema_tau: float = bounded(above=0, high=1)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The loop."""

    learning_starts: int = bounded(1)


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """The replay buffer."""

    capacity: int = bounded(1)


@dataclass(frozen=True, kw_only=True)
class ScaleSettings:
    """Sizes that agents and the environment take through `${scale.…}`."""

    image_size: int = bounded(16)
    crop_size: int = bounded(16)
    patch_size: int = bounded(1)
    sequence_length: int = bounded(1)
    batch_size: int = bounded(1)
    sequence_batch_size: int = bounded(1)
    num_filters: int = bounded(1)
    conv_strides: tuple[int, ...] = bounded(1)
    hidden_dim: int = bounded(1)
    warmup_updates: int = bounded(0)


SECTIONS: Mapping[str, type] = {
    "scale": ScaleSettings,
    "task": TaskSettings,
    "environment": EnvironmentSettings,
    "training": TrainingSettings,
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
        print(help_text(LAYOUT, BENCHMARK_TASKS))
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
    check_agent(values["agent"], SACSettings, objectives)
    check_execution(values)
    _check_steps(values)
    _check_crop(values)
    check_patches(values["agent"], values["environment"]["image_size"])
    check_decoder(values["agent"], values["agent"].get("latent_dim"))
    _check_replay(values)


def _check_steps(cfg: Mapping[str, Any]) -> None:
    """Budget, action repeat and the start of learning fit together."""
    budget, repeat = cfg["budget"], cfg["environment"]["action_repeat"]
    if budget % repeat:
        raise ConfigError(
            f"budget={budget}: no multiple of environment.action_repeat={repeat}; "
            f"use {budget // repeat * repeat or repeat}"
        )
    starts, steps = cfg["training"]["learning_starts"], agent_steps(budget, repeat)
    if starts >= steps:
        raise ConfigError(
            f"training.learning_starts={starts}: the run ends after {steps} agent steps, before "
            f"any update; use a larger budget or fewer random steps"
        )


def _check_crop(cfg: Mapping[str, Any]) -> None:
    """Crops fit into the image."""
    agent, side = cfg["agent"], cfg["environment"]["image_size"]
    crop = agent.get("crop_size", side)
    if crop > side:
        raise ConfigError(
            f"agent.crop_size={crop}: larger than environment.image_size={side}; use at most {side}"
        )


def _check_replay(cfg: Mapping[str, Any]) -> None:
    """Sequences can be drawn at every update.

    A sequence holds no last transition of an episode, so an episode must be longer than one; and
    the first update comes when there are `learning_starts` transitions.
    """
    length = cfg["agent"].get("sequence_length", 1)
    environment = cfg["environment"]
    episode = -(-EPISODE_LENGTH // environment["action_repeat"])
    key = f"agent.sequence_length={length}"
    if length >= episode:
        raise ConfigError(f"{key}: an episode has {episode} agent steps; use less than that")
    starts = cfg["training"]["learning_starts"]
    if starts <= length:
        raise ConfigError(
            f"training.learning_starts={starts}: no sequence of {length} can be drawn so early; "
            f"use at least {length + 1}"
        )
    least = 2 * (length + environment["frame_stack"])
    if cfg["replay"]["capacity"] < least:
        raise ConfigError(
            f"replay.capacity={cfg['replay']['capacity']}: too small to hold sequences of "
            f"{length}; use at least {least}"
        )
