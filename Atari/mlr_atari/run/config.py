"""The command line: words such as `agent.mask_ratio=0.3`, and the values that YAML and they make.

Hydra composes the files. Its own errors span many lines and speak of its internals, so keys and
values are looked at here first, and what is wrong with one is said in one line.
"""

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
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..errors import ConfigError, suggestion
from .folder import flatten
from .schema import SWEEP_KEYS

FLAGS = ("-m", "--multirun", "--print-config")
_TEXT_KEYS = ("runs_dir", "tag")  # each value is one text, whatever it looks like
_MOST_VALUES = 1000  # of a range in a sweep
_OPEN = "environment.kwargs"  # a section that takes any key


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
        return sorted({path.stem for path in (self.directory / group).glob("*.yaml")} - {"base"})


def spelt(argv: Sequence[str]) -> list[str]:
    """The words of a command line without its flags: each is `<key>=<value>`.

    Raises: ConfigError: one is not, or is one of Hydra's own, which would have no effect.
    """
    words = [word for word in argv if word not in FLAGS]
    for word in words:
        if re.match(r"[+~]*hydra[./]", word):
            ours = "runs_dir=, launcher=, launcher.<key>= or jobs_at_once="
            raise ConfigError(f"{word}: Hydra only composes the files here; write {ours}")
        if not re.match(r"\w[\w./-]*=", word):
            key, _, text = word.lstrip("+~-").partition("=")
            flags = [*FLAGS, "--help"] if word.startswith("-") else []
            remedy = suggestion(word, flags, f"write {key}={text or '<value>'}, or see --help")
            raise ConfigError(f"{word}: not understood; {remedy}")
    return words


def expand(words: Sequence[str], layout: Layout) -> list[list[str]]:
    """The words of each job of a sweep. Raises: ConfigError: a word that cannot be read."""
    axes = [[f"{word.partition('=')[0]}={x}" for x in _texts(word, layout)] for word in words]
    return list(map(list, itertools.product(*axes)))


def _texts(word: str, layout: Layout) -> list[str]:
    """The values of a word, of which there are several in a sweep."""
    key, _, text = word.partition("=")
    if key in _TEXT_KEYS:
        return [text]
    sets = layout.sets if key == layout.subject else {}
    names = sorted({*sets.get("all", ()), *layout.options(key)})  # none, unless it is a group
    parsed = _parsed(word)
    value: Any = parsed.value()
    if parsed.is_interval_sweep() or (
        parsed.is_range_sweep()
        and not abs(value.stop - value.start) < _MOST_VALUES * abs(value.step)
    ):
        raise ConfigError(f"{word}: no single values, or too many; write each, as in seed=1,2,3")
    if isinstance(value, Glob):
        texts = value.filter(names)
    elif parsed.is_discrete_sweep():
        texts = list(parsed.sweep_string_iterator())
        if names:  # `my.module:Name`
            texts = [text.replace("\\", "") for text in texts]
    else:
        texts = [text.strip()]
    if not texts or len(set(texts)) < len(texts):
        raise ConfigError(f"{word}: no value, or one twice; write each once, as in seed=1,2,3")
    return list(dict.fromkeys(itertools.chain(*(sets.get(text, (text,)) for text in texts))))


def _parsed(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        quoted = word.replace("=", "='", 1)
        raise ConfigError(
            f'{word}: cannot be read; leave out a surplus comma, or quote it, "{quoted}\'"'
        ) from error


def _value(key: str, text: str) -> Any:
    """What a word of a single run sets its key to."""
    if key in _TEXT_KEYS:
        text = re.sub(r"^(['\"])(.*)\1$", r"\2", text)
        return os.path.expanduser(text) if key == "runs_dir" else text
    if key == "budget":  # 100k, 0.1M
        text = re.sub(r"(?<=\d)m$", "e6", re.sub(r"(?<=\d)k$", "e3", text.lower()))
    value: Any = _parsed(f"{key}={text}").value()
    whole = key == "budget" and isinstance(value, float) and value % 1 == 0
    return int(value) if whole else value


def compose(words: Sequence[str], layout: Layout) -> dict[str, Any]:
    """What train.yaml, the chosen files and the words of one run add up to, as plain values.

    Adds what was chosen: `preset`, and `name` in the section `agent`.

    Raises: ConfigError: an unknown key or option, or anything that Hydra or OmegaConf objects to.
    """
    chosen: list[str] = []
    values: dict[str, Any] = {}
    for word in spelt(words):
        key = word.partition("=")[0]
        if key.partition(".")[0] in SWEEP_KEYS:
            raise ConfigError(f"{word}: belongs to a sweep; add -m")
        if key in ("agent.name", f"{layout.subject}.name"):
            raise ConfigError(f"{word}: follows from {key[:-5]}=; set that, or tag=<word>")
        text, *others = _texts(word, layout)
        if others:
            raise ConfigError(f"{word}: several values; add -m to run one job for each")
        if key not in layout.groups:
            value = _value(key, text)
            values |= flatten({key: value}) or {key: value}  # {} is one too
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
        key = getattr(error, "full_key", None) or "configs"
        culprit = next((word for word in words if word.startswith(f"{key}=")), key)
        raise ConfigError(f"{culprit}: {' '.join(str(error).split())}; see --help") from error


def _composed(chosen: list[str], values: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """The files with `values` in them.

    What only feeds other keys through `${...}` is checked and left out: two copies could differ.
    """
    subject, files = layout.subject, layout.directory
    with hydra.initialize_config_dir(str(files), version_base="1.3"):
        cfg = hydra.compose("train", chosen, return_hydra_config=True)
    OmegaConf.set_struct(cfg, False)
    choices = cfg.pop("hydra").runtime.choices
    cfg.preset, cfg.agent.name = choices.preset, choices.agent
    feeding = {
        "scale": OmegaConf.load(files / "train.yaml").scale,
        subject: OmegaConf.load(files / subject / "base.yaml"),
    }
    composed = flatten(_plain(cfg))
    known = [key for key in composed if key.partition(".")[0] not in feeding]
    known += flatten(_plain(OmegaConf.create(feeding)))
    for key, value in (composed | dict(values)).items():
        if key not in known and not f"{key}.".startswith(f"{_OPEN}."):
            last = f".{key}".rpartition(".")[2]
            near = [x for x in known if x.startswith(f"{key}.") or f".{x}".endswith(f".{last}")]
            remedy = suggestion(key, [*known, *layout.groups], "see --help")
            remedy = f"did you mean {near[-1]}?" if near else remedy
            raise ConfigError(f"{key}={value}: unknown key; {remedy}")
    for key, value in values.items():
        OmegaConf.update(cfg, key, value)
    resolved = _plain(cfg, resolve=True, throw_on_missing=True)
    del resolved["scale"]
    return resolved | {subject: {"name": resolved[subject]["name"]}}


def _plain(cfg: Any, **options: Any) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(cfg, **options)
    return values  # type: ignore[no-any-return]


def help_text(layout: Layout) -> str:
    """How to start, what each group offers, and train.yaml, whose comments say what a key is."""
    subject, subjects = layout.subject, layout.sets["all"]
    choices = {group: layout.options(group) for group in layout.groups} | {subject: subjects}
    offers = [f"{group}={', '.join(names)}" for group, names in choices.items()]
    lines = [textwrap.fill(offer, 98, subsequent_indent="  ") for offer in offers]
    text = (layout.directory / "train.yaml").read_text(encoding="utf-8").rstrip()
    first = f"python train.py {subject}={subjects[0]} agent=mlr seed=1"
    return "\n".join([first, "", *lines, "", text])
