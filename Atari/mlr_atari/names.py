"""Names of what is played: any spelling of a known one, or the Gymnasium id of an own environment.

Imports nothing heavy, so that a misspelt name is refused at once.
"""

import re
from collections.abc import Sequence

from .errors import ConfigError, suggestion

# What Gymnasium's ids have around a name.
_AROUND = re.compile(r"^(ALE|dm_control)/|(-ram)?(NoFrameskip|Deterministic)?-v\d+$")


def canonical(key: str, name: str, known: Sequence[str], benchmark: Sequence[str]) -> str:
    """The one name that any spelling stands for.

    `Cartpole/Swingup` and `dm_control/cartpole_swingup-v0` are both `cartpole_swingup`. A Gymnasium
    id, `package.module:Name-v0` or one that is registered already, stands for itself.

    Args: `key`: task or game; `known`: every name of the simulator; `benchmark`: the best known.

    Raises: ConfigError: nothing is called that; suggests the nearest.
    """
    name = name.strip()
    title = _AROUND.sub("", name)
    letters = re.sub(r"[\W_]", "", title.lower())  # what all spellings of a name share
    for candidate in known:
        if ":" not in name and letters == re.sub(r"[\W_]", "", candidate.lower()):
            return candidate
    if re.fullmatch(r"[A-Za-z_][\w.]*:[\w/.-]+", name) or _is_registered(name):
        return name
    if ":" in name:
        raise ConfigError(f"{key}={name}: not a Gymnasium id; write package.module:Name-v0")
    otherwise = f"use one of {', '.join(benchmark)}, or a Gymnasium id, package.module:Name-v0"
    raise ConfigError(f"{key}={name}: no such {key}; {suggestion(title.lower(), known, otherwise)}")


def is_own(name: str) -> bool:
    """Whether a canonical name is a Gymnasium id, of an environment that is not the benchmark's."""
    return re.fullmatch(r"\w+", name) is None


def _is_registered(name: str) -> bool:
    if not re.search(r"-v\d+$", name):  # only what looks like an id costs the import
        return False
    import gymnasium

    return name in gymnasium.registry
