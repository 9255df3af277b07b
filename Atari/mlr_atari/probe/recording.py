"""Fresh episodes with labels, the same for every encoder, kept in a file once they were played.

Nobody's policy plays them: half of the episodes are uniformly random actions, half hold each
random action for a while, which moves things further. So no method is favoured.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..protocol import TASK_KEY
from ..run.schema import plain
from ..run.seeding import episode_seed
from ..settings import Config
from . import world
from .linear import constant, split_by_episode

REWARD = "reward"  # name of the last variable: of the decision that led to the picture
_LONGEST = (1, 8)  # decisions that an action is held for at most, of episodes in turn
_FORMAT = 2  # of the files; another number makes them all anew

Action = TypeVar("Action")


@dataclass(frozen=True)
class Episodes:
    """What is played: `episodes` of them, of `steps` samples or as many as there are."""

    episodes: int
    steps: int
    seed: int


class Recording(NamedTuple):
    """N samples in the order in which they were played.

    `key` tells recordings apart that differ in anything but the pictures' size.
    """

    observations: NDArray[np.uint8]  # (N, S*C, H, W)
    labels: NDArray[np.float64]  # (N, V)
    episodes: NDArray[np.int64]  # (N,)
    names: NDArray[np.str_]  # of the V variables
    key: str


def record(cfg: Config, env: world.Environment, chosen: Episodes, folder: Path) -> Recording:
    """These episodes of a run's environment, from `folder` if they were played before.

    Raises:
        ConfigError: nothing changes in them, or the file in the folder is damaged.
    """
    settings = plain(cfg.environment)
    pictures = {name: settings.pop(name) for name in world.PICTURE}
    key = _digest(settings | asdict(chosen) | {TASK_KEY: cfg.subject, "format": _FORMAT})
    path = folder / f"{key}-{_digest(pictures)}.npz"
    if not path.is_file():
        episodes, observations, labels = zip(*play(env, chosen), strict=True)
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            np.savez(
                file,
                observations=np.stack(observations),
                labels=np.array([[*values.values()] for values in labels], np.float64),
                episodes=np.array(episodes, np.int64),
                names=np.array([*labels[0]]),
            )
        unfinished.replace(path)
    try:
        with np.load(path) as file:
            observations, labels, episodes, names = (file[name] for name in Recording._fields[:-1])
    except (OSError, LookupError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: is damaged ({error}); remove it") from error
    recording = Recording(observations, labels, episodes, names, key)
    require_changes(recording)
    return recording


def require_changes(recording: Recording) -> None:
    """Raises: ConfigError: no variable changes in the episodes that are learnt from."""
    if constant(recording.labels[split_by_episode(recording.episodes).train]).all():
        raise ConfigError(
            f"--episodes, --steps: too few, in these none of {', '.join(recording.names)} changes; "
            "ask for more"
        )


def play(
    env: world.Environment, chosen: Episodes
) -> Iterator[tuple[int, np.ndarray, dict[str, float]]]:
    """Number of the episode, observation and labels, every `world.EVERY` decisions."""
    for episode in range(chosen.episodes):
        env.reset(seed=episode_seed(chosen.seed, "probe", episode))
        actions = held_actions(chosen.seed, episode, partial(world.random_action, env))
        for decision, action in zip(range(world.EVERY * chosen.steps), actions, strict=False):
            reward = float(env.step(action)[1])
            if decision % world.EVERY == 0:
                yield episode, env.observation, world.labels(env) | {REWARD: reward}
            if env.episode_over:
                break


def held_actions(
    seed: int, episode: int, draw: Callable[[np.random.Generator], Action]
) -> Iterator[Action]:
    """Random actions without end, each held for 1 to 8 decisions, or in even episodes for 1."""
    random, longest = np.random.default_rng([seed, episode]), _LONGEST[episode % len(_LONGEST)]
    while True:
        times = int(random.integers(1, longest, endpoint=True))
        yield from itertools.repeat(draw(random), times)


def _digest(facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
