"""A plan: what is claimed, and the runs that decide it, written down before they are run.

`results/README.md` shows the file. A sweep does what a plan lacks, since a run that is finished is
left alone, and `report.py --plan` says what came out. Needs neither PyTorch, Hydra nor pandas.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from ..errors import ConfigError
from .disk import fields, one_line
from .schema import SWEEP_KEYS, bounded, choice, construct

MOST_RUNS = 10_000
_OF_THE_PLAN = ("agent", "preset", "budget", "seed")


@dataclass(frozen=True, kw_only=True)
class HoldsIf:
    """What must be shown of every method against the other one."""

    test: str = choice("welch")
    above: float
    ahead_on: int = bounded(0)
    p: float = bounded(above=0, below=0.5)


@dataclass(frozen=True, kw_only=True)
class Power:
    """The chance `at` which the test shows a `gain` (a share of the other's mean) that is there."""

    gain: float = bounded(above=0)
    at: float = bounded(above=0, below=1)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan as it was read; `subject` is `task` or `game`."""

    subject: str
    hypothesis: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    against: str
    preset: str
    budget: int = bounded(1)
    seeds: tuple[int, ...] = bounded(0, 99)
    holds_if: HoldsIf
    power: Power
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises: ConfigError: values that do not go together."""
        named = {f"{self.subject}s": self.tasks, "methods": self.names[:-1], "seeds": self.seeds}
        for key, names in named.items():
            if not names or len({*names, self.names[-1]}) <= len(names):
                shown = one_line(list(names))
                raise ConfigError(f"{key}={shown}: must be at least one, and none twice")
        ahead, most = self.holds_if.ahead_on, len(self.tasks)
        if ahead > most:
            raise ConfigError(f"holds_if.ahead_on={ahead}: must be at most {most} {self.subject}s")
        if len(self.tasks) * len(self.names) * len(self.seeds) > MOST_RUNS:
            raise ConfigError(f"seeds: more than {MOST_RUNS:,} runs; plan fewer")
        for word in self.overrides:
            _check(word, (self.subject, "tag", *_OF_THE_PLAN))

    @property
    def names(self) -> list[str]:
        """Methods, as `<agent>` or `<agent>-<tag>`, the one that others are compared with last."""
        return [method for method, _ in self._spelled]

    @property
    def runs(self) -> dict[tuple[str, str, int], tuple[str, ...]]:
        """By task, method and seed the words that start a run, as typed behind `train.py`."""
        common = (f"preset={self.preset}", f"budget={self.budget}", *self.overrides)
        return {
            (task, method, seed): (f"{self.subject}={task}", *words, *common, f"seed={seed}")
            for task, seed, (method, words) in product(self.tasks, self.seeds, self._spelled)
        }

    @property
    def _spelled(self) -> list[tuple[str, list[str]]]:
        spelled = []
        for key, text in (*(("methods", text) for text in self.methods), ("against", self.against)):
            try:
                agent, *words = shlex.split(text) or [""]
            except ValueError as error:
                raise ConfigError(f"{key}={text}: cannot be read ({error})") from error
            if not re.fullmatch(r"\w+", agent):
                raise ConfigError(f"{key}={text}: must be an agent, and <key>=<value> words")
            for word in words:
                _check(word, (self.subject, *_OF_THE_PLAN))
            tags = [word.removeprefix("tag=") for word in words if word.startswith("tag=")]
            spelled.append(("-".join([agent, *tags]), [f"agent={agent}", *words]))
        return spelled


def read(path: Path, subject: str, canonical: Callable[[str], str]) -> Plan:
    """The plan in a YAML file.

    Args:
        subject: `task` or `game`; the key is its plural.
        canonical: from any spelling of one to its name; raises ConfigError.

    Raises: ConfigError: the file cannot be read, or is not such a plan.
    """
    try:
        values, key = dict(fields(path).content), f"{subject}s"
        names = values.pop(key, None)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"{key}={one_line(names)}: must be a list of names")
        own = {"subject": subject, "tasks": list(map(canonical, names))}
        if taken := sorted(own.keys() & values.keys()):
            raise ConfigError(f"{taken[0]}: no key of a plan here; use {key}")
        return construct(Plan, values | own)
    except (ConfigError, OSError) as error:
        raise ConfigError(f"plan={path}: {one_line(error)}") from error


def _check(word: str, taken: tuple[str, ...]) -> None:
    """Raises: ConfigError: the word of a method, or of every run, is not one or not free."""
    key, equals, _ = word.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
        raise ConfigError(f"{one_line(word)}: must be <key>=<value>")
    if key in taken:
        raise ConfigError(f"{one_line(word)}: has a key of its own in the plan; use that")
    if key.partition(".")[0] in ("runs_dir", "resume", *SWEEP_KEYS):
        raise ConfigError(f"{one_line(word)}: does not belong to a plan; type it beside plan=")
