"""Settings as dataclasses: what may stand in a field, and the sections that every run has.

A part's settings are a frozen dataclass without defaults (defaults live in YAML). Its fields say
which values make sense, as `mask_ratio: float = bounded(0, 1)`, and `construct` turns a violation
into one line for the user. A rule between fields is in `__post_init__` of the class that has them.
"""

import dataclasses
import importlib.util
import json
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError, suggestion
from .disk import nameable

LAUNCHER_KEYS = ("launcher", "runs_per_gpu", "jobs_at_once")
SWEEP_KEYS = (*LAUNCHER_KEYS, "ablation", "plan")  # none of a run
_MOST_EVALUATIONS = 100_000
LARGEST = 2**31 - 1  # of every number: what lies beyond is a slip, and some libraries hang on it

SettingsType = TypeVar("SettingsType")

_ENDS = {"at least": ge, "above": gt, "at most": le, "below": lt}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def bounded(
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    default: Any = dataclasses.MISSING,
) -> Any:
    """A number, or a list of numbers, in `[low, high]`; `above` and `below` exclude the end.

    `default` is for those who make the settings by hand; a run's are in YAML.
    """
    ends = {"at least": low, "above": above, "at most": high, "below": below}
    ends = {word: end for word, end in ends.items() if end is not None}
    return field(default=default, metadata={"ends": ends})


def choice(*values: str | int, default: Any = dataclasses.MISSING) -> Any:
    """One of `values`, or a list of some of them."""
    return field(default=default, metadata={"choices": values})


def construct(kind: type[SettingsType], values: Any, section: str = "") -> SettingsType:
    """A dataclass of the user's section from nested plain values; lists become tuples.

    Raises: ConfigError: the first key that is unknown, missing, of a wrong type or out of range.
    """
    if isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{section}={values}: is a section; set its keys, {section}.<key>=…")
    prefix = f"{section}." if section else ""
    known = {key.name: key for key in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints, arguments = typing.get_type_hints(kind), {}
    for name in values:
        if name not in known:
            remedy = suggestion(str(name), list(known))
            raise ConfigError(f"{prefix}{name}={values[name]}: unknown key; {remedy}")
    for name, key in known.items():
        if name in values:
            arguments[name] = _value(values[name], hints[name], key.metadata, prefix + name)
        elif key.default is dataclasses.MISSING:
            raise ConfigError(f"{prefix}{name}: missing; it needs a value in the YAML")
    return kind(**arguments)


def _value(value: Any, kind: Any, rule: Mapping[str, Any], key: str) -> Any:
    """`value` as a field of type `kind` holds it; raises ConfigError."""
    kinds = typing.get_args(kind)
    if type(None) in kinds:
        return None if value is None else _value(value, kinds[0], rule, key)
    if dataclasses.is_dataclass(kind):
        return construct(kind, value, key)  # type: ignore[arg-type]
    if typing.get_origin(kind) is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}={value}: must be a mapping, such as {{level: 3}}")
        return dict(value)
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"{key}={value}: must be a list, such as [{value}]")
        if "ends" in rule and not value:
            raise ConfigError(f"{key}=[]: must hold a number at least")
        return tuple(_value(one, kinds[0], rule, f"{key}[{i}]") for i, one in enumerate(value))
    ends, choices = rule.get("ends", {}), [str(word) for word in rule.get("choices", (value,))]
    if not (type(value) is kind or (kind is float and type(value) is int)):
        problem = f"must be {_KINDS[kind]}"
    elif kind in (int, float) and not abs(value) <= LARGEST:  # also where it is not a number
        problem = f"must be finite and at most {LARGEST}"
    elif not all(_ENDS[word](value, end) for word, end in ends.items()):
        problem = f"must be {' and '.join(f'{word} {end}' for word, end in ends.items())}"
    elif str(value) not in choices:
        problem = f"no such choice; {suggestion(str(value), choices)}"
    else:
        return float(value) if kind is float else value
    shown = json.dumps(value) if value is None or isinstance(value, bool) else value
    raise ConfigError(f"{key}={shown}: {problem}")


