"""Ablations: `ablation=<name>` in a sweep stands for the runs in configs/ablation/<name>.yaml.

Such a file begins with its question and holds `sweep:`, a list of values for each of one or more
keys; the lists have one length, and their i-th values make the i-th run::

    # How much of a sequence should be hidden?
    sweep:
      agent.mask_ratio: [0.1, 0.3, 0.7, 0.9]

The agent as it is runs beside them, without another tag: one run serves all ablations. The others
have folders of their own through `tag=mask_ratio-0.1`. Values for a file's only key on the command
line take the place of the file's, for other sizes of pictures or sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from ..errors import ConfigError
from .command import Layout, expand_sweep
from .schema import suggestion

GROUP = "ablation"


def expand_jobs(overrides: Sequence[str], layout: Layout) -> list[list[str]]:
    """The jobs of a multirun, as `expand_sweep`, times the runs of each ablation that it names.

    Args:
        overrides: as `normalise` leaves them, with at most one `ablation=<name>[,<name>...]`.

    Raises:
        ConfigError: an unknown ablation, a file that is not as above, or an unreadable override.
    """
    named = [word for word in overrides if word.startswith(f"{GROUP}=")]
    rest = [word for word in overrides if word not in named]
    if not named:
        return expand_sweep(rest)
    if len(named) > 1:
        raise ConfigError(f"{named[1]}: a second {GROUP}=; write {named[0]},{_value(named[1])}")
    jobs = []
    for name in _value(named[0]).split(","):
        for label, others, words in _runs(name.strip(), rest, layout):
            jobs += [[*_tagged(job, label), *words] for job in expand_sweep(others)]
    # The agent as it is, once for all of them.
    return [job for i, job in enumerate(jobs) if job not in jobs[:i]]


def sweep_of(name: str, layout: Layout) -> dict[str, list[Any]]:
    """What an ablation's file sweeps: values by key, in lists of one length.

    Raises:
        ConfigError: there is no such file, or it is not as the module says.
    """
    known = layout.options(GROUP)
    if name not in known:
        raise ConfigError(f"{GROUP}={name}: no such {GROUP}; {suggestion(name, known)}")
    path = layout.directory / GROUP / f"{name}.yaml"
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    sweep = content.get("sweep") if isinstance(content, Mapping) and len(content) == 1 else None
    lists = list(sweep.values()) if isinstance(sweep, Mapping) else []
    if not lists or not all(
        isinstance(each, list) and len(each) == len(lists[0]) for each in lists
    ):
        raise ConfigError(
            f"{path}: must hold `sweep:`, with lists of one length; see run/ablation.py"
        )
    return {str(key): values for key, values in sweep.items()}  # type: ignore[union-attr]


def _runs(
    name: str, rest: Sequence[str], layout: Layout
) -> Iterator[tuple[str, Sequence[str], list[str]]]:
    """`(label, other overrides, own overrides)` of each run; no label for the agent as it is."""
    sweep = sweep_of(name, layout)
    given = [word for word in rest if word.partition("=")[0] in sweep]
    if given and len(sweep) > 1:
        raise ConfigError(f"{given[0]}: {GROUP}={name} sets it, with other keys; leave it out")
    others = [word for word in rest if word not in given]
    yield "", others, []
    if given:
        points = [(_value(word), [word]) for (word,) in expand_sweep(given)]
    else:
        points = [
            (
                _text(values[0]),
                [f"{key}={_text(value)}" for key, value in zip(sweep, values, strict=True)],
            )
            for values in zip(*sweep.values(), strict=True)
        ]
    for value, words in points:
        label = value.strip("[]").replace(",", "+") or "none"
        yield f"{name}-{label}", others, words


def _tagged(job: Sequence[str], label: str) -> list[str]:
    """`job` with `label` added to its tag."""
    tags = [_value(word).strip("'\"") for word in job if word.startswith("tag=")]
    tag = "-".join(part for part in (*tags, label) if part)
    words = [word for word in job if not word.startswith("tag=")]
    return [*words, f"tag='{tag}'"] if tag else words


def _value(word: str) -> str:
    return word.partition("=")[2]


def _text(value: Any) -> str:
    """A YAML value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
