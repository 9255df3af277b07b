"""Random streams: reproducible across processes, independent, restorable (R9)."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mlr_dmcontrol.errors import CheckpointError
from mlr_dmcontrol.run.seeding import (
    STREAM_NAMES,
    Streams,
    episode_seed,
    initialisation,
    make_deterministic,
)
from mlr_dmcontrol.seeds import spawned

TREE = Path(__file__).resolve().parents[2]


def draw(streams: Streams, count: int = 100) -> dict[str, torch.Tensor]:
    return {name: torch.randn(count, generator=streams[name]) for name in STREAM_NAMES}


def test_streams_are_reproducible_and_independent() -> None:
    first, again, other = draw(Streams(1)), draw(Streams(1)), draw(Streams(2))
    for name in STREAM_NAMES:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
    for one, two in itertools.combinations(STREAM_NAMES, 2):
        assert not torch.equal(first[one], first[two])


def test_drawing_from_one_stream_leaves_the_others_alone() -> None:
    streams = Streams(1)
    torch.randn(12345, generator=streams["noise"])
    fresh = draw(Streams(1))
    assert torch.equal(torch.randn(100, generator=streams["masking"]), fresh["masking"])


def test_state_round_trip_gives_the_same_next_draws() -> None:
    streams, restored = Streams(1), Streams(99)
    draw(streams, 7)  # an odd number of normals leaves one cached in the generator
    restored.load_state_dict(streams.state_dict())
    expected, found = draw(streams), draw(restored)
    assert all(torch.equal(expected[name], found[name]) for name in STREAM_NAMES)


def test_the_state_is_a_copy() -> None:
    streams = Streams(1)
    state = streams.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    draw(streams)
    assert all(torch.equal(state[name], before[name]) for name in STREAM_NAMES)


def test_a_state_with_other_streams_is_refused() -> None:
    state = Streams(1).state_dict()
    del state["noise"]
    with pytest.raises(CheckpointError, match="noise"):
        Streams(1).load_state_dict(state)


def test_unknown_stream() -> None:
    with pytest.raises(KeyError):
        Streams(1)["dreams"]


# The numbers that follow are part of the meaning of a seed: published scores depend on them.
def test_seeds_are_what_they_have_always_been() -> None:
    assert episode_seed(1, "train", 0) == 2092760664
    assert Streams(1)["noise"].initial_seed() == 784886542879672760


def test_seeds_do_not_depend_on_the_process() -> None:
    code = (
        "from mlr_dmcontrol.seeds import episode_seed, spawned; import sys;"
        "print(episode_seed(3, 'evaluation', 7), spawned(3, 'a').generate_state(1)[0]);"
        "assert 'torch' not in sys.modules"
    )
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        answer = subprocess.run(
            [sys.executable, "-c", code],
            cwd=TREE,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        expected = [episode_seed(3, "evaluation", 7), spawned(3, "a").generate_state(1)[0]]
        assert answer.stdout.split() == [str(each) for each in expected]


def test_episode_seeds_fit_every_simulator_and_never_meet() -> None:
    seeds = {
        (seed, purpose, episode): episode_seed(seed, purpose, episode)
        for seed in range(5)
        for purpose in ("train", "evaluation")
        for episode in range(200)
    }
    assert all(0 <= each < 2**31 for each in seeds.values())
    assert len(set(seeds.values())) == len(seeds)
    for each in seeds.values():
        np.random.RandomState(each)


def test_negative_seeds_are_refused() -> None:
    with pytest.raises(ValueError):
        episode_seed(-1, "train", 0)
    with pytest.raises(ValueError):
        Streams(-1)


def test_initialisation_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    with initialisation(1, "agent"):
        first = nn.Linear(8, 8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    with initialisation(1, "agent"):
        again = nn.Linear(8, 8)
    with initialisation(1, "objective"):
        objective = nn.Linear(8, 8)
    with initialisation(2, "agent"):
        other_seed = nn.Linear(8, 8)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, objective.weight)
    assert not torch.equal(first.weight, other_seed.weight)


def test_initialisation_restores_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), initialisation(1, "agent"):
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)


def test_make_deterministic_switches_both_ways() -> None:
    try:
        make_deterministic(True)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert not torch.utils.deterministic.fill_uninitialized_memory
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        make_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
