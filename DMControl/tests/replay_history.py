"""Small replays, and a plain list of everything that ever happened to check them against."""

from typing import Any, NamedTuple

import numpy as np
import torch

from mlr_dmcontrol.replay import UniformReplay

SHAPE = (3, 4, 4)
ACTIONS = 2
STACK = 3


def make(capacity: int, length: int | None, **changes: Any) -> UniformReplay:
    sizes = {"frame_shape": SHAPE, "action_dim": ACTIONS, "frame_stack": STACK, "device": "cpu"}
    return UniformReplay(capacity, sequence_length=length, **(sizes | changes))


class Record(NamedTuple):
    """One transition as a plain list of frames would have it."""

    obs: np.ndarray
    next_obs: np.ndarray
    action: np.ndarray
    reward: float
    terminated: bool
    episode: int


class History:
    """Plays random episodes into replays and remembers them all."""

    def __init__(self, seed: int) -> None:
        self.rng, self.records = np.random.default_rng(seed), list[Record]()
        self.episode, self.frames, self.left = -1, [], 0

    def stack(self) -> np.ndarray:
        places = [max(0, len(self.frames) - STACK + j) for j in range(STACK)]
        return np.concatenate([self.frames[place] for place in places])

    def step(self, longest: int, *replays: UniformReplay) -> None:
        draw = self.rng
        if self.left == 0:
            self.episode, self.left = self.episode + 1, int(draw.integers(1, longest + 1))
            self.frames = [draw.integers(0, 256, SHAPE, dtype=np.uint8)]
            for replay in replays:
                replay.start_episode(self.frames[0])
        obs = self.stack()
        self.frames.append(draw.integers(0, 256, SHAPE, dtype=np.uint8))
        self.left -= 1
        over = self.left == 0
        terminated = over and bool(draw.integers(2))
        action = draw.uniform(-1, 1, ACTIONS).astype(np.float32)
        reward = float(np.float32(draw.normal()))
        for replay in replays:
            replay.add(action, reward, self.frames[-1], terminated, over and not terminated)
        record = Record(obs, self.stack(), action, reward, terminated, self.episode)
        self.records.append(record)


def all_slots(replay: UniformReplay) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Every slot that can be drawn, of transitions and of windows, found by drawing."""
    count, windows = 60 * len(replay), 60 * replay.num_windows
    transitions, starts = replay.draw(torch.Generator().manual_seed(0), count, windows)
    return transitions.unique(), None if starts is None else starts.unique()


def check(replay: UniformReplay, history: History) -> None:
    """Everything that can be drawn is right, and all that should be drawn can be."""
    batch, records = replay.gather(*all_slots(replay)), history.records
    number = {record.obs.tobytes(): n for n, record in enumerate(records)}  # all are different
    drawn = [number[obs.numpy().tobytes()] for obs in batch.obs.dense()]
    oldest = len(records) - len(replay)
    assert sorted(drawn) == list(range(oldest, len(records)))
    for name in ("next_obs", "action", "reward", "terminated"):
        values = getattr(batch, name)
        values = (values.dense() if name == "next_obs" else values).numpy()
        expected = [getattr(records[n], name) for n in drawn]
        np.testing.assert_array_equal(values, np.array(expected, values.dtype))
    assert replay.sequence_length is not None
    # Within one episode, its last step not included.
    length, last = replay.sequence_length, len(records) - replay.sequence_length
    expected = [n for n in range(oldest, last) if records[n].episode == records[n + length].episode]
    assert replay.num_windows == len(expected)
    if batch.sequence is None:
        return
    obs = batch.sequence.obs.dense()
    starts = [number[each.numpy().tobytes()] for each in obs[0]]
    assert sorted(starts) == expected
    for k in range(length):
        window = [records[start + k] for start in starts]
        np.testing.assert_array_equal(obs[k], [record.obs for record in window])
        np.testing.assert_array_equal(batch.sequence.action[k], [each.action for each in window])
        assert batch.sequence.reward[k].tolist() == [record.reward for record in window]
