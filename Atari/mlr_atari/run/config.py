"""The command line: words such as `agent.mask_ratio=0.3`, and the values that YAML and they make.

Hydra composes the files. Its own errors span many lines and speak of its internals, so keys and
values are looked at here first, and what is wrong with one is said in one line.
"""

from __future__ import annotations

import itertools
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..errors import ConfigError, suggestion
from .folder import flatten

FLAGS = ("-m", "--multirun", "--print-config")
_TEXT_KEYS = ("runs_dir", "tag")  # each value is one text, whatever it looks like
_SWEEP_KEYS = ("ablation", "launcher", "runs_per_gpu", "jobs_at_once", "plan")
_OPEN = "environment.kwargs"  # a section that takes any key
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
        return sorted(path.name for path in self.directory.iterdir() if path.is_dir())

    def options(self, group: str) -> list[str]:
        """The YAML files of a group that a user may choose."""
        stems = (path.stem for path in (self.directory / group).glob("*.yaml"))
        return sorted(stem for stem in stems if stem != "base")


# ---- words ----------------------------------------------------------------------------------


def spelt(argv: Sequence[str]) -> list[str]:
    """The words of a command line without its flags: each is `<key>=<value>`.

    Raises:
        ConfigError: one is not, or is one of Hydra's own, which would have no effect.
    """
    words = [word for word in argv if word not in FLAGS]
    for word, after in itertools.zip_longest(words, words[1:], fillvalue=""):
        key, equals, text = word.lstrip("+~-").partition("=")
        if re.match(r"hydra[./]", key):
            ours = re.sub(r"^hydra[./]launcher(\.ray)?", "launcher", word).replace("submitit_", "")
            ours = re.sub(r"^hydra\.(run|sweep)\.dir", "runs_dir", ours)
            ours = ours.replace("launcher.n_jobs", "jobs_at_once")
            remedy = f"write {ours}" if ours != word else "leave it out"
            raise ConfigError(f"{word}: Hydra only composes the files here; {remedy}")
        if not equals or not re.fullmatch(r"\w[\w./-]*", word.partition("=")[0]):
            key = key if re.fullmatch(r"\w[\w./-]*", key) else "<key>"
            text = text or (after if re.fullmatch(r"[^-=][^=]*", after) else "<value>")
            flags = [*FLAGS, "--help"] if word.startswith("-") else []
            remedy = suggestion(word, flags, f"write {key}={text}, or see --help")
            raise ConfigError(f"{word}: not understood; {remedy}")
    return words


def expand(words: Sequence[str], layout: Layout) -> list[list[str]]:
    """The jobs of a sweep: a list of words for each combination of values.

    Raises:
        ConfigError: a word that cannot be read.
    """
    keys = [(word.partition("=")[0], word) for word in spelt(words)]
    axes = [[f"{key}={text}" for text in _texts(word, layout)] for key, word in keys]
    return list(map(list, itertools.product(*axes)))


def _texts(word: str, layout: Layout) -> list[str]:
    """The values of a word, of which there are several in a sweep."""
    key, _, text = word.partition("=")
    if key in _TEXT_KEYS:
        return [text]
    sets, names = layout.sets if key == layout.subject else {}, []
    if key in layout.groups:
        names = list(dict.fromkeys([*sets.get("all", ()), *layout.options(key)]))
    parsed = _parsed(word)
    value = parsed.value()
    if isinstance(value, Glob):
        texts = value.filter(names)
    elif parsed.is_discrete_sweep():
        texts = list(parsed.sweep_string_iterator())
        texts = [text.replace("\\", "") for text in texts] if names else texts  # `my.module:Name`
    elif parsed.is_sweep_override():
        raise ConfigError(f"{word}: is no list of values; write {key}=<one>,<another>")
    else:
        texts = [text.strip()]
    twice = [text for i, text in enumerate(texts) if text in texts[:i]]
    if twice or not texts:
        problem = f"has {twice[0]} twice" if twice else "stands for no value"
        raise ConfigError(f"{word}: {problem}; write each value once, as in seed=1,2,3")
    return list(dict.fromkeys(itertools.chain(*(sets.get(text, (text,)) for text in texts))))


