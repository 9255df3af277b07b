"""The replay against a plain list of everything that ever happened."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from replay_history import ACTIONS, SHAPE, History, all_slots, check, make

from mlr_dmcontrol.errors import ConfigError


@pytest.mark.parametrize("length", [1, 4, 5])
@pytest.mark.parametrize("capacity, longest", [(300, 70), (60, 25), (40, 3), (64, 200), (7, 12)])
def test_brute_force(capacity: int, longest: int, length: int) -> None:
    replay, history = make(capacity, length), History(seed=capacity + length)
    for number in range(1, 3 * capacity):
        history.step(longest, replay)
        if number % 37 == 0 or number in (1, capacity, capacity + 1):
            check(replay, history)
    # Very short episodes have many extra frames, which cost some of the oldest transitions.
    if longest >= 25:
        assert len(replay) >= capacity - 2 - capacity // 20
    assert len(replay) > capacity // 3


def test_an_episode_that_is_cut_off_ends_there() -> None:
    replay, frame = make(100, 4), np.zeros(SHAPE, np.uint8)
    for _ in range(3):
        replay.start_episode(frame)
        for _ in range(5):
            replay.add(np.zeros(ACTIONS), 0.0, frame, False, False)
    # Of the steps 0..4 of each, the window that ends with the last one is not drawn.
    assert all_slots(replay)[1].tolist() == [0, 5, 10]


def test_no_window_is_an_error_that_explains() -> None:
    replay, history = make(100, 16), History(seed=0)
    for _ in range(50):
        history.step(10, replay)
    with pytest.raises(ConfigError, match=r"agent\.sequence_length=16: no window"):
        replay.draw(torch.Generator(), 4, 2)
    assert replay.draw(torch.Generator(), 4)[1] is None


def test_draws_are_uniform() -> None:
    replay, history = make(50, 4), History(seed=3)
    for _ in range(130):
        history.step(40, replay)
    transitions, windows = replay.draw(torch.Generator().manual_seed(1), 200_000, 200_000)
    for drawn, count in ((transitions, len(replay)), (windows, replay.num_windows)):
        times, expected = drawn.unique(return_counts=True)[1], 200_000 / count
        assert len(times) == count
        chi2 = float(((times - expected) ** 2 / expected).sum())
        assert chi2 < count + 5 * (2 * count) ** 0.5  # five standard deviations


@pytest.mark.parametrize("case", ["notfull", "short", "nonevalid", "full"])
def test_published_rules(case: str, golden: Callable[[str], Any]) -> None:
    """What the published code drew is what can be drawn here, and has the same content."""
    data = golden("dmc_replay_sampling")
    capacity, added, every, jumps, _, wanted, seed = (int(n) for n in data[f"{case}/cfg"])
    length = jumps + 1
    replay = make(capacity, length, action_dim=3, frame_stack=1, frame_shape=(3, 20, 20))
    rng = np.random.RandomState(seed)
    grid = np.stack([np.zeros((20, 20)), *np.mgrid[:20, :20]]).astype(np.uint8)
    for number in range(added):
        if number % every == 0:
            replay.start_episode(_numbered(grid, number))
        action, reward = rng.uniform(-1, 1, 3), rng.rand()
        over = number % every == every - 1
        replay.add(action, reward, _numbered(grid, number + 1), False, over)

    def stored(name: str) -> torch.Tensor:
        return data.tensor(f"{case}/{name}")

    ids = stored("main_obs_value").long()
    batch = replay.gather(ids % capacity)
    assert torch.equal(batch.obs.dense()[:, 0, 0, 0], ids.to(torch.uint8))
    assert torch.equal(batch.next_obs.dense()[:, 0, 0, 0].float(), stored("main_next_value"))
    assert torch.equal(batch.action, stored("main_action"))
    assert torch.equal(batch.reward, stored("main_reward").squeeze(1))
    assert torch.equal(1 - batch.terminated, stored("main_not_done").squeeze(1))
    if case == "full":
        return  # published windows cross the write position there, ours never do

    ends = data[f"{case}/real_dones"].astype(bool)
    accepted = [s for s in range(added - length) if not ends[s : s + length].any()]
    assert replay.num_windows == len(accepted)
    drawn = stored("aux_obs_first_channel_value").long()  # (K, B)
    survivors = [s for s in data[f"{case}/draw_aux_start"].tolist() if s in accepted][:wanted]
    assert drawn[0].tolist() == survivors
    if not accepted:
        return
    assert all_slots(replay)[1].tolist() == accepted
    sequence = replay.gather(ids % capacity, drawn[0]).sequence
    assert torch.equal(sequence.obs.dense()[:, :, 0, 0, 0].long(), drawn)
    assert torch.equal(sequence.action, stored("aux_action"))
    assert torch.equal(sequence.reward, stored("aux_reward").squeeze(-1))


def _numbered(grid: np.ndarray, number: int) -> np.ndarray:
    frame = grid.copy()
    frame[0] = number % 256
    return frame


def test_bytes_per_transition() -> None:
    replay = make(2000, 16, action_dim=38, frame_shape=(3, 100, 100))
    assert replay.nbytes / 2000 <= 31_000
