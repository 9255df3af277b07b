"""Fresh episodes with labels, the same for every encoder, kept in a file once they were played.

Nobody's policy plays them: half of the episodes are uniformly random actions, half hold each
random action for a while, which moves things further. So no method is favoured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

_LONGEST = (1, 8)  # decisions that an action is held for at most, of episodes in turn
_FORMAT = 1  # of the files; another number makes them all anew

Action = TypeVar("Action")


class Sample(NamedTuple):
    """One observation, uint8 (S*C, H, W), of an episode, and the state that it shows, (V,)."""

    episode: int
    observation: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Recording:
    """N samples in the order in which they were played.

    Attributes:
        observations: uint8 (N, S*C, H, W). labels: float64 (N, V). episodes: int64 (N,).
        names: of the V variables.
        key: tells recordings apart that differ in anything but the pictures' size.
    """

    observations: NDArray[np.uint8]
    labels: NDArray[np.float64]
    episodes: NDArray[np.int64]
    names: tuple[str, ...]
    key: str


class HeldActions(Generic[Action]):
    """Random actions, each held for 1 to `longest` decisions; `longest` depends on the episode."""

    def __init__(
        self, seed: int, episode: int, draw: Callable[[np.random.Generator], Action]
    ) -> None:
        """Args: `draw`: one random action."""
        self._random = np.random.default_rng([seed, episode])
        self._longest = _LONGEST[episode % len(_LONGEST)]
        self._draw, self._left = draw, 0

    def __call__(self) -> Action:
        """The next decision's action."""
        if self._left == 0:
            self._left = int(self._random.integers(1, self._longest, endpoint=True))
            self._action = self._draw(self._random)
        self._left -= 1
        return self._action


def recorded(
    facts: dict[str, Any],
    pictures: dict[str, Any],
    names: Callable[[], tuple[str, ...]],
    play: Callable[[], Iterable[Sample]],
    folder: Path,
) -> Recording:
    """The recording of these facts, from `folder` if it was made before.

    Args:
        facts: everything that decides what happens. pictures: how large it is drawn.
        play: plays it.
    """
    key = _digest(facts | {"format": _FORMAT})
    path = folder / f"{key}-{_digest(pictures)}.npz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        samples = list(play())
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            np.savez(
                file,
                observations=np.stack([each.observation for each in samples]),
                labels=np.stack([each.labels for each in samples]).astype(np.float64),
                episodes=np.array([each.episode for each in samples], np.int64),
                names=np.array(names()),
            )
        unfinished.replace(path)
    with np.load(path) as file:
        return Recording(
            file["observations"],
            file["labels"],
            file["episodes"],
            tuple(str(name) for name in file["names"]),
            key,
        )


def _digest(facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
