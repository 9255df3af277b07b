"""The command line: words such as `agent.mask_ratio=0.3`, and the values that YAML and they make.

Hydra composes the files. Its own errors span many lines and speak of its internals, so keys and
values are looked at here first, and what is wrong with one is said in one line.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..errors import ConfigError, suggestion
from .folder import flatten

FLAGS = ("-m", "--multirun", "--print-config")
_TEXT_KEYS = ("runs_dir", "tag")  # their values are taken as they are, whatever they look like
_SWEEP_KEYS = ("ablation", "launcher", "runs_per_gpu", "jobs_at_once", "plan")
_SEVERAL = "several values; add -m to run one job for each"
_OPEN = "environment.kwargs"  # a section that takes any key
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}


@dataclass(frozen=True)
class Layout:
    """Where a benchmark's configuration lies and how its tasks or games are called."""

    directory: Path  # of train.yaml
    subject: str  # the group that says what is played: "task" or "game"
    canonical: Callable[[str], str]  # any spelling -> the name used everywhere; raises ConfigError
    sets: Mapping[str, tuple[str, ...]]  # names for several tasks or games in a sweep, as `all`
    renamed: Mapping[str, str] = field(default_factory=dict)  # old keys or words: what to write

    @property
    def groups(self) -> list[str]:
        """The folders beside train.yaml: agent, preset, task or game, …"""
        return sorted(path.name for path in self.directory.iterdir() if path.is_dir())

    def options(self, group: str) -> list[str]:
        """The YAML files of a group that a user may choose."""
        stems = (path.stem for path in (self.directory / group).glob("*.yaml"))
        return sorted(stem for stem in stems if stem != "base")


def split(word: str) -> tuple[str, str]:
    """Key and value of a word. Raises: ConfigError: it is not of that form."""
    key, equals, text = word.partition("=")
    if not equals or not re.fullmatch(r"\w[\w./-]*", key):
        raise ConfigError(f"{word}: not understood; write <key>=<value>, or see --help")
    return key, text.strip()


def expand(words: Sequence[str], layout: Layout) -> list[list[str]]:
    """The jobs of a sweep: a list of words for each combination of values.

    Raises:
        ConfigError: a word that cannot be read.
    """
    axes = []
    for word in words:
        key, text = split(word)
        if key in (*_TEXT_KEYS, layout.subject):
            sets = layout.sets if key == layout.subject else {}
            names = (name.strip() for name in text.split(","))
            values = list(dict.fromkeys(itertools.chain(*(sets.get(n, (n,)) for n in names))))
        else:
            parsed = _parsed(word)
            values = list(parsed.sweep_string_iterator()) if parsed.is_sweep_override() else [text]
        axes.append([f"{key}={value}" for value in values])
    return [list(job) for job in itertools.product(*axes)]


