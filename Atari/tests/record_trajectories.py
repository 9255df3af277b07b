"""Fingerprints of games, so that another emulator, ROM or resize is noticed.

`python tests/record_trajectories.py` writes data/trajectories.json anew; a commit that does so
says why. Every game is played with the same drawn actions, as in training.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from mlr_atari.environment import EnvironmentSettings, GameEnv
from mlr_atari.games import BENCHMARK_GAMES

FILE = Path(__file__).parent / "data" / "trajectories.json"
STEPS = (200, 2000)  # agent steps: of a glance, and of the whole
SETTINGS = EnvironmentSettings(
    protocol="atari100k", emulator="ale_py", image_size=84, frame_stack=4, frame_skip=4
)


def game_env(game: str, training: bool = True, **changes: Any) -> GameEnv:
    """The game with the published settings, or with `changes` to them."""
    settings = EnvironmentSettings(**{**vars(SETTINGS), **changes})
    return GameEnv(game, settings, training=training, seed=1, episode_seed=lambda episode: episode)


def drawn_actions(num_actions: int, steps: int, seed: int = 0) -> list[int]:
    """Actions held for three steps each, so that something happens."""
    drawn = np.random.default_rng(seed).integers(num_actions, size=-(-steps // 3))
    return [int(action) for action in drawn for _ in range(3)][:steps]


def play(env: GameEnv, actions: list[int]) -> list[str]:
    """Play on, through resets; a digest of all that was seen after each step."""
    digest, digests = hashlib.sha256(), []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        flags = [reward, terminated, truncated, *(info[key] for key in sorted(info))]
        digest.update(obs.tobytes() + repr(flags).encode())
        if terminated or truncated:
            digest.update(env.reset()[0].tobytes())
        digests.append(digest.hexdigest()[:16])
    return digests


def fingerprint(game: str, steps: int) -> dict[str, Any]:
    """What the file holds for one game, for as many of `STEPS` as fit into `steps`."""
    env = game_env(game)
    env.reset()
    digests = play(env, drawn_actions(env.num_actions, steps))
    played = {str(count): digests[count - 1] for count in STEPS if count <= steps}
    return {**env.identity(), "actions": env.num_actions, "digest": played}


if __name__ == "__main__":
    games = {game: fingerprint(game, STEPS[-1]) for game in BENCHMARK_GAMES}
    FILE.write_text(json.dumps({"opencv": cv2.__version__, "games": games}, indent=1) + "\n")
