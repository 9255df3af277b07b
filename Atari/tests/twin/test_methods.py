"""README.md's table of methods; the same file in both trees."""

from __future__ import annotations

import config_cases as cases
import pytest
from omegaconf import DictConfig

from mlr_atari.benchmark import methods

PLAIN = cases.PLAIN_AGENT


def load(words: list[str]) -> DictConfig:
    return cases.config.load(words, cases.OBJECTIVES, cases.AgentSettings)


def test_every_agent_has_a_row() -> None:
    names = methods.methods()
    assert names[0] == "mlr"
    assert sorted(names) == sorted(cases.config.LAYOUT.options("agent"))


def test_costs_are_those_of_the_published_sizes() -> None:
    row = methods.costs(PLAIN, load)
    assert row["method"] == PLAIN
    assert row["parameters"] > 1e6
    assert row["flops"] > 1e9
    assert row["median"] == pytest.approx({"sac": 0.621, "rainbow": 0.314}[PLAIN], abs=1e-3)


def test_updates_are_timed_in_turn() -> None:
    words = ["preset=smoke", "device=cpu", "threads=1"]
    seconds, where = methods.time_updates([load([*words, f"agent={PLAIN}"])])
    assert len(seconds) == 1
    assert seconds[0] > 0
    assert where.startswith("preset smoke, ")


def test_the_table_compares_with_mlr() -> None:
    rows = [
        {"method": "mlr", "parameters": 2e6, "flops": 4321e9, "seconds": 0.5, "mean": 0.75},
        {"method": "other", "parameters": 1e6, "flops": 1080.25e9, "seconds": 0.75},
    ]
    lines = methods.table(rows).splitlines()
    assert lines[0].endswith("| published mean |")
    assert lines[2] == "| `mlr` | 2 M | 1.00 | 4,320 | 1.00 | 500 | 1.00 | 0.750 |"
    assert lines[3] == "| `other` | 1 M | 0.50 | 1,080 | 0.25 | 750 | 1.50 | – |"
