"""Fresh episodes with labels, the same for every encoder.

Nobody's policy plays them: half of the episodes are uniformly random actions, half hold each
random action for a while, which moves things further. So no method is favoured.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..protocol import TASK_KEY
from ..run.seeding import episode_seed
from ..settings import Config
from . import world

REWARD = "reward"  # name of the last variable: of the decision that led to the picture
_LONGEST = (1, 8)  # decisions that an action is held for at most, of episodes in turn
_FORMAT = 2  # another number where the same settings give other episodes

Action = TypeVar("Action")


class Recording(NamedTuple):
    """N samples in the order in which they were played.

    `key` tells recordings apart that differ in anything but the pictures' size.
    """

    observations: NDArray[np.uint8]  # (N, S*C, H, W)
    labels: NDArray[np.float64]  # (N, V)
    episodes: NDArray[np.int64]  # (N,)
    names: list[str]  # of the V variables
    key: str


def record(cfg: Config, env: world.Environment, chosen: dict[str, int]) -> Recording:
    """Episodes of a run's environment, sampled every `world.EVERY` decisions.

    Args: `chosen`: how many `episodes`, of how many samples (`steps`) at most, and their `seed`.
    """
    seed = chosen["seed"]
    samples: list[tuple[np.ndarray, dict[str, float], int]] = []
    for episode in range(chosen["episodes"]):
        env.reset(seed=episode_seed(seed, "probe", episode))
        actions = held_actions(seed, episode, partial(world.random_action, env))
        for decision, action in zip(range(world.EVERY * chosen["steps"]), actions, strict=False):
            reward = float(env.step(action)[1])
            if decision % world.EVERY == 0:
                samples.append((env.observation, world.labels(env) | {REWARD: reward}, episode))
            if env.episode_over:
                break
    observations, labels, episodes = zip(*samples, strict=True)
    values = np.array([[*label.values()] for label in labels], np.float64)
    key = recording_key(cfg, chosen)
    return Recording(np.stack(observations), values, np.array(episodes), [*labels[0]], key)


def recording_key(cfg: Config, chosen: dict[str, int]) -> str:
    """Of what `record` gives."""
    settings = {k: v for k, v in asdict(cfg.environment).items() if k not in world.PICTURE}
    facts = settings | chosen | {TASK_KEY: cfg.subject, "format": _FORMAT}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]


def held_actions(
    seed: int, episode: int, draw: Callable[[np.random.Generator], Action]
) -> Iterator[Action]:
    """Random actions without end, each held for 1 to 8 decisions, or in even episodes for 1."""
    random, longest = np.random.default_rng([seed, episode]), _LONGEST[episode % len(_LONGEST)]
    while True:
        times = int(random.integers(1, longest, endpoint=True))
        yield from itertools.repeat(draw(random), times)
