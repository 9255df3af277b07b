"""Small replays, and a plain list of everything that ever happened to check them against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mlr_dmcontrol.replay import UniformReplay

SHAPE = (3, 4, 4)
ACTIONS = 2
STACK = 3


def make(capacity: int, length: int | None, **changes: Any) -> UniformReplay:
    settings = {
        "frame_shape": SHAPE,
        "action_dim": ACTIONS,
        "frame_stack": STACK,
        "sequence_length": length,
        "device": "cpu",
    }
    return UniformReplay(capacity, **(settings | changes))


@dataclass
class Record:
    """One transition as a plain list of frames would have it."""

    obs: np.ndarray
    action: np.ndarray
    reward: float
    next_obs: np.ndarray
    terminated: bool
    episode: int


@dataclass
class History:
    """Plays random episodes into a replay and remembers them all."""

    seed: int
    records: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.episode, self.frames, self.left = -1, [], 0

    def frame(self) -> np.ndarray:
        return self.rng.integers(0, 256, SHAPE, dtype=np.uint8)

    def stack(self) -> np.ndarray:
        places = [max(0, len(self.frames) - STACK + j) for j in range(STACK)]
        return np.concatenate([self.frames[place] for place in places])

    def begin(self, longest: int, *replays: UniformReplay) -> None:
        self.episode, self.left = self.episode + 1, int(self.rng.integers(1, longest + 1))
        self.frames = [self.frame()]
        for replay in replays:
            replay.start_episode(self.frames[0])

    def step(self, longest: int, *replays: UniformReplay) -> None:
        if self.left == 0:
            self.begin(longest, *replays)
        obs = self.stack()
        self.frames.append(self.frame())
        self.left -= 1
        over = self.left == 0
        terminated = over and bool(self.rng.integers(2))
        action = self.rng.uniform(-1, 1, ACTIONS).astype(np.float32)
        reward = float(np.float32(self.rng.normal()))
        for replay in replays:
            replay.add(action, reward, self.frames[-1], terminated, over and not terminated)
        record = Record(obs, action, reward, self.stack(), terminated, self.episode)
        self.records.append(record)

    def identify(self, obs: torch.Tensor) -> int:
        """Which transition this observation belongs to; random frames are all different."""
        if not hasattr(self, "known") or len(self.known) < len(self.records):
            self.known = {each.obs.tobytes(): n for n, each in enumerate(self.records)}
        return self.known[obs.numpy().tobytes()]

    def expected_starts(self, oldest: int, length: int) -> list[int]:
        """Starts of windows within [oldest, newest) of one episode, its last step not included."""
        newest = len(self.records) - 1
        return [
            start
            for start in range(oldest, newest - length + 1)
            if self.records[start].episode == self.records[start + length].episode
        ]


def all_slots(replay: UniformReplay) -> torch.Tensor:
    """Every slot that can be drawn, found by drawing."""
    generator = torch.Generator().manual_seed(0)
    drawn, _ = replay.draw(generator, 60 * len(replay))
    return drawn.unique()


def all_window_slots(replay: UniformReplay) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    _, windows = replay.draw(generator, 1, 60 * replay.num_windows)
    assert windows is not None
    return windows.unique()


def check(replay: UniformReplay, history: History) -> None:
    """Everything that can be drawn is right, and all that should be drawn can be."""
    batch = replay.gather(all_slots(replay))
    obs, next_obs = batch.obs.dense(), batch.next_obs.dense()
    numbers = []
    for i in range(len(batch.reward)):
        number = history.identify(obs[i])
        record = history.records[number]
        np.testing.assert_array_equal(next_obs[i], record.next_obs)
        np.testing.assert_array_equal(batch.action[i], record.action)
        assert batch.reward[i] == record.reward
        assert batch.terminated[i] == record.terminated
        numbers.append(number)
    newest = len(history.records)
    oldest = newest - len(replay)
    assert sorted(numbers) == list(range(oldest, newest))
    assert replay.sequence_length is not None
    expected = history.expected_starts(oldest, replay.sequence_length)
    assert replay.num_windows == len(expected)
    if expected:
        check_windows(replay, history, expected)


def check_windows(replay: UniformReplay, history: History, expected: list[int]) -> None:
    windows = all_window_slots(replay)
    sequence = replay.gather(torch.zeros(1, dtype=torch.int64), windows).sequence
    assert sequence is not None
    obs = sequence.obs.dense()
    starts = [history.identify(each) for each in obs[0]]
    assert sorted(starts) == expected
    for column, start in enumerate(starts):
        for k in range(len(obs)):
            record = history.records[start + k]
            np.testing.assert_array_equal(obs[k, column], record.obs)
            np.testing.assert_array_equal(sequence.action[k, column], record.action)
            assert sequence.reward[k, column] == record.reward
