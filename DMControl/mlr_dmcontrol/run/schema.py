"""What may stand in a configuration: the sections that both benchmarks share, and the checks.

Defaults are not here but in `configs/`; this file holds types, ranges and the wording of errors.
A section that belongs to one benchmark is a dataclass in its `run/config.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..ranges import bounded, check, choice

# Sections that only feed other keys through ${...}; the resolved configuration leaves them out.
SOURCES = ("scale",)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Keys at the top of the configuration."""

    preset: str
    budget: int = bounded(1)
    seed: int = bounded(0, 2**31 - 1)
    device: str
    precision: str = choice("fp32", "tf32", "bf16")
    compile: bool
    cuda_graph: bool
    deterministic: bool
    threads: int = bounded(0)
    runs_dir: str
    tag: str
    resume: str = choice("auto", "never", "must")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How often and how long the policy is scored, in the benchmark's own steps and episodes."""

    every: int = bounded(1)
    episodes: int = bounded(1)
    final_episodes: int = bounded(1)
    processes: int = bounded(0)


@dataclass(frozen=True, kw_only=True)
class LoggingSettings:
    """How often metrics are fetched from the device and written."""

    every: int = bounded(1)


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When the run is saved, and how many saves stay."""

    every_minutes: float = bounded(0)
    every_steps: int = bounded(0)
    keep: int = bounded(2)


def suggestion(word: str, known: Sequence[str]) -> str:
    """`did you mean X?`, or the choices when nothing is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"


def check_section(settings_type: type, values: Any, prefix: str, also: Sequence[str] = ()) -> None:
    """Check one section: no key unknown, none missing, each of its type and in its range.

    Args:
        also: keys that are known although `settings_type` has no such field.

    Raises:
        ConfigError: for the first key that is wrong.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{prefix}={values}: is a section; set its keys, {prefix}.<key>=<value>")
    known = [field.name for field in dataclasses.fields(settings_type)] + list(also)
    for key in values:
        if key not in known:
            name = f"{prefix}.{key}" if prefix else str(key)
            raise ConfigError(f"{name}={values[key]}: unknown key; {suggestion(str(key), known)}")
    check(settings_type, values, prefix)


def check_agent(
    values: Mapping[str, Any],
    agent_settings: type,
    objective_settings: Mapping[str, type],
) -> None:
    """Check the flat `agent` section: its name, its objective's name, and the keys of both.

    Raises:
        ConfigError: as `check_section`, or for an objective that does not exist.
    """
    objective = values.get("objective")
    if objective is not None and objective not in objective_settings:
        known = sorted(objective_settings)
        raise ConfigError(
            f"agent.objective={objective}: no such objective; {suggestion(str(objective), known)}"
        )
    own = ["name", "objective"]
    if objective is not None:
        settings = objective_settings[objective]
        own += [field.name for field in dataclasses.fields(settings)]
        check(settings, values, "agent")
    check_section(agent_settings, values, "agent", also=own)
    if not values["rl"] and (objective is None or not values[f"{objective}_weight"]):
        raise ConfigError(
            f"agent.rl=false: agent={values['name']} has no objective to train by itself; "
            f"choose one that has, such as agent=mlr"
        )


def check_device(device: str) -> None:
    """Check that `device` is well spelt and, if it is a GPU, there.

    PyTorch is imported only for `cuda` and `cuda:n`.

    Raises:
        ConfigError: a wrong word, no GPU, or a number beyond the last GPU.
    """
    if device in ("auto", "cpu"):
        return
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise ConfigError(f"device={device}: unknown device; write auto, cpu, cuda or cuda:<n>")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        why = "" if torch.version.cuda else " (this PyTorch is built for the CPU)"
        raise ConfigError(f"device={device}: no GPU found{why}; use device=cpu or device=auto")
    if int(match[1] or 0) >= count:
        names = ", ".join(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(count))
        raise ConfigError(f"device={device}: no such GPU; there is {names}")


def check_execution(cfg: Mapping[str, Any]) -> None:
    """Rules among the top-level keys that say how the run is computed.

    Raises:
        ConfigError: for the first pair that does not go together.
    """
    check_device(cfg["device"])
    if cfg["compile"] and cfg["deterministic"]:
        raise ConfigError("compile=true: does not go with deterministic=true; set one to false")
    if cfg["cuda_graph"] and cfg["device"] == "cpu":
        raise ConfigError("cuda_graph=true: needs a GPU; use cuda_graph=false with device=cpu")
    if cfg["tag"] and re.fullmatch(r"[\w.+=-]+", cfg["tag"]) is None:
        raise ConfigError(
            f"tag={cfg['tag']}: becomes part of a folder's name; use letters, digits,"
            " and any of . _ + = -"
        )
    if not cfg["runs_dir"]:
        raise ConfigError("runs_dir=: is empty; name a folder, such as runs_dir=runs")


def check_decoder(agent: Mapping[str, Any], latent_dim: int | None) -> None:
    """The decoder's width can be shared out among its heads.

    Args:
        latent_dim: the width that `decoder_width: null` stands for, if it is known.

    Raises:
        ConfigError: it cannot.
    """
    width, heads = agent.get("decoder_width") or latent_dim, agent.get("decoder_heads", 1)
    if width is not None and width % heads:
        divisors = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0)
        raise ConfigError(
            f"agent.decoder_heads={heads}: does not divide the decoder's width {width}; "
            f"use one of {divisors}"
        )


def check_patches(agent: Mapping[str, Any], image_size: int) -> None:
    """Patches tile the image.

    Raises:
        ConfigError: they do not.
    """
    patch = agent.get("patch_size", 1)
    if image_size % patch:
        divisors = ", ".join(str(n) for n in range(2, image_size + 1) if image_size % n == 0)
        raise ConfigError(
            f"agent.patch_size={patch}: does not divide environment.image_size={image_size}; "
            f"use one of {divisors}"
        )
