"""The replay's state: saved and restored it goes on as if nothing had been, here and on a GPU."""

from typing import Any

import pytest
import torch
from replay_history import History, check, make

from mlr_dmcontrol.batch import Batch, SequenceBatch
from mlr_dmcontrol.frames import FrameStacks
from mlr_dmcontrol.replay import UniformReplay


def save(replay: UniformReplay) -> tuple[dict[str, Any], list[tuple[int, torch.Tensor]]]:
    """State and frames, in blocks as a checkpoint has them."""
    first, end = replay.first_live_frame, replay.frames_written
    spans = ((max(n, first), min(n + 32, end)) for n in range(first - first % 32, end, 32))
    return replay.state_dict(), [(start, replay.read_frames(start, end)) for start, end in spans]


def restore(replay: UniformReplay, saved: tuple[dict[str, Any], Any]) -> UniformReplay:
    state, blocks = saved
    replay.load_state_dict(state)
    for start, frames in blocks:
        replay.write_frames(start, frames)
    return replay


def contents(batch: Batch) -> list[torch.Tensor]:
    return [
        (each.dense() if isinstance(each, FrameStacks) else each).cpu()
        for part in (batch, batch.sequence)
        for each in ({} if part is None else vars(part)).values()
        if not isinstance(each, SequenceBatch | None)
    ]


def assert_same(one: Batch, other: Batch) -> None:
    assert all(torch.equal(*pair) for pair in zip(contents(one), contents(other), strict=True))


def assert_same_draws(replays: list[UniformReplay], count: int) -> None:
    draws = [torch.Generator().manual_seed(9) for _ in replays]
    windows = 4 if replays[0].num_windows else 0
    for _ in range(count):
        pairs = zip(replays, draws, strict=True)
        assert_same(*(replay.gather(*replay.draw(draw, 8, windows)) for replay, draw in pairs))


# 60 is just full, 61 and 62 have just wrapped; 30 is half full; 200 has wrapped often.
@pytest.mark.parametrize("steps", [1, 30, 60, 61, 62, 200])
def test_state_round_trip(steps: int, tmp_path: Any) -> None:
    replay, history = make(60, 4), History(seed=steps)
    for _ in range(steps):
        history.step(25, replay)
    torch.save(save(replay), tmp_path / "replay.pt")
    saved = torch.load(tmp_path / "replay.pt", weights_only=True)
    restored = restore(make(60, 4), saved)
    assert_same_draws([replay, restored], count=200)
    # What is added afterwards lands in the same places, an episode going on included.
    for _ in range(90):
        history.step(25, replay, restored)
    check(restored, history)
    assert_same_draws([replay, restored], count=500)


def test_state_fits_a_larger_replay() -> None:
    """A longer budget is a larger ring: what was stored stays where it is counted."""
    replay, history = make(60, 4), History(seed=0)
    for _ in range(60):
        history.step(25, replay)
    larger = restore(make(200, 4), save(replay))
    for _ in range(100):
        history.step(25, larger)
    check(larger, history)
    assert len(larger) == 160
    with pytest.raises(ValueError):
        make(59, 4).load_state_dict(replay.state_dict())


def test_written_frames_never_change() -> None:
    replay, history = make(60, 4), History(seed=0)
    seen: dict[int, torch.Tensor] = {}
    for _ in range(200):
        history.step(25, replay)
        first, end = replay.first_live_frame, replay.frames_written
        for number, frame in enumerate(replay.read_frames(first, end), start=first):
            assert torch.equal(seen.setdefault(number, frame), frame)
    assert replay.first_live_frame > 100


@pytest.mark.cuda
def test_cuda_equals_cpu_without_a_sync() -> None:
    replays = [make(60, 4, device=device) for device in ("cpu", "cuda")]
    for replay in replays:
        history = History(seed=1)
        for _ in range(130):
            history.step(25, replay)
    on_gpu = restore(make(60, 4, device="cuda"), save(replays[0]))
    transitions, windows = replays[0].draw(torch.Generator().manual_seed(0), 64, 32)
    expected = replays[0].gather(transitions, windows)
    for replay in (replays[1], on_gpu):
        on_device = transitions.cuda(), windows.cuda()
        torch.cuda.set_sync_debug_mode("error")
        batch = replay.gather(*on_device)
        torch.cuda.set_sync_debug_mode("default")
        assert_same(batch, expected)
