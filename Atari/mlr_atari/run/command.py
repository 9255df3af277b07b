"""The command line: what the user wrote, turned into overrides that Hydra composes.

Hydra's own errors span many lines and speak of its internals, so what can be wrong with a key, a
group's option or a spelling is found here first and said in one line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError
from .folder import flatten
from .schema import SOURCES, suggestion

_TEXT_KEYS = ("runs_dir", "tag")  # quoted before Hydra sees them, so that any text is fine
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}


@dataclass(frozen=True)
class Layout:
    """Where a benchmark's configuration lies and how its tasks or games are called."""

    directory: Path  # of train.yaml
    subject: str  # the group that says what is played: "task" or "game"
    canonical: Callable[[str], str]  # any spelling -> the name used everywhere; raises ConfigError
    sets: Mapping[str, tuple[str, ...]]  # names for several tasks or games in a sweep, as `all`

    @property
    def groups(self) -> list[str]:
        """The folders beside train.yaml: agent, preset, task or game, …"""
        return sorted(each.name for each in self.directory.iterdir() if each.is_dir())

    def options(self, group: str) -> list[str]:
        """The YAML files of a group that a user may choose."""
        stems = (path.stem for path in (self.directory / group).glob("*.yaml"))
        return sorted(stem for stem in stems if stem != "base")


@dataclass(frozen=True)
class Command:
    """A command line, read."""

    overrides: tuple[str, ...]  # for Hydra; names canonical, budgets in digits
    show_help: bool
    print_config: bool
    multirun: bool


def read_command(argv: Sequence[str], layout: Layout) -> Command:
    """Sort `argv` into options and overrides.

    Raises:
        ConfigError: an unknown option, or a word without `=`.
    """
    flags = {"--help", "-h", "--print-config", "--multirun", "-m"}
    words = [word for word in argv if word not in flags]
    multirun = "-m" in argv or "--multirun" in argv
    return Command(
        overrides=tuple(normalise(words, layout, multirun=multirun)),
        show_help="--help" in argv or "-h" in argv,
        print_config="--print-config" in argv,
        multirun=multirun,
    )


def normalise(words: Iterable[str], layout: Layout, *, multirun: bool = False) -> list[str]:
    """Overrides with every value in the one spelling that the rest of the code knows.

    A task or game without a YAML file of its own becomes a node of Hydra's ConfigStore, built on
    the group's `base`; launchers hand that store on to their jobs.

    Raises:
        ConfigError: a word that is no `key=value`, an unknown name, an unreadable budget.
    """
    result = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[\w./@-]+", key) or key.startswith("-"):
            raise ConfigError(f"{word}: not understood; write <key>=<value>, or see --help")
        if key == layout.subject:
            value = _without_sets(value, layout, multirun)
            value = _each(value, lambda name: register(name, layout), multirun)
        elif key == "budget":
            value = _each(value, _in_digits, multirun)
        elif key in _TEXT_KEYS:
            value = _each(value, _quoted, multirun)
        result.append(f"{key}={value}")
    return result


def register(name: str, layout: Layout) -> str:
    """The config option of a task or game in any spelling, put into Hydra's store if need be.

    Raises:
        ConfigError: from `layout.canonical`.
    """
    canonical = layout.canonical(name)
    option = re.sub(r"[^\w.-]+", "-", canonical)
    if option not in layout.options(layout.subject):
        node = {"defaults": ["base", "_self_"], "name": canonical}
        ConfigStore.instance().store(group=layout.subject, name=option, node=node)
    return option


def compose_overrides(overrides: Sequence[str], layout: Layout) -> DictConfig:
    """Compose train.yaml with normalised overrides and resolve every `${...}`.

    Adds what was chosen: `preset`, and `name` in the section `agent`.

    Raises:
        ConfigError: an unknown key or option, or anything that Hydra or OmegaConf objects to.
    """
    groups, values = _split(overrides, layout)
    try:
        with _hydra(layout.directory):
            cfg = compose("train", [*groups, *values], return_hydra_config=True)
        with open_dict(cfg):
            choices = cfg.pop("hydra").runtime.choices
            cfg.preset = choices.preset
            cfg.agent = {"name": choices.agent, **cfg.agent}
        OmegaConf.resolve(cfg)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        with suppress(HydraException), _hydra(layout.directory):
            _check_keys(values, compose("train", groups))
        raise ConfigError(_one_line(error, overrides)) from error
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError(f"{missing[0]}: has no value; add {missing[0]}=<value>")
    return cfg


