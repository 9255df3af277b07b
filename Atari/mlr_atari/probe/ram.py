"""Where games keep their objects in the console's memory.

Addresses of the 128 bytes, as published in the Atari Annotated RAM Interface (Anand et al. 2019,
"Unsupervised State Representation Learning in Atari", arXiv:1906.08226), for amidar in OCAtari
(Delfosse et al. 2023, "OCAtari: Object-Centric Atari 2600 Reinforcement Learning Environments",
arXiv:2306.08649). Positions only: bytes that count points or lives are no objects, and many of
those are never seen to change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

OBJECTS: dict[str, dict[str, int]] = {
    "boxing": {"player x": 32, "player y": 34, "enemy x": 33, "enemy y": 35},
    "breakout": {"player x": 72, "ball x": 99, "ball y": 101},
    "demon_attack": {
        "player x": 22,
        **{f"enemy {i + 1} x": 17 + i for i in range(3)},
        **{f"enemy {i + 1} y": 69 + i for i in range(3)},
        "missile y": 21,
    },
    "freeway": {"player y": 14, **{f"car {i + 1} x": 108 + i for i in range(10)}},
    "frostbite": {
        "player x": 102,
        "player y": 100,
        **{f"row {i + 1} x": 34 - i for i in range(4)},
    },
    "ms_pacman": {
        "player x": 10,
        "player y": 16,
        **{f"{ghost} x": 6 + i for i, ghost in enumerate(("sue", "inky", "pinky", "blinky"))},
        **{f"{ghost} y": 12 + i for i, ghost in enumerate(("sue", "inky", "pinky", "blinky"))},
    },
    "pong": {"player y": 51, "enemy y": 50, "ball x": 49, "ball y": 54},
    "seaquest": {"player x": 70, "player y": 97, "missile x": 103},
}

# Amidar keeps seven figures in an order that changes; a bit of its kind tells who is an enemy.
_AMIDAR = ("player x", "player y", "enemies x, mean")
_FIGURES_Y, _FIGURES_X, _KINDS = slice(59, 66), slice(66, 73), slice(73, 80)
_ENEMY = 32

GAMES = ("amidar", *OBJECTS)


def object_names(game: str) -> tuple[str, ...]:
    """Names of what `positions` returns, (V,).

    Raises:
        ConfigError: this game's addresses are not known here.
    """
    if game not in GAMES:
        raise ConfigError(
            f"game={game}: where it keeps its objects is not known; one of {', '.join(GAMES)}"
        )
    return _AMIDAR if game == "amidar" else tuple(OBJECTS[game])


def positions(game: str, memory: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The game's objects in the console's memory (128,), as float64 (V,)."""
    if game == "amidar":
        x, y, enemy = memory[_FIGURES_X], memory[_FIGURES_Y], (memory[_KINDS] & _ENEMY) > 0
        figures = ((x, ~enemy), (y, ~enemy), (x, enemy))
        return np.array([axis[who].mean() if who.any() else 0.0 for axis, who in figures])
    return memory[list(OBJECTS[game].values())].astype(np.float64)
