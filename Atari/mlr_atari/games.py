"""Names of the games: the 26 of Atari-100k, every other ROM that is installed, and own games.

Imports neither emulator nor torch, so that a misspelt name is refused at once.
"""

from __future__ import annotations

import importlib.util
import os
import re
from functools import cache
from pathlib import Path

from .errors import ConfigError, suggestion

# The 26 games of Atari-100k, by the names of their ROMs.
BENCHMARK_GAMES = (
    "alien",
    "amidar",
    "assault",
    "asterix",
    "bank_heist",
    "battle_zone",
    "boxing",
    "breakout",
    "chopper_command",
    "crazy_climber",
    "demon_attack",
    "freeway",
    "frostbite",
    "gopher",
    "hero",
    "jamesbond",
    "kangaroo",
    "krull",
    "kung_fu_master",
    "ms_pacman",
    "pong",
    "private_eye",
    "qbert",
    "road_runner",
    "seaquest",
    "up_n_down",
)

# A sweep's `game=dev`: games on which learning is seen early, for trying out an idea.
DEVELOPMENT_GAMES = ("breakout", "ms_pacman", "pong")

_GYM_SUFFIX = re.compile(r"(-ram)?(NoFrameskip|Deterministic)?-v\d+$")


def rom_folder() -> Path | None:
    """Where the ROMs of ale-py lie: $ALE_ROMS_DIR, else inside the package; None without either."""
    if folder := os.environ.get("ALE_ROMS_DIR"):
        return Path(folder)
    spec = importlib.util.find_spec("ale_py")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "roms"


@cache
def known_games() -> tuple[str, ...]:
    """The benchmark's games and every other ROM in `rom_folder`, in alphabetical order."""
    folder = rom_folder()
    installed = (path.stem for path in folder.glob("*.bin")) if folder is not None else ()
    return tuple(sorted({*BENCHMARK_GAMES, *installed}))


def canonical(name: str) -> str:
    """The one name that any spelling stands for.

    `KungFuMaster`, `kung-fu-master`, `ALE/KungFuMaster-v5` and `KungFuMasterNoFrameskip-v4` are
    all `kung_fu_master`. A Gymnasium id, `package.module:Game-v0` or one that is registered
    already, stands for itself.

    Raises:
        ConfigError: no such game; suggests the nearest.
    """
    name = name.strip()
    if ":" in name:
        return _own_game(name)
    by_letters = {_letters(game): game for game in known_games()}
    title = _GYM_SUFFIX.sub("", name.removeprefix("ALE/"))
    if _letters(title) in by_letters:
        return by_letters[_letters(title)]
    if _is_registered(name):
        return name
    otherwise = f"use one of {', '.join(BENCHMARK_GAMES)}, or a Gymnasium id, package:Game-v0"
    remedy = suggestion(title.lower(), known_games(), otherwise)
    raise ConfigError(f"game={name}: no such game; {remedy}")


def is_custom(game: str) -> bool:
    """Whether a canonical name is a Gymnasium id, and not the name of an Atari ROM."""
    return re.fullmatch(r"[a-z0-9_]+", game) is None


def folder_name(game: str) -> str:
    """A canonical name as the name of a folder: `my.package:Game-v0` is `my.package-Game-v0`."""
    return re.sub(r"[^\w.-]+", "-", game)


def _letters(name: str) -> str:
    """What all spellings of a name share."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _own_game(name: str) -> str:
    if re.fullmatch(r"[A-Za-z_][\w.]*:[\w/.-]+", name):
        return name
    raise ConfigError(f"game={name}: not a Gymnasium id; write package.module:Game-v0")


def _is_registered(name: str) -> bool:
    # Only names that look like an id cost the import.
    if not re.search(r"-v\d+$", name):
        return False
    import gymnasium

    return name in gymnasium.registry