@contextmanager
def _hydra(directory: Path) -> Iterator[None]:
    """Hydra's `compose` for `directory`, also within a job that Hydra itself has started."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(directory), version_base="1.3"):
            yield
    finally:
        if outer is not None:
            GlobalHydra.instance().initialize(outer)


def finished(cfg: DictConfig, layout: Layout) -> DictConfig:
    """`cfg` without the sections that only fed others, and read-only.

    Of the task or game, the name stays: its other values are where they are used, and two copies
    of a number could differ.
    """
    values = {key: value for key, value in as_plain(cfg).items() if key not in SOURCES}
    values[layout.subject] = {"name": values[layout.subject]["name"]}
    complete = OmegaConf.create(values)
    OmegaConf.set_struct(complete, True)
    OmegaConf.set_readonly(complete, True)
    return complete


def expand_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The jobs of a multirun: one list of overrides for each combination of swept values.

    Raises:
        ConfigError: an override that Hydra cannot read.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        axes = [
            [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
            if each.is_sweep_override()
            else [str(each.input_line)]
            for each in parsed
        ]
    except HydraException as error:
        raise ConfigError(_one_line(error, overrides)) from error
    return [list(job) for job in itertools.product(*axes)]


def _split(overrides: Sequence[str], layout: Layout) -> tuple[list[str], list[str]]:
    """Choices of a group's option, checked, and plain values."""
    groups, values = [], []
    fixed = {"agent.name": "agent", f"{layout.subject}.name": layout.subject}
    for word in overrides:
        key, _, value = word.partition("=")
        if key.partition(".")[0] in ("ablation", "launcher", "runs_per_gpu", "jobs_at_once"):
            raise ConfigError(f"{word}: belongs to a sweep; add -m")
        if key in fixed:
            raise ConfigError(f"{word}: follows from {fixed[key]}=; set that, or tag=<word>")
        _check_grammar(word)
        if key.startswith("hydra"):
            groups.append(word)
        elif key in layout.groups:
            _check_option(key, value, layout)
            groups.append(word)
        else:
            values.append(word)
    return groups, values


def _check_option(group: str, option: str, layout: Layout) -> None:
    known = layout.options(group)
    if option not in known and group != layout.subject:
        raise ConfigError(f"{group}={option}: no such {group}; {suggestion(option, known)}")


def _check_grammar(word: str) -> None:
    try:
        parsed = OverridesParser.create().parse_override(word)
    except HydraException as error:
        key, _, value = word.partition("=")
        raise ConfigError(f"{word}: cannot be read; quote it, \"{key}='{value}'\"") from error
    if parsed.is_sweep_override():
        raise ConfigError(f"{word}: several values; add -m to run one job for each")


def _check_keys(values: Sequence[str], cfg: DictConfig) -> None:
    """Raise for an override whose key is not one of `cfg`'s."""
    container: Any = OmegaConf.to_container(cfg, resolve=False)
    known = list(flatten(container))
    for word in values:
        key = word.partition("=")[0]
        if key in known:
            continue
        inside = [each for each in known if each.startswith(f"{key}.")]
        if inside:
            raise ConfigError(f"{word}: is a section; set a key of it, such as {inside[0]}")
        where, _, last = key.rpartition(".")
        siblings = [each for each in known if each.rpartition(".")[0] == where]
        if siblings and where:
            names = [each.rpartition(".")[2] for each in siblings]
            raise ConfigError(f"{word}: unknown key in {where}; {suggestion(last, names)}")
        raise ConfigError(f"{word}: unknown key; {_nearest(key, [*known, *container])}")


def _nearest(key: str, known: Sequence[str]) -> str:
    """A remedy for a mistyped full key: a key of the same last name, or a similar one."""
    same_end = [each for each in known if each.rpartition(".")[2] == key.rpartition(".")[2]]
    if same_end:
        return f"did you mean {same_end[-1]}?"
    hint = suggestion(key, known)
    return hint if hint.startswith("did") else "--help lists the keys"


def _without_sets(value: str, layout: Layout, multirun: bool) -> str:
    """`value` with the tasks or games that a name such as `all` stands for in its place."""
    names = [name.strip() for name in value.split(",")]
    if not multirun and value in layout.sets:
        raise ConfigError(f"{layout.subject}={value}: several values; add -m to run each")
    members = itertools.chain.from_iterable(layout.sets.get(name, (name,)) for name in names)
    return ",".join(dict.fromkeys(members)) if multirun else value


def _each(value: str, convert: Callable[[str], str], multirun: bool) -> str:
    """Convert a value, or in a multirun each of several separated by commas."""
    parts = value.split(",") if multirun else [value]
    return ",".join(convert(part.strip()) for part in parts)


def _in_digits(text: str) -> str:
    """`100k`, `1e5` and `100_000` as `100000`."""
    match = re.fullmatch(r"(\d+(?:_\d+)*(?:\.\d+)?(?:e\d+)?)([km]?)", text.lower())
    number = float(match[1]) * _UNITS[match[2]] if match else 0.5
    if number != int(number):
        raise ConfigError(f"budget={text}: must be a whole number of steps; write 100000 or 100k")
    return str(int(number))


def _quoted(text: str) -> str:
    """`text` as a quoted string of Hydra's grammar."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text
    # A backslash is itself, unless it stands before a quote: then there must be two.
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


def _one_line(error: Exception, overrides: Sequence[str]) -> str:
    """The gist of a Hydra or OmegaConf error, with the override that caused it if it is known."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    culprits = [word for word in overrides if word in str(error)]
    if isinstance(error, OmegaConfBaseException):
        culprits += [word for word in overrides if "${" in word]
    return f"{culprits[0]}: {text}; see --help" if culprits else f"{text}; see --help"


def as_plain(cfg: DictConfig) -> Mapping[str, Any]:
    """The configuration as dictionaries and lists."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return plain  # type: ignore[no-any-return]