def _parsed(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        key, text = split(word)
        raise ConfigError(f"{word}: cannot be read; quote it, \"{key}='{text}'\"") from error


def _value(word: str) -> Any:
    """What a word of a single run sets its key to."""
    key, text = split(word)
    if key in _TEXT_KEYS:
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return text[1:-1] if quoted else text
    if key == "budget":
        match = re.fullmatch(r"(\d+(?:_\d+)*(?:\.\d+)?(?:e\d\d?)?)([km]?)", text.lower())
        number = float(match[1]) * _UNITS[match[2]] if match else 0.5
        if number != int(number):
            raise ConfigError(f"{word}: must be a whole number of steps; write 100000 or 100k")
        return int(number)
    parsed = _parsed(word)
    if parsed.is_sweep_override():
        raise ConfigError(f"{word}: {_SEVERAL}")
    return parsed.value()


def compose(words: Sequence[str], layout: Layout) -> dict[str, Any]:
    """What train.yaml, the chosen files and the words of one run add up to, as plain values.

    Adds what was chosen: `preset`, and `name` in the section `agent`.

    Raises:
        ConfigError: an unknown key or option, or anything that Hydra or OmegaConf objects to.
    """
    chosen: list[str] = []
    values: dict[str, Any] = {}
    for word in words:
        key, text = split(word)
        if key.partition(".")[0] in _SWEEP_KEYS:
            raise ConfigError(f"{word}: belongs to a sweep; add -m")
        if renamed := layout.renamed.get(key, layout.renamed.get(word)):
            raise ConfigError(f"{word}: is written otherwise now; use {renamed}")
        if key in ("agent.name", f"{layout.subject}.name"):
            raise ConfigError(f"{word}: follows from {key[:-5]}=; set that, or tag=<word>")
        if key not in layout.groups:
            values |= flatten({key: _value(word)})
            continue
        if "," in text or (key == layout.subject and text in layout.sets):
            raise ConfigError(f"{word}: {_SEVERAL}")
        known = layout.options(key)
        if key == layout.subject:
            values[f"{key}.name"] = name = layout.canonical(text)
            text = name if name in known else "base"
        elif text not in known:
            raise ConfigError(f"{word}: no such {key}; {suggestion(text, known)}")
        chosen.append(f"{key}={text}")
    try:
        return _without_sources(_composed(chosen, values, layout), layout)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(_one_line(error, words)) from error


def _composed(chosen: list[str], values: Mapping[str, Any], layout: Layout) -> Any:
    with hydra.initialize_config_dir(str(layout.directory), version_base="1.3"):
        cfg = hydra.compose("train", chosen, return_hydra_config=True)
    with open_dict(cfg):
        choices = cfg.pop("hydra").runtime.choices
        cfg.preset, cfg.agent.name = choices.preset, choices.agent
    container: Any = OmegaConf.to_container(cfg)
    known = list(flatten(container))
    for key, value in values.items():
        if key not in known and not f"{key}.".startswith(f"{_OPEN}."):
            raise _unknown(f"{key}={value}", key, [*known, *layout.groups])
        OmegaConf.update(cfg, key, value, force_add=True)
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def _without_sources(values: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """`values` without what only feeds other keys through `${...}`: two copies could differ."""
    subject, files = layout.subject, layout.directory
    scale, own = OmegaConf.load(files / "train.yaml").scale, files / subject / "base.yaml"
    for section, declared in (("scale", list(scale)), (subject, list(OmegaConf.load(own)))):
        for key, value in values[section].items():
            if key not in declared:
                remedy = suggestion(key, declared)
                raise ConfigError(f"{section}.{key}={value}: unknown key; {remedy}")
    others = {key: value for key, value in values.items() if key != "scale"}
    return others | {subject: {"name": values[subject]["name"]}}


def _unknown(word: str, key: str, known: Sequence[str]) -> ConfigError:
    """What to say of a key that is none of the `known` ones."""
    section, _, last = key.rpartition(".")
    within = [name for name in known if name.startswith(f"{key}.")]
    if within:
        return ConfigError(f"{word}: is a section; set a key of it, such as {within[0]}")
    namesakes = [name for name in known if name.rpartition(".")[2] == last]
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == section]
    if namesakes:
        return ConfigError(f"{word}: unknown key; did you mean {namesakes[-1]}?")
    if section and siblings:
        return ConfigError(f"{word}: unknown key in {section}; {suggestion(last, siblings)}")
    return ConfigError(f"{word}: unknown key; {suggestion(key, known, 'see --help')}")


def _one_line(error: Exception, words: Sequence[str]) -> str:
    """The gist of an error, behind the word or the key that caused it where that is known."""
    text = " ".join(str(error).split()) if isinstance(error, YAMLError) else str(error)
    key = getattr(error, "full_key", None) or "configs"
    culprits = [word for word in words if word in text or word.startswith(f"{key}=")]
    return f"{[*culprits, key][0]}: {text.partition(chr(10))[0]}; see --help"


def help_text(layout: Layout) -> str:
    """How to start, what each group offers, and train.yaml, whose comments say what a key is."""
    subject, subjects = layout.subject, layout.sets["all"]
    choices = {group: layout.options(group) for group in layout.groups} | {subject: subjects}
    lines = [f"{group}={', '.join(names)}" for group, names in choices.items()]
    return "\n".join(
        [
            f"python train.py {subject}={subjects[0]} agent=mlr seed=1",
            "",
            "The same command again goes on where the run stopped. Every key below can be set, and",
            "those of the agent, which configs/agent/ explains: agent.mask_ratio=0.3",
            "",
            "-m              one job for each combination of comma-separated values: seed=1,2,3",
            "--print-config  show the resolved configuration and stop",
            "",
            *(textwrap.fill(line, 98, subsequent_indent="  ") for line in lines),
            "",
            (layout.directory / "train.yaml").read_text(encoding="utf-8"),
        ]
    )


def show(text: str) -> NoReturn:
    """Print and end the process with code 0, also where the reader has seen enough (`| head`)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
    raise SystemExit(0)
