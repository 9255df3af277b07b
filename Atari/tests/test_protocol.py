"""The benchmark's arithmetic: steps, updates and evaluations of a budget."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from mlr_atari import protocol
from mlr_atari.protocol import evaluations, plan, updates
from mlr_atari.settings import load

TREE = Path(__file__).resolve().parents[1]


def test_the_published_run() -> None:
    cfg = load(["game=pong"])
    numbers = plan(cfg)
    assert numbers.agent_steps == 100_000
    assert numbers.agent_steps * cfg.environment.frame_skip == 400_000
    assert numbers.updates == 196_000
    assert numbers.evaluations == tuple(range(10_000, 100_001, 10_000))
    assert numbers.capacity == 100_000


def test_updates_begin_with_learning() -> None:
    assert [updates(budget, 2000, 2) for budget in (10, 2000, 2001)] == [0, 0, 2]
    assert updates(100_000, 1600, 1) == 98_400


def test_the_budget_itself_is_always_evaluated() -> None:
    assert evaluations(100, 30) == (30, 60, 90, 100)
    assert evaluations(90, 30) == (30, 60, 90)
    assert evaluations(10, 30) == (10,)


def test_replay_has_room_for_the_run_and_no_more() -> None:
    for capacity, room in ((5000, 5000), (1_000_000, 20_000)):
        words = ["game=pong", "budget=20000", f"replay.capacity={capacity}"]
        assert plan(load(words)).capacity == room


def test_human_normalised_scores() -> None:
    assert protocol.normalize("pong", 14.6) == pytest.approx(1.0)
    assert protocol.normalize("pong", -20.7) == pytest.approx(0.0)
    assert protocol.normalize("up_n_down", 11693.2) == pytest.approx(1.0)
    assert math.isnan(protocol.normalize("space_invaders", 100.0))
    assert math.isnan(protocol.normalize("my.package:Game-v0", 5.0))


def test_the_report_needs_neither_torch_nor_emulator() -> None:
    code = (
        "import sys; from mlr_atari import protocol; "
        "assert not {'torch', 'ale_py', 'cv2', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=TREE, check=True)
