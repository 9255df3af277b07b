"""Non-finite numbers are found, the first update is named, nothing else is disturbed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mlr_atari.errors import NonFiniteError
from mlr_atari.run.guard import NonFiniteGuard

FINE = {"loss/critic": 1.0, "loss/actor": 2.0, "gradient_norm/encoder": 3.0}


def watched(device: str = "cpu") -> tuple[NonFiniteGuard, dict[str, torch.Tensor]]:
    """A guard, and the metrics it looks at and one that it does not."""
    metrics = {name: torch.tensor(value, device=device) for name, value in FINE.items()}
    metrics["actor/entropy"] = torch.tensor(math.inf, device=device)
    return NonFiniteGuard(metrics), metrics


def report_in(folder: Path) -> Any:
    return json.loads((folder / "nonfinite.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("name", FINE)
def test_the_first_bad_update_is_kept(tmp_path: Path, name: str, bad: float) -> None:
    guard, metrics = watched()
    guard.observe(6)
    guard.check(tmp_path, {"returns": 1.5})
    assert not list(tmp_path.iterdir())
    metrics[name].fill_(bad)
    guard.observe(7)
    metrics["loss/actor"].fill_(math.nan)
    guard.observe(8)
    for metric, value in FINE.items():
        metrics[metric].fill_(value)
    guard.observe(9)
    with pytest.raises(NonFiniteError, match=f"{name}={bad} at update 7"):
        guard.check(tmp_path, {"agent_step": 72})
    assert report_in(tmp_path) == {"agent_step": 72, "update_step": 7, **FINE, name: str(bad)}
    with pytest.raises(NonFiniteError):  # which a disk that fails does not hide
        guard.check(tmp_path / "missing")


def test_numbers_of_the_host_are_looked_at_and_reported(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="^returns=inf; more in "):
        watched()[0].check(tmp_path, {"agent_step": 71, "returns": math.inf})
    assert report_in(tmp_path) == {"agent_step": 71, "returns": "inf"}


@pytest.mark.cuda
def test_observe_works_in_a_cuda_graph_without_synchronising(tmp_path: Path) -> None:
    guard, metrics = watched("cuda")
    step = torch.zeros((), dtype=torch.int64, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        guard.observe(step)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # capture fails on any synchronisation
        guard.observe(step)
    for number in range(1, 6):
        step.fill_(number)
        metrics["loss/actor"].fill_(math.inf if number >= 3 else 1.0)
        graph.replay()
    with pytest.raises(NonFiniteError, match="loss/actor=inf at update 3"):
        guard.check(tmp_path)
