"""Names of the games: the 26 of Atari-100k, and every other ROM that is installed."""

import importlib.util
import os
from functools import cache
from pathlib import Path

from . import names

# The 26 games of Atari-100k, by the names of their ROMs.
BENCHMARK_GAMES = (
    "alien", "amidar", "assault", "asterix", "bank_heist", "battle_zone", "boxing", "breakout",
    "chopper_command", "crazy_climber", "demon_attack", "freeway", "frostbite", "gopher", "hero",
    "jamesbond", "kangaroo", "krull", "kung_fu_master", "ms_pacman", "pong", "private_eye",
    "qbert", "road_runner", "seaquest", "up_n_down",
)  # fmt: skip

# A sweep's `game=dev`: games on which learning is seen early, for trying out an idea.
DEVELOPMENT_GAMES = ("breakout", "ms_pacman", "pong")


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
    """As `names.canonical`: the ROM's name of any spelling, or a Gymnasium id."""
    return names.canonical("game", name, known_games(), BENCHMARK_GAMES)