def _parsed(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        key, _, text = word.partition("=")
        gap = re.search(r"^\s*,|,\s*,|,\s*$", text)
        remedy = "leave out the surplus comma" if gap else f"quote it, \"{key}='{text}'\""
        raise ConfigError(f"{word}: cannot be read; {remedy}") from error


def _value(key: str, text: str) -> Any:
    """What a word of a single run sets its key to."""
    if key in _TEXT_KEYS:
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        text = text[1:-1] if quoted else text
        return os.path.expanduser(text) if key == "runs_dir" else text
    if key == "budget":
        match = re.fullmatch(r"(\d{1,40}(?:_\d+)*(?:\.\d+)?(?:e\d\d?)?)([km]?)", text.lower())
        number = float(match[1]) * _UNITS[match[2]] if match else 0.5
        if number != int(number):
            raise ConfigError(
                f"{key}={text}: must be a whole number of steps; write 100000 or 100k"
            )
        return int(number)
    return _parsed(f"{key}={text}").value()


# ---- composing ------------------------------------------------------------------------------


def compose(words: Sequence[str], layout: Layout) -> dict[str, Any]:
    """What train.yaml, the chosen files and the words of one run add up to, as plain values.

    Adds what was chosen: `preset`, and `name` in the section `agent`.

    Raises:
        ConfigError: an unknown key or option, or anything that Hydra or OmegaConf objects to.
    """
    chosen: list[str] = []
    values: dict[str, Any] = {}
    for word in spelt(words):
        key = word.partition("=")[0]
        if key.partition(".")[0] in _SWEEP_KEYS:
            raise ConfigError(f"{word}: belongs to a sweep; add -m")
        if key in ("agent.name", f"{layout.subject}.name"):
            raise ConfigError(f"{word}: follows from {key[:-5]}=; set that, or tag=<word>")
        text, *others = _texts(word, layout)
        if others:
            raise ConfigError(f"{word}: several values; add -m to run one job for each")
        if key not in layout.groups:
            values |= flatten({key: _value(key, text)})
            continue
        known = layout.options(key)
        if key == layout.subject:
            values[f"{key}.name"] = name = layout.canonical(text)
            text = name if name in known else "base"
        elif text not in known:
            raise ConfigError(f"{word}: no such {key}; {suggestion(text, known)}")
        chosen.append(f"{key}={text}")
    try:
        return _composed(chosen, values, layout)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(_one_line(error, words)) from error


def _composed(chosen: list[str], values: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """The files with `values` in them.

    What only feeds other keys through `${...}` is checked and left out: two copies could differ.
    """
    subject, files = layout.subject, layout.directory
    with hydra.initialize_config_dir(str(files), version_base="1.3"):
        cfg = hydra.compose("train", chosen, return_hydra_config=True)
    with open_dict(cfg):
        choices = cfg.pop("hydra").runtime.choices
        cfg.preset, cfg.agent.name = choices.preset, choices.agent
    composed = flatten(_plain(cfg))
    fed = _plain(OmegaConf.load(files / subject / "base.yaml"))
    declared = flatten({"scale": _plain(OmegaConf.load(files / "train.yaml").scale), subject: fed})
    feeding = {key for key in composed if key.startswith(("scale.", f"{subject}."))}
    known = [*(key for key in composed if key not in feeding), *declared]
    for key, value in (composed | dict(values)).items():
        if key not in known and not f"{key}.".startswith(f"{_OPEN}."):
            raise _unknown(f"{key}={value}", key, [*known, *layout.groups])
    for key, value in values.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    resolved = _plain(cfg, resolve=True, throw_on_missing=True)
    del resolved["scale"]
    return resolved | {subject: {"name": resolved[subject]["name"]}}


def _plain(cfg: Any, **options: Any) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(cfg, **options)
    return values  # type: ignore[no-any-return]


def _unknown(word: str, key: str, known: Sequence[str]) -> ConfigError:
    """What to say of a key that is none of the `known` ones."""
    within = [name for name in known if name.startswith(f"{key}.")]
    if within:
        return ConfigError(f"{word}: is a section; set a key of it, such as {within[0]}")
    namesakes = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    remedy = f"did you mean {namesakes[-1]}?" if namesakes else ""
    return ConfigError(f"{word}: unknown key; {remedy or suggestion(key, known, 'see --help')}")


def _one_line(error: Exception, words: Sequence[str]) -> str:
    """The gist of an error, behind the word or the key that caused it where that is known."""
    text = " ".join(str(error).split()) if isinstance(error, YAMLError) else str(error)
    key = getattr(error, "full_key", None) or "configs"
    culprits = [word for word in words if word in text or word.startswith(f"{key}=")]
    return f"{[*culprits, key][0]}: {text.partition(chr(10))[0]}; see --help"


# ---- what is printed ------------------------------------------------------------------------


def help_text(layout: Layout) -> str:
    """How to start, what each group offers, and train.yaml, whose comments say what a key is."""
    subject, subjects = layout.subject, layout.sets["all"]
    choices = {group: layout.options(group) for group in layout.groups} | {subject: subjects}
    offers = [f"{group}={', '.join(names)}" for group, names in choices.items()]
    lines = [textwrap.fill(offer, 98, subsequent_indent="  ") for offer in offers]
    text = (layout.directory / "train.yaml").read_text(encoding="utf-8").rstrip()
    first = f"python train.py {subject}={subjects[0]} agent=mlr seed=1"
    return "\n".join([first, "", *lines, "", text])
