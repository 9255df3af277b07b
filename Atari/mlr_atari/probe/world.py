"""What the probe needs of Atari: the console and its objects, agents, their encoders.

Addresses in the console's memory of 128 bytes are those of the Atari Annotated RAM Interface (Anand
et al. 2019, "Unsupervised State Representation Learning in Atari", arXiv:1906.08226), for amidar of
OCAtari (Delfosse et al. 2023, "OCAtari: Object-Centric Atari 2600 Reinforcement Learning
Environments", arXiv:2306.08649). Positions only: bytes that count points or lives are no objects,
and many of those are never seen to change.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..environment import GameEnv
from ..errors import ConfigError
from ..rainbow import Rainbow
from ..settings import Config

PICTURE = ("image_size", "frame_stack")  # settings that do not change what happens
EVERY = 2  # decisions between samples, which are alike otherwise

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
_FIGURES_Y, _FIGURES_X, _KINDS = slice(59, 66), slice(66, 73), slice(73, 80)
_ENEMY = 32

Agent = Rainbow
Environment = GameEnv


def environment_of(cfg: Config) -> GameEnv:
    """The run's console, playing whole games.

    Raises: ConfigError: where the game keeps its objects is not known.
    """
    known = ("amidar", *OBJECTS)
    if cfg.game.name not in known:
        raise ConfigError(
            f"game={cfg.game.name}: where it keeps its objects is not known; "
            f"one of {', '.join(known)}"
        )
    return GameEnv(cfg.game.name, cfg.environment, training=False, seed=0)


def seen(agent: Rainbow, obs: NDArray[np.uint8]) -> Tensor:
    """What an evaluation shows the encoder of observations (N, S, H, W): all of it."""
    return torch.from_numpy(obs)


@torch.no_grad()
def latents(agent: Rainbow, images: Tensor) -> NDArray[np.float32]:
    """uint8 images (N, S, H, W) -> latents (N, Z)."""
    return agent.encoder(images.to(agent.device) * (1 / 255)).flatten(1).cpu().numpy()


def random_action(env: GameEnv, draws: np.random.Generator) -> int:
    """Uniform."""
    return int(draws.integers(env.num_actions))


def labels(env: GameEnv) -> dict[str, float]:
    """Where the objects of the newest picture are, by name."""
    memory = env.emulator.console.getRAM()
    if env.game != "amidar":
        return {name: float(memory[address]) for name, address in OBJECTS[env.game].items()}
    x, y, enemy = memory[_FIGURES_X], memory[_FIGURES_Y], (memory[_KINDS] & _ENEMY) > 0
    figures = {"player x": x[~enemy], "player y": y[~enemy], "enemies x, mean": x[enemy]}
    return {name: float(axis.mean()) if len(axis) else 0.0 for name, axis in figures.items()}
