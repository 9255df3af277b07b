"""The replay against a plain list of everything that ever happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from mlr_dmcontrol.errors import ConfigError
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
    for i in range(len(batch.indices)):
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


def test_full_capacity_is_kept_with_the_benchmarks_episodes() -> None:
    replay = make(1000, 16)
    frame = np.zeros(SHAPE, np.uint8)
    for number in range(5000):
        if number % 125 == 0:  # action repeat 8: the shortest episodes of the six tasks
            replay.start_episode(frame)
        replay.add(np.zeros(ACTIONS), 0.0, frame, False, number % 125 == 124)
        assert len(replay) == min(number + 1, 1000)


def test_an_episode_that_is_cut_off_ends_there() -> None:
    replay, frame = make(100, 4), np.zeros(SHAPE, np.uint8)
    for _ in range(3):
        replay.start_episode(frame)
        for _ in range(5):
            replay.add(np.zeros(ACTIONS), 0.0, frame, False, False)
    # Of the steps 0..4 of each, the window that ends with the last one is not drawn.
    assert all_window_slots(replay).tolist() == [0, 5, 10]


def test_add_needs_an_open_episode() -> None:
    replay, frame = make(10, None), np.zeros(SHAPE, np.uint8)
    with pytest.raises(RuntimeError, match="start_episode"):
        replay.add(np.zeros(ACTIONS), 0.0, frame, False, False)
    replay.start_episode(frame)
    with pytest.raises(RuntimeError, match="empty"):
        replay.draw(torch.Generator(), 1)
    replay.add(np.zeros(ACTIONS), 0.0, frame, False, True)
    with pytest.raises(RuntimeError, match="start_episode"):
        replay.add(np.zeros(ACTIONS), 0.0, frame, False, False)


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
    assert windows is not None
    for drawn, count in ((transitions, len(replay)), (windows, replay.num_windows)):
        times = drawn.bincount()
        times = times[times > 0].double()
        expected = 200_000 / count
        assert len(times) == count
        chi2 = float(((times - expected) ** 2 / expected).sum())
        assert chi2 < count + 5 * (2 * count) ** 0.5  # five standard deviations


def test_draw_depends_on_its_generator_alone() -> None:
    replay, history = make(100, 4), History(seed=3)
    for _ in range(80):
        history.step(40, replay)
    before = torch.get_rng_state()
    first = replay.draw(torch.Generator().manual_seed(5), 8, 4)
    again = replay.draw(torch.Generator().manual_seed(5), 8, 4)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert torch.equal(before, torch.get_rng_state())


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

    ids = torch.from_numpy(data[f"{case}/main_obs_value"]).long()
    batch = replay.gather(ids % capacity)
    assert torch.equal(batch.obs.dense()[:, 0, 0, 0], ids.to(torch.uint8))
    values = batch.next_obs.dense()[:, 0, 0, 0].float()
    assert torch.equal(values, data.tensor(f"{case}/main_next_value"))
    torch.testing.assert_close(batch.action, data.tensor(f"{case}/main_action"), rtol=0, atol=0)
    torch.testing.assert_close(
        batch.reward, data.tensor(f"{case}/main_reward").squeeze(1), rtol=0, atol=0
    )
    assert torch.equal(1 - batch.terminated, data.tensor(f"{case}/main_not_done").squeeze(1))
    if case == "full":
        return  # published windows cross the write position there, ours never do

    ends = data[f"{case}/real_dones"].astype(bool)
    accepted = [s for s in range(added - length) if not ends[s : s + length].any()]
    assert replay.num_windows == len(accepted)
    drawn = data.tensor(f"{case}/aux_obs_first_channel_value").long()  # (K, B)
    survivors = [s for s in data[f"{case}/draw_aux_start"].tolist() if s in accepted][:wanted]
    assert drawn[0].tolist() == survivors
    if not accepted:
        with pytest.raises(ConfigError):
            replay.draw(torch.Generator(), 1, 1)
        return
    assert all_window_slots(replay).tolist() == accepted
    sequence = replay.gather(ids % capacity, drawn[0]).sequence
    assert sequence is not None
    assert torch.equal(sequence.obs.dense()[:, :, 0, 0, 0].long(), drawn)
    torch.testing.assert_close(sequence.action, data.tensor(f"{case}/aux_action"), rtol=0, atol=0)
    reward = data.tensor(f"{case}/aux_reward").squeeze(-1)
    torch.testing.assert_close(sequence.reward, reward, rtol=0, atol=0)


def _numbered(grid: np.ndarray, number: int) -> np.ndarray:
    frame = grid.copy()
    frame[0] = number % 256
    return frame


def save(replay: UniformReplay) -> tuple[dict[str, Any], list[tuple[int, torch.Tensor]]]:
    """State and frames, in blocks as a checkpoint has them."""
    size, blocks = 32, []
    for start in range(0, replay.frames_written, size):
        low = max(start, replay.first_live_frame)
        high = min(start + size, replay.frames_written)
        if low < high:
            blocks.append((low, replay.read_frames(low, high)))
    return replay.state_dict(), blocks


def restore(replay: UniformReplay, saved: tuple[dict[str, Any], Any]) -> UniformReplay:
    state, blocks = saved
    replay.load_state_dict(state)
    for start, frames in blocks:
        replay.write_frames(start, frames)
    return replay


def assert_same_draws(one: UniformReplay, other: UniformReplay, count: int) -> None:
    generators = [torch.Generator().manual_seed(9) for _ in range(2)]
    for _ in range(count):
        batches = []
        for replay, generator in zip((one, other), generators, strict=True):
            transitions, windows = replay.draw(generator, 8, 4 if replay.num_windows else 0)
            batch = replay.gather(transitions, windows)
            parts = [batch.obs.dense(), batch.next_obs.dense(), batch.action, batch.reward]
            parts += [batch.terminated, batch.indices]
            if batch.sequence is not None:
                sequence = batch.sequence
                parts += [sequence.obs.dense(), sequence.action, sequence.reward, sequence.indices]
            batches.append(parts)
        assert len(batches[0]) == len(batches[1])
        assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


# 60 is just full, 61 and 62 have just wrapped; 30 is half full; 200 has wrapped often.
@pytest.mark.parametrize("steps", [1, 30, 59, 60, 61, 62, 121, 200])
def test_state_round_trip(steps: int, tmp_path: Any) -> None:
    replay, history = make(60, 4), History(seed=steps)
    for _ in range(steps):
        history.step(25, replay)
    torch.save(save(replay), tmp_path / "replay.pt")
    saved = torch.load(tmp_path / "replay.pt", weights_only=True)
    restored = restore(make(60, 4), saved)
    assert_same_draws(replay, restored, count=200)
    # What is added afterwards lands in the same places, an episode going on included.
    for _ in range(90):
        history.step(25, replay, restored)
    check(restored, history)
    assert_same_draws(replay, restored, count=1000)


@pytest.mark.parametrize("position", [0, 1, 2, 4, 5])
def test_restored_near_an_episodes_beginning(position: int) -> None:
    """What comes next has to know where its episode began."""
    replay, history = make(60, 4), History(seed=3)
    while history.episode < 5 or history.left > 0:
        history.step(25, replay)
    history.begin(25, replay)
    history.left = 25
    for _ in range(position):
        history.step(25, replay)
    restored = restore(make(60, 4), save(replay))
    for _ in range(12):
        history.step(25, replay, restored)
    check(restored, history)


def test_state_fits_a_larger_replay() -> None:
    """A longer budget is a larger ring: what was stored stays where it is counted."""
    replay, history = make(60, 4), History(seed=0)
    for _ in range(60):
        history.step(25, replay)
    larger = restore(make(200, 4), save(replay))
    check(larger, history)
    for _ in range(100):
        history.step(25, larger)
    check(larger, history)
    assert len(larger) == 160
    with pytest.raises(ValueError, match="60 transitions do not fit"):
        make(59, 4).load_state_dict(replay.state_dict())


def test_written_frames_never_change_and_dead_ones_are_refused() -> None:
    replay, history = make(60, 4), History(seed=0)
    seen: dict[int, torch.Tensor] = {}
    for _ in range(200):
        history.step(25, replay)
        first, end = replay.first_live_frame, replay.frames_written
        for number, frame in enumerate(replay.read_frames(first, end), start=first):
            assert torch.equal(seen.setdefault(number, frame), frame)
    assert replay.first_live_frame > 100
    with pytest.raises(ValueError, match="not stored"):
        replay.read_frames(0, 3)
    with pytest.raises(ValueError, match="not stored"):
        replay.read_frames(replay.frames_written - 1, replay.frames_written + 1)


@pytest.mark.parametrize("action_dim, episode", [(1, 125), (6, 250), (38, 250)])
def test_bytes_per_transition(action_dim: int, episode: int) -> None:
    replay = make(2000, 16, action_dim=action_dim, frame_shape=(3, 100, 100))
    frame, action = np.zeros((3, 100, 100), np.uint8), np.zeros(action_dim)
    for number in range(2500):
        if number % episode == 0:
            replay.start_episode(frame)
        replay.add(action, 0.0, frame, False, number % episode == episode - 1)
    assert len(replay) == 2000
    assert replay.nbytes / len(replay) <= 31_000


@pytest.mark.cuda
def test_cuda_equals_cpu_without_a_sync() -> None:
    replays = [make(60, 4, device=device) for device in ("cpu", "cuda")]
    for replay in replays:
        history = History(seed=1)
        for _ in range(130):
            history.step(25, replay)
    on_gpu = restore(make(60, 4, device="cuda"), save(replays[0]))
    transitions, windows = replays[0].draw(torch.Generator().manual_seed(0), 64, 32)
    assert windows is not None
    expected = replays[0].gather(transitions, windows)
    for replay in (replays[1], on_gpu):
        on_device = transitions.cuda(), windows.cuda()
        torch.cuda.set_sync_debug_mode("error")
        batch = replay.gather(*on_device)
        torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(batch.obs.dense().cpu(), expected.obs.dense())
        assert torch.equal(batch.next_obs.dense().cpu(), expected.next_obs.dense())
        assert torch.equal(batch.action.cpu(), expected.action)
        assert torch.equal(batch.reward.cpu(), expected.reward)
        assert batch.sequence is not None
        assert expected.sequence is not None
        assert torch.equal(batch.sequence.obs.dense().cpu(), expected.sequence.obs.dense())
        assert torch.equal(batch.sequence.action.cpu(), expected.sequence.action)
