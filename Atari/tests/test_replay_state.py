"""The replay's state: saved and restored it goes on as if nothing had been; the same on a GPU."""

from dataclasses import replace

import pytest
import torch
from small_replays import SETTINGS, Step, exponent, fill, make_replay, random_steps

from mlr_atari.batch import Batch
from mlr_atari.device import to_device
from mlr_atari.errors import CheckpointError
from mlr_atari.frames import FrameStacks
from mlr_atari.replay import SequenceReplay


def _copied(replay: SequenceReplay, fresh: SequenceReplay) -> SequenceReplay:
    """`fresh` with the state of `replay`, frames in chunks as a checkpoint keeps them."""
    fresh.load_state_dict(replay.state_dict())
    size = 64
    for chunk in range(replay.first_live_frame // size, -(-replay.frames_written // size)):
        start = max(chunk * size, replay.first_live_frame)
        stop = min((chunk + 1) * size, replay.frames_written)
        fresh.write_frames(start, replay.read_frames(start, stop))
    return fresh


def _equal(one: Batch, other: Batch) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    both = ([each.dense() if isinstance(each, FrameStacks) else each for each in p] for p in pairs)
    return all(torch.equal(*pair) for pair in both)


@pytest.mark.parametrize(
    "written, new_priority",
    [(40, "one"), (300, "one"), (301, "largest"), (1000, "one")],
)
def test_state_round_trip(written: int, new_priority: str) -> None:
    settings = replace(SETTINGS, time_limit="bootstrap", new_priority=new_priority)
    steps = random_steps(300, seed=9)
    replay, generator = make_replay(300, settings), torch.Generator().manual_seed(1)

    def uniforms() -> torch.Tensor:
        return torch.rand(8, dtype=torch.float64, generator=generator)

    fill(replay, steps[:written])
    for _ in range(20):
        replay.update_priorities(replay.draw(uniforms()), uniforms() * 9)
    restored = _copied(replay, make_replay(300, settings))
    for step in range(1000):
        drawn = uniforms()
        slots = replay.draw(drawn)
        assert torch.equal(slots, restored.draw(drawn))
        for each in (replay, restored):
            each.update_priorities(slots, drawn * 9)
            if step % 2:
                fill(each, [steps[written + step]])
        if step % 50 == 0:
            assert _equal(replay.gather(slots, exponent()), restored.gather(slots, exponent()))
    first, end = replay.first_live_frame, replay.frames_written
    assert torch.equal(restored.read_frames(first, end), replay.read_frames(first, end))


@pytest.mark.parametrize("written", [5, 300, 301, 1000])
def test_the_state_fits_a_larger_replay(written: int) -> None:
    steps, settings = random_steps(300, seed=9), replace(SETTINGS, time_limit="bootstrap")
    small, large = make_replay(300, settings), make_replay(700, settings)
    for each in (small, large):
        fill(each, steps[:written])
        for entry in range(20, 280, 2):  # priorities that are no powers of two
            step = max(0, written - 300) + entry
            each.update_priorities(torch.tensor([step % each._capacity]), torch.tensor([entry / 7]))
    grown = _copied(small, make_replay(700, settings))
    assert grown.first_live_frame == max(0, written - 300)
    for step in range(written, written + 900):
        fill(grown, [steps[step]])
        fill(large, [steps[step]])
        if step < written + 404 and written > 300:
            continue  # the small one had forgotten what the large one still knows
        masses = large._priorities.masses()
        assert torch.equal(grown._priorities.masses(), masses)
        if step % 50 == 0 and masses.any():
            slots = masses.nonzero()[:, 0]
            one, other = (each.gather(slots, exponent()) for each in (grown, large))
            assert _equal(one, other)
    with pytest.raises(CheckpointError):
        make_replay(300, settings).load_state_dict(grown.state_dict())


def test_frames_that_were_overwritten_are_not_put_back() -> None:
    replay = make_replay(30)
    fill(replay, [Step(number) for number in range(50)])
    live = replay.read_frames(20, 50)
    replay.write_frames(0, torch.full((25, 1, 1, 2), 99, dtype=torch.uint8))
    assert replay.read_frames(20, 50)[:5].unique().tolist() == [99]
    assert torch.equal(replay.read_frames(25, 50), live[5:])


@pytest.mark.cuda
def test_the_gpu_gathers_the_same_without_a_synchronisation() -> None:
    steps = random_steps(100, seed=4)
    cpu, gpu = make_replay(500), make_replay(500, device="cuda")
    for each in (cpu, gpu):
        fill(each, steps)
    uniforms = torch.rand(32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    on_gpu, beta = uniforms.cuda(), exponent().cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        slots = gpu.draw(on_gpu)
        batch = gpu.gather(slots, beta)
        gpu.update_priorities(slots, on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    wanted = cpu.gather(cpu.draw(uniforms), exponent())
    assert _equal(to_device(batch, "cpu"), wanted)