# ---- what every run has ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is played. Its other values are where they are used, since two copies could differ."""

    name: str


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How often and how long the policy is scored, in the benchmark's own steps and episodes."""

    every: int = bounded(1)
    episodes: int = bounded(1, 10_000)
    final_episodes: int = bounded(1, 10_000)
    processes: int | None = bounded(0, 1024)


@dataclass(frozen=True, kw_only=True)
class LoggingSettings:
    """How often metrics are fetched from the device and written, and who charts them."""

    every: int = bounded(1)
    # The default is that of runs from before there was a choice.
    sinks: tuple[str, ...] = choice("tensorboard", "wandb", default=("tensorboard",))

    def __post_init__(self) -> None:
        """Raises: ConfigError: a sink is not installed."""
        if "wandb" in self.sinks and importlib.util.find_spec("wandb") is None:
            raise ConfigError("logging.sinks=[wandb]: is not installed; pip install wandb")


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When the run is saved, and how many saves stay."""

    every_minutes: float = bounded(0)
    every_steps: int = bounded(0)
    keep: int = bounded(2)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The top of a configuration; a benchmark's own adds sections."""

    preset: str
    budget: int = bounded(1)
    seed: int = bounded(0)
    device: str
    precision: str = choice("fp32", "tf32", "bf16")
    compile: bool
    cuda_graph: bool
    fused_kernels: bool
    deterministic: bool
    threads: int = bounded(0, 1024)
    runs_dir: str
    tag: str
    resume: str = choice("auto", "never", "must")
    evaluation: EvaluationSettings
    logging: LoggingSettings
    checkpoint: CheckpointSettings

    def __post_init__(self) -> None:
        """Raises: ConfigError: a device that is not there, or keys that do not go together."""
        check_device(self.device)
        if self.budget > _MOST_EVALUATIONS * self.evaluation.every:  # which are kept in a list
            remedy = f"more than {_MOST_EVALUATIONS} evaluations; use a larger one"
            raise ConfigError(f"evaluation.every={self.evaluation.every}: {remedy}")
        if self.compile and self.deterministic:
            raise ConfigError("compile=true: does not go with deterministic=true; set one to false")
        for key in ("cuda_graph", "fused_kernels"):
            if getattr(self, key) and not self.uses_gpu:
                raise ConfigError(f"{key}=true: needs a GPU; set {key}=false")
        if re.fullmatch(r"[\w.+=-]{0,100}", self.tag) is None:
            remedy = "use up to 100 letters, digits, and any of . _ + = -"
            raise ConfigError(f"tag={self.tag}: becomes part of a folder's name; {remedy}")
        if not self.runs_dir or not nameable(self.path):
            problem = "is empty, or a folder's name is too long; name a folder, as runs_dir=runs"
            raise ConfigError(f"runs_dir={self.runs_dir}: {problem}")

    @property
    def path(self) -> Path:
        """The run's folder: `<runs_dir>/<task or game>/<agent>[-tag]/seed_<seed>`."""
        own: Any = self  # with the benchmark's sections
        subject = re.sub(r"[^\w.-]+", "-", own.subject)  # my.package:Game-v0: my.package-Game-v0
        method = "-".join(filter(None, (own.agent.name, self.tag)))
        return Path(self.runs_dir) / subject / method / f"seed_{self.seed}"

    @property
    def uses_gpu(self) -> bool:
        """Whether the run is computed on a GPU."""
        import torch  # slow

        return self.device != "cpu" and torch.cuda.is_available()


def check_device(device: str) -> None:
    """Raises: ConfigError: `device` is misspelt, or a GPU that is not there."""
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d{1,9}))?", device)
    if match is None:
        raise ConfigError(f"device={device}: unknown device; write auto, cpu, cuda or cuda:<n>")
    if device.startswith("cuda"):
        import torch

        count = torch.cuda.device_count()
        if int(match[1] or 0) >= count:
            finds = f"PyTorch {torch.__version__} finds {count}"
            raise ConfigError(f"device={device}: no such GPU; {finds}, use device=auto")
