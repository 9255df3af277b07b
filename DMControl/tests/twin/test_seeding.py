"""Random streams: reproducible across processes, independent, restorable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mlr_dmcontrol.errors import CheckpointError
from mlr_dmcontrol.run.seeding import STREAM_NAMES, Streams, episode_seed, initialisation, spawned

TREE = Path(__file__).resolve().parents[2]


def draw(streams: Streams, count: int = 100) -> dict[str, torch.Tensor]:
    return {name: torch.randn(count, generator=streams[name]) for name in STREAM_NAMES}


def test_streams_are_reproducible_and_independent() -> None:
    first, again, other = draw(Streams(1)), draw(Streams(1)), draw(Streams(2))
    assert all(torch.equal(first[name], again[name]) for name in STREAM_NAMES)
    assert len({tuple(each.tolist()) for each in [*first.values(), *other.values()]}) == 12
    streams = Streams(1)
    torch.randn(12345, generator=streams["noise"])
    assert torch.equal(torch.randn(100, generator=streams["masking"]), first["masking"])


def test_restored_streams_draw_the_same() -> None:
    streams, restored = Streams(1), Streams(99)
    draw(streams, 7)  # an odd number of normals leaves one cached in the generator
    state = streams.state_dict()
    expected = draw(streams)
    restored.load_state_dict(state)  # a copy: drawing has not changed it
    found = draw(restored)
    assert all(torch.equal(expected[name], found[name]) for name in STREAM_NAMES)
    del state["noise"]
    with pytest.raises(CheckpointError, match="noise"):
        restored.load_state_dict(state)


# These numbers are part of the meaning of a seed: published scores depend on them.
def test_seeds_are_what_they_have_always_been() -> None:
    assert episode_seed(1, "train", 0) == 2092760664
    assert Streams(1)["noise"].initial_seed() == 784886542879672760


def test_seeds_do_not_depend_on_the_process() -> None:
    code = (
        "from mlr_dmcontrol.run.seeding import episode_seed, spawned;"
        "print(episode_seed(3, 'evaluation', 7), spawned(3, 'a').generate_state(1)[0])"
    )
    expected = f"{episode_seed(3, 'evaluation', 7)} {spawned(3, 'a').generate_state(1)[0]}\n"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    assert expected == subprocess.check_output(command, cwd=TREE, env=environment, text=True)


def test_episode_seeds_fit_every_simulator_and_never_meet() -> None:
    seeds = [
        episode_seed(seed, purpose, episode)
        for seed in range(5)
        for purpose in ("train", "evaluation")
        for episode in range(200)
    ]
    assert len(set(seeds)) == len(seeds)
    for seed in seeds:
        np.random.RandomState(seed)
    assert max(seeds) < 2**31
    with pytest.raises(ValueError):
        episode_seed(-1, "train", 0)


def test_initialisation_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    with initialisation(1, "agent"):
        first = nn.Linear(8, 8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    with initialisation(1, "agent"):
        assert torch.equal(first.weight, nn.Linear(8, 8).weight)
    for seed, purpose in ((1, "objective"), (2, "agent")):
        with initialisation(seed, purpose):
            assert not torch.equal(first.weight, nn.Linear(8, 8).weight)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), initialisation(1, "agent"):
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)
