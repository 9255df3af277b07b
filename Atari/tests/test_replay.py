"""Replay: the published code's numbers, a plain version beside it, and what can be drawn."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_replays import SETTINGS, STACK, Step, exponent, fill, make_replay, random_steps

from mlr_atari.errors import ConfigError
from mlr_atari.replay import ReplaySettings, SequenceReplay

# --- the published code's numbers -----------------------------------------------------------------


def _append(replay: SequenceReplay, golden: Any, start: int, stop: int) -> None:
    history = golden["leaf_priorities_history"]
    for step in range(start, stop):
        given = (golden[f"in/{name}"][step].item() for name in ("action", "reward", "done"))
        fill(replay, [Step(step, *given)])
        masses = replay._priorities.masses().numpy()
        np.testing.assert_allclose(masses, history[step], rtol=1e-6, err_msg=f"step {step}")
        assert replay.can_draw == masses.any()


def _check_draw(replay: SequenceReplay, golden: Any, draw: str) -> torch.Tensor:
    masses = replay._priorities.masses()
    assert masses.sum().item() == pytest.approx(golden[f"{draw}/tree_total"], rel=1e-8)
    slots = replay.draw(torch.from_numpy(golden[f"{draw}/uniforms"]))
    np.testing.assert_array_equal(slots.numpy(), golden[f"{draw}/T_idxs"])
    np.testing.assert_allclose(masses[slots].numpy(), golden[f"{draw}/priorities"], rtol=1e-6)
    batch = replay.gather(slots, exponent(float(golden[f"{draw}/beta"])))
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
    return slots


@pytest.mark.parametrize("flag, commit", [("one_step", "b32d589"), ("n_step", "f04f23d")])
def test_published_replay(golden: Callable[[str], Any], flag: str, commit: str) -> None:
    stored = golden(f"atari_l_replay_rlpyt_{commit}")
    replay = make_replay(60, replace(SETTINGS, n_step_end_flag=flag))
    _append(replay, stored, 0, 40)
    slots = _check_draw(replay, stored, "draw1")
    replay.update_priorities(slots, torch.from_numpy(stored["draw1/new_priorities_given"]))
    np.testing.assert_allclose(
        replay._priorities.masses(), stored["draw1/leaf_priorities_after_update"], rtol=1e-6
    )
    slots = _check_draw(replay, stored, "draw2")
    replay.update_priorities(slots, torch.from_numpy(np.linspace(0.2, 5, 16)))
    _append(replay, stored, 40, 85)
    _check_draw(replay, stored, "draw3")


# --- a plain version beside it --------------------------------------------------------------------


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
        position += not steps[position].end
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


@pytest.mark.parametrize("time_limit", ["bootstrap", "terminal"])
@pytest.mark.parametrize("flag", ["n_step", "one_step"])
@pytest.mark.parametrize("length, n_step, wraps", [(6, 4, False), (3, 10, True), (1, 1, True)])
def test_agrees_with_a_plain_version_on_1000_episodes(
    time_limit: str, flag: str, length: int, n_step: int, wraps: bool
) -> None:
    steps = random_steps(1000, seed=length)
    settings = replace(
        SETTINGS, time_limit=time_limit, n_step_end_flag=flag, sequence_length=length, n_step=n_step
    )
    capacity = 5000 if wraps else len(steps)
    replay = make_replay(capacity, settings)
    fill(replay, steps)

    oldest = max(0, len(steps) - capacity) + STACK - 1
    drawable = range(oldest, len(steps) - (1 + n_step + length))
    if time_limit == "bootstrap":
        drawable = [start for start in drawable if not steps[start].truncated]
    slots = np.array(drawable) % capacity
    allowed = np.zeros(capacity)
    allowed[slots] = 1.0
    np.testing.assert_array_equal(replay._priorities.masses().numpy(), allowed)

    batch = replay.gather(torch.from_numpy(slots), exponent())
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


# --- drawing -------------------------------------------------------------------------------------


def test_a_uniform_replay_ignores_priorities() -> None:
    replay = make_replay(200, replace(SETTINGS, replay="uniform"))
    fill(replay, [Step(1)] * 200)
    uniforms = torch.linspace(0, 0.999, 500, dtype=torch.float64)
    before = replay.draw(uniforms)
    replay.update_priorities(before, torch.rand(500, generator=torch.Generator()))
    assert torch.equal(replay.draw(uniforms), before)
    assert torch.equal(before.unique(), torch.arange(3, 192))
    assert torch.equal(replay.gather(before, exponent()).importance_weights, torch.ones(500))


def test_new_steps_get_the_largest_priority_if_asked() -> None:
    replay = make_replay(100, replace(SETTINGS, new_priority="largest"))
    fill(replay, [Step(1)] * 20)
    replay.update_priorities(torch.tensor([4]), torch.tensor([25.0]))
    fill(replay, [Step(1)])
    masses = replay._priorities.masses()
    assert masses[[3, 4, 12]].tolist() == [1.0, 5.0, 5.0]


def test_a_replay_too_small_to_draw_from_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"replay\.capacity=11: "):
        make_replay(11)
    make_replay(12)


def test_memory_at_the_published_size() -> None:
    settings = replace(SETTINGS, sequence_length=16, n_step=10)
    replay = make_replay(10_000, settings, frame_shape=(1, 84, 84))
    assert replay.nbytes / 10_000 < 7_100


def test_an_episode_that_cannot_go_on_is_marked_as_capped() -> None:
    steps = [Step(1 + number, reward=1.0) for number in range(30)]
    cut, whole = (make_replay(100, replace(SETTINGS, time_limit="bootstrap")) for _ in range(2))
    fill(cut, steps[:15])
    cut.truncate_newest()
    cut.truncate_newest()  # nothing more to mark
    fill(cut, steps[15:])
    fill(whole, [*steps[:14], steps[14]._replace(truncated=True), *steps[15:]])
    assert torch.equal(cut._priorities.masses(), whole._priorities.masses())
    slots = torch.arange(3, 20)
    one, other = (replay.gather(slots, exponent()) for replay in (cut, whole))
    assert torch.equal(one.obs.dense(), other.obs.dense())
    assert torch.equal(one.bootstrap_discount, other.bootstrap_discount)
