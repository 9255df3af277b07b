"""The whole agent learns a small game from pixels, and does not once a part of it is broken."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import train
from mlr_atari.batch import Batch
from mlr_atari.frames import FrameStacks
from mlr_atari.rainbow import Rainbow
from mlr_atari.settings import load

SOLVED = 8.0  # of ten balls; random play gets about -2
SETTINGS = (
    "game=pixel_game:SmallCatch-v0",
    "preset=laptop",
    "threads=1",
    "budget=2000",
    "environment.frame_skip=1",
    "scale.image_size=30",
    "scale.patch_size=6",
    "scale.num_filters=[16,64]",
    "scale.sequence_length=4",
    "scale.hidden_dim=64",
    "scale.decoder_width=32",
    "agent.encoder=data_efficient",
    "agent.shift_pad=1",
    "agent.n_step=1",
    "agent.learning_starts=200",
    "agent.learning_rate=1e-3",
    "agent.importance_exponent_steps=3000",
    "evaluation.every=2000",
    "evaluation.final_episodes=50",
)
Break = Callable[[Batch], Batch]


def final_score(runs: Path, *settings: str) -> float:
    """Mean score of 50 games after training from the command line's settings."""
    words = [*SETTINGS, *settings, f"runs_dir={runs}"]
    train.train(load(words))
    (final,) = runs.rglob("final.json")
    return float(json.loads(final.read_text())["mean"])


def other_actions(batch: Batch) -> Batch:
    """Every sequence gets the actions of another one."""
    return dataclasses.replace(batch, action=batch.action.roll(1, dims=1))


def masked(batch: Batch) -> Batch:
    """Every pixel of every observation is hidden."""

    def hide(stacks: FrameStacks) -> FrameStacks:
        blank = torch.full_like(stacks.index, len(stacks.frames) - 1)
        return FrameStacks(stacks.frames, blank)

    return dataclasses.replace(batch, obs=hide(batch.obs), n_step_obs=hide(batch.n_step_obs))


@pytest.mark.timeout(600)
def test_mlr_solves_catch(tmp_path: Path) -> None:
    assert final_score(tmp_path) >= SOLVED


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_without_target_updates_it_does_not(tmp_path: Path) -> None:
    assert final_score(tmp_path, "agent.target_update_interval=1000000") < SOLVED / 2


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("broken", [other_actions, masked])
def test_with_a_broken_batch_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Break
) -> None:
    whole = Rainbow.update
    monkeypatch.setattr(
        Rainbow,
        "update",
        lambda agent, batch, *rest, **due: whole(agent, broken(batch), *rest, **due),
    )
    assert final_score(tmp_path) < SOLVED / 2
