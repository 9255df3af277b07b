"""Replay: the published code's numbers, a plain version beside it, and its state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from mlr_atari.batch import Batch
from mlr_atari.errors import CheckpointError
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


def _replay(capacity: int, settings: ReplaySettings = SETTINGS, **others: Any) -> SequenceReplay:
    shape = {"frame_stack": STACK, "frame_shape": (1, 1, 2), "device": "cpu"}
    return SequenceReplay(capacity, settings, **{**shape, **others})


def _beta(value: float = 0.5) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


# --- the published code's numbers -----------------------------------------------------------------


def _frame(step: int) -> np.ndarray:
    return np.full((1, 2), step, np.uint8)


def _append(replay: SequenceReplay, golden: Any, start: int, stop: int) -> None:
    history = golden["leaf_priorities_history"]
    for step in range(start, stop):
        replay.add(
            _frame(step),
            int(golden["in/action"][step]),
            float(golden["in/reward"][step]),
            terminated=bool(golden["in/done"][step]),
            truncated=False,
        )
        masses = replay._priorities.masses().numpy()
        np.testing.assert_allclose(masses, history[step], rtol=1e-6, err_msg=f"step {step}")


def _check_draw(replay: SequenceReplay, golden: Any, draw: str) -> Batch:
    masses = replay._priorities.masses()
    assert masses.sum().item() == pytest.approx(golden[f"{draw}/tree_total"], rel=1e-8)
    indices = replay.draw(torch.from_numpy(golden[f"{draw}/uniforms"]))
    np.testing.assert_array_equal(indices.numpy(), golden[f"{draw}/T_idxs"])
    np.testing.assert_allclose(masses[indices].numpy(), golden[f"{draw}/priorities"], rtol=1e-6)
    batch = replay.gather(indices, _beta(float(golden[f"{draw}/beta"])))
    np.testing.assert_allclose(batch.importance_weights, golden[f"{draw}/is_weights"], rtol=1e-6)

    stored = f"{draw}/sanitized"
    obs = golden[f"{stored}/obs_frame_values"]
    np.testing.assert_array_equal(batch.obs.dense()[..., 0, 0], obs[:4])
    np.testing.assert_array_equal(batch.n_step_obs.dense()[..., 0, 0], obs[3])
    np.testing.assert_array_equal(batch.action, golden[f"{stored}/all_action"][1:5])
    np.testing.assert_array_equal(batch.ends, golden[f"{stored}/done"])
    np.testing.assert_allclose(batch.n_step_return, golden[f"{stored}/return_"][0], rtol=1e-6)
    discount = np.where(golden[f"{stored}/done_n"][0], 0.0, 0.99**3)
    np.testing.assert_allclose(batch.bootstrap_discount, discount, rtol=1e-6)
    return batch


@pytest.mark.parametrize("flag, commit", [("one_step", "b32d589"), ("n_step", "f04f23d")])
def test_published_replay(golden: Callable[[str], Any], flag: str, commit: str) -> None:
    stored = golden(f"atari_l_replay_rlpyt_{commit}")
    replay = _replay(60, replace(SETTINGS, n_step_end_flag=flag))
    _append(replay, stored, 0, 40)
    batch = _check_draw(replay, stored, "draw1")
    replay.update_priorities(batch.indices, torch.from_numpy(stored["draw1/new_priorities_given"]))
    np.testing.assert_allclose(
        replay._priorities.masses(), stored["draw1/leaf_priorities_after_update"], rtol=1e-6
    )
    batch = _check_draw(replay, stored, "draw2")
    replay.update_priorities(batch.indices, torch.from_numpy(np.linspace(0.2, 5, 16)))
    _append(replay, stored, 40, 85)
    _check_draw(replay, stored, "draw3")


# --- a plain version beside it --------------------------------------------------------------------


@dataclass
class Step:
    frame: int
    action: int
    reward: float
    terminated: bool
    truncated: bool

    @property
    def end(self) -> bool:
        return self.terminated or self.truncated


def _steps(episodes: int, seed: int) -> list[Step]:
    """Episodes of 1 to 25 steps; half of them end in a lost life or game over, half at a cap."""
    rng = np.random.default_rng(seed)
    steps: list[Step] = []
    for _ in range(episodes):
        length, capped = int(rng.integers(1, 26)), bool(rng.random() < 0.5)
        for position in range(length):
            last = position == length - 1
            steps.append(
                Step(
                    frame=1 + len(steps) % 255,
                    action=int(rng.integers(6)),
                    reward=float(rng.choice([-1.0, 0.0, 1.0])),
                    terminated=last and not capped,
                    truncated=last and capped,
                )
            )
    return steps


def _plain_stack(steps: list[Step], newest: int) -> list[int]:
    stack = [steps[newest].frame]
    for older in range(newest - 1, newest - STACK, -1):
        if older < 0 or steps[older].end:
            break
        stack.insert(0, steps[older].frame)
    return [0] * (STACK - len(stack)) + stack


def _plain_sequence(steps: list[Step], start: int, length: int) -> list[list[int]]:
    shown, position = [], start
    for _ in range(length):
        shown.append(_plain_stack(steps, position))
        if not steps[position].end:
            position += 1
    return shown


def _plain_return(
    steps: list[Step], start: int, settings: ReplaySettings
) -> tuple[float, float, list[int]]:
    """Return, bootstrap discount and the observation to bootstrap from."""
    total, discount, position = 0.0, 1.0, start
    for count in range(settings.n_step):
        step = steps[position]
        if step.truncated and settings.time_limit == "bootstrap":
            return total, discount, _plain_stack(steps, position)
        total += discount * step.reward
        discount *= settings.discount
        if step.end:
            through = settings.n_step_end_flag == "one_step" and count > 0
            bootstrap = settings.discount**settings.n_step if through else 0.0
            return total, bootstrap, _plain_stack(steps, position)
        position += 1
    return total, discount, _plain_stack(steps, position)


def _fill(replay: SequenceReplay, steps: list[Step]) -> None:
    for step in steps:
        replay.add(
            _frame(step.frame),
            step.action,
            step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
        )


@pytest.mark.parametrize("time_limit", ["bootstrap", "terminal"])
@pytest.mark.parametrize("flag", ["n_step", "one_step"])
@pytest.mark.parametrize("length, n_step, wraps", [(6, 4, False), (3, 10, True), (1, 1, True)])
def test_agrees_with_a_plain_version_on_1000_episodes(
    time_limit: str, flag: str, length: int, n_step: int, wraps: bool
) -> None:
    steps = _steps(1000, seed=length)
    settings = replace(
        SETTINGS, time_limit=time_limit, n_step_end_flag=flag, sequence_length=length, n_step=n_step
    )
    capacity = 5000 if wraps else len(steps)
    replay = _replay(capacity, settings)
    _fill(replay, steps)

    oldest = max(0, len(steps) - capacity) + STACK - 1
    drawable = range(oldest, len(steps) - (1 + n_step + length))
    if time_limit == "bootstrap":
        drawable = [start for start in drawable if not steps[start].truncated]
    slots = np.array(drawable) % capacity
    allowed = np.zeros(capacity)
    allowed[slots] = 1.0
    np.testing.assert_array_equal(replay._priorities.masses().numpy(), allowed)

    batch = replay.gather(torch.from_numpy(slots), _beta())
    obs, n_step_obs = batch.obs.dense()[..., 0, 0], batch.n_step_obs.dense()[..., 0, 0]
    returns = np.array([_plain_return(steps, start, settings)[:2] for start in drawable])
    np.testing.assert_allclose(batch.n_step_return, returns[:, 0], atol=1e-6)
    np.testing.assert_allclose(batch.bootstrap_discount, returns[:, 1], atol=1e-6)
    for place, start in enumerate(drawable):
        assert obs[:, place].tolist() == _plain_sequence(steps, start, length)
        assert n_step_obs[place].tolist() == _plain_return(steps, start, settings)[2]
        ahead = steps[start : start + length]
        assert batch.action[:, place].tolist() == [step.action for step in ahead]
        assert batch.ends[:, place].tolist() == [step.end for step in ahead]


def test_stacks_of_the_oldest_steps_reach_over_the_rings_end() -> None:
    steps = [Step(1 + number, 0, 0.0, False, False) for number in range(100)]
    replay = _replay(40)
    _fill(replay, steps)
    newest_slot = torch.tensor([81 % 40])  # step 81: frames 78 and 79 lie at the ring's end
    stack = replay.gather(newest_slot, _beta()).obs.dense()[0, 0, :, 0, 0]
    assert stack.tolist() == [79, 80, 81, 82]


# --- drawing -------------------------------------------------------------------------------------


def test_draws_only_complete_steps_at_any_time() -> None:
    steps = _steps(60, seed=3)
    replay, generator = _replay(50), torch.Generator().manual_seed(0)
    for number, step in enumerate(steps):
        _fill(replay, [step])
        assert replay.can_draw == (number >= 3 + 8)
        if replay.can_draw:
            uniforms = torch.rand(200, dtype=torch.float64, generator=generator)
            ages = (number - replay.draw(uniforms)) % 50
            assert ages.min() >= 8
            assert ages.max() < 50 - 3


def test_a_uniform_replay_ignores_priorities() -> None:
    replay = _replay(200, replace(SETTINGS, replay="uniform"))
    _fill(replay, [Step(1, 0, 0.0, False, False)] * 200)
    uniforms = torch.linspace(0, 0.999, 500, dtype=torch.float64)
    before = replay.draw(uniforms)
    replay.update_priorities(before, torch.rand(500, generator=torch.Generator()))
    assert torch.equal(replay.draw(uniforms), before)
    assert torch.equal(before.unique(), torch.arange(3, 192))
    assert torch.equal(replay.gather(before, _beta()).importance_weights, torch.ones(500))


def test_new_steps_get_the_largest_priority_if_asked() -> None:
    replay = _replay(100, replace(SETTINGS, new_priority="largest"))
    _fill(replay, [Step(1, 0, 0.0, False, False)] * 20)
    replay.update_priorities(torch.tensor([4]), torch.tensor([25.0]))
    _fill(replay, [Step(1, 0, 0.0, False, False)])
    masses = replay._priorities.masses()
    assert masses[[3, 4, 12]].tolist() == [1.0, 5.0, 5.0]


def test_a_replay_too_small_to_draw_from_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity=11: at least 12"):
        _replay(11)
    _replay(12)


def test_memory_at_the_published_size() -> None:
    settings = replace(SETTINGS, sequence_length=16, n_step=10)
    replay = _replay(10_000, settings, frame_shape=(1, 84, 84))
    assert replay.nbytes / 10_000 < 7_100


def test_an_episode_that_cannot_go_on_is_marked_as_capped() -> None:
    steps = [Step(1 + number, 0, 1.0, False, False) for number in range(30)]
    cut, whole = (_replay(100, replace(SETTINGS, time_limit="bootstrap")) for _ in range(2))
    _fill(cut, steps[:15])
    cut.truncate_newest()
    cut.truncate_newest()  # nothing more to mark
    _fill(cut, steps[15:])
    _fill(whole, [*steps[:14], replace(steps[14], truncated=True), *steps[15:]])
    assert torch.equal(cut._priorities.masses(), whole._priorities.masses())
    slots = torch.arange(3, 20)
    one, other = (replay.gather(slots, _beta()) for replay in (cut, whole))
    assert torch.equal(one.obs.dense(), other.obs.dense())
    assert torch.equal(one.bootstrap_discount, other.bootstrap_discount)


# --- state ---------------------------------------------------------------------------------------


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
    names = ["action", "n_step_return", "bootstrap_discount", "ends", "importance_weights"]
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names) and all(
        torch.equal(getattr(one, name).dense(), getattr(other, name).dense())
        for name in ("obs", "n_step_obs")
    )


@pytest.mark.parametrize(
    "written, new_priority",
    [(40, "one"), (299, "one"), (300, "one"), (301, "largest"), (1000, "one")],
)
def test_state_round_trip(written: int, new_priority: str) -> None:
    settings = replace(SETTINGS, time_limit="bootstrap", new_priority=new_priority)
    steps = _steps(300, seed=9)
    replay, generator = _replay(300, settings), torch.Generator().manual_seed(1)

    def uniforms() -> torch.Tensor:
        return torch.rand(8, dtype=torch.float64, generator=generator)

    _fill(replay, steps[:written])
    for _ in range(20):
        replay.update_priorities(replay.draw(uniforms()), uniforms() * 9)
    restored = _copied(replay, _replay(300, settings))
    for step in range(1000):
        drawn = uniforms()
        indices = replay.draw(drawn)
        assert torch.equal(indices, restored.draw(drawn))
        for each in (replay, restored):
            each.update_priorities(indices, drawn * 9)
            if step % 2:
                _fill(each, [steps[written + step]])
        if step % 50 == 0:
            assert _equal(replay.gather(indices, _beta()), restored.gather(indices, _beta()))
    everything = restored.read_frames(restored.first_live_frame, restored.frames_written)
    assert torch.equal(
        everything, replay.read_frames(replay.first_live_frame, replay.frames_written)
    )


@pytest.mark.parametrize("written", [5, 299, 300, 301, 1000])
def test_the_state_fits_a_larger_replay(written: int) -> None:
    steps, settings = _steps(300, seed=9), replace(SETTINGS, time_limit="bootstrap")
    small, large = _replay(300, settings), _replay(700, settings)
    for each in (small, large):
        _fill(each, steps[:written])
        for entry in range(20, 280, 2):  # priorities that are no powers of two
            step = max(0, written - 300) + entry
            each.update_priorities(torch.tensor([step % each._capacity]), torch.tensor([entry / 7]))
    grown = _copied(small, _replay(700, settings))
    assert grown.first_live_frame == max(0, written - 300)
    for step in range(written, written + 900):
        _fill(grown, [steps[step]])
        _fill(large, [steps[step]])
        if step < written + 404 and written > 300:
            continue  # the small one had forgotten what the large one still knows
        masses = large._priorities.masses()
        assert torch.equal(grown._priorities.masses(), masses)
        if step % 50 == 0 and masses.any():
            slots = masses.nonzero()[:, 0]
            one, other = (each.gather(slots, _beta()) for each in (grown, large))
            assert _equal(one, other)
    with pytest.raises(CheckpointError, match="more steps were saved than it holds"):
        _replay(300, settings).load_state_dict(grown.state_dict())


def test_what_a_smaller_replay_had_forgotten_stays_so() -> None:
    small = _replay(30)
    _fill(small, [Step(number, 0, 0.0, False, False) for number in range(50)])
    grown = _copied(small, _replay(100))
    assert (grown.first_live_frame, grown.frames_written) == (20, 50)
    on = grown._priorities.masses().nonzero()[:, 0].tolist()
    assert on == list(range(23, 42))  # whole stacks, whole sequences
    with pytest.raises(IndexError):
        grown.read_frames(19, 30)
    assert torch.equal(grown.read_frames(20, 50), small.read_frames(20, 50))


def test_frames_that_were_overwritten_are_not_put_back() -> None:
    replay = _replay(30)
    _fill(replay, [Step(number, 0, 0.0, False, False) for number in range(50)])
    live = replay.read_frames(20, 50)
    replay.write_frames(0, torch.full((25, 1, 1, 2), 99, dtype=torch.uint8))
    assert replay.read_frames(20, 50)[:5].unique().tolist() == [99]
    assert torch.equal(replay.read_frames(25, 50), live[5:])
    with pytest.raises(IndexError, match=r"frames 19\.\.30 of 20\.\.50"):
        replay.read_frames(19, 30)


def test_the_state_of_another_replay_is_refused() -> None:
    with pytest.raises(CheckpointError, match="shape"):
        _replay(30, frame_stack=3).load_state_dict(_replay(30).state_dict())
    with pytest.raises(CheckpointError, match="settings"):
        _replay(30, replace(SETTINGS, n_step=5)).load_state_dict(_replay(30).state_dict())


@pytest.mark.cuda
def test_the_gpu_gathers_the_same_without_a_synchronisation() -> None:
    steps = _steps(100, seed=4)
    cpu, gpu = _replay(500), _replay(500, device="cuda")
    for each in (cpu, gpu):
        _fill(each, steps)
    uniforms = torch.rand(32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    on_gpu, beta = uniforms.cuda(), _beta().cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = gpu.gather(gpu.draw(on_gpu), beta)
        gpu.update_priorities(batch.indices, on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    wanted = cpu.gather(cpu.draw(uniforms), _beta())
    assert _equal(batch.to("cpu"), wanted)
