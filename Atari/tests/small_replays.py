"""Small replays, and plain steps to fill them with."""

from typing import Any, NamedTuple

import numpy as np
import torch

from mlr_atari.replay import ReplaySettings, SequenceReplay

STACK = 4
SETTINGS = ReplaySettings(
    replay="prioritized",
    sequence_length=4,
    n_step=3,
    discount=0.99,
    n_step_end_flag="n_step",
    time_limit="terminal",
    priority_exponent=0.5,
    new_priority="one",
)


def make_replay(
    capacity: int, settings: ReplaySettings = SETTINGS, **others: Any
) -> SequenceReplay:
    shape = {"frame_stack": STACK, "frame_shape": (1, 1, 2), "device": "cpu"}
    return SequenceReplay(capacity, settings, **{**shape, **others})


def exponent(value: float = 0.5) -> torch.Tensor:
    """β of the importance weights."""
    return torch.tensor(value, dtype=torch.float64)


def frame_of(step: int) -> np.ndarray:
    return np.full((1, 2), step, np.uint8)


class Step(NamedTuple):
    """One step; its frame shows a number."""

    frame: int
    action: int = 0
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False

    @property
    def end(self) -> bool:
        return self.terminated or self.truncated


def random_steps(episodes: int, seed: int) -> list[Step]:
    """Episodes of 1 to 25 steps; half of them end in a lost life or game over, half at a cap."""
    rng, steps = np.random.default_rng(seed), list[Step]()
    for _ in range(episodes):
        length, capped = int(rng.integers(1, 26)), bool(rng.random() < 0.5)
        for position in range(length):
            last, action = position == length - 1, int(rng.integers(6))
            reward = float(rng.choice([-1.0, 0.0, 1.0]))
            frame = 1 + len(steps) % 255
            steps.append(Step(frame, action, reward, last and not capped, last and capped))
    return steps


def fill(replay: SequenceReplay, steps: list[Step]) -> None:
    for frame, action, reward, terminated, truncated in steps:
        replay.add(frame_of(frame), action, reward, terminated=terminated, truncated=truncated)
