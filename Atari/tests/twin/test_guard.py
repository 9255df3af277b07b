"""Non-finite numbers are found, the first update is named, nothing else is disturbed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mlr_atari.errors import NonFiniteError
from mlr_atari.run.guard import NonFiniteGuard, first_non_finite

BAD = [math.nan, math.inf, -math.inf]
FINE = {"loss/critic": 1.0, "loss/actor": 2.0, "gradient_norm/encoder": 3.0}


def watched(device: str = "cpu") -> tuple[NonFiniteGuard, dict[str, torch.Tensor]]:
    """A guard, and the metrics it looks at and one that it does not."""
    metrics = {name: torch.tensor(value, device=device) for name, value in FINE.items()}
    metrics["actor/entropy"] = torch.tensor(math.inf, device=device)
    return NonFiniteGuard(metrics), metrics


def report_in(folder: Path) -> Any:
    return json.loads((folder / "nonfinite.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", FINE)
def test_the_first_bad_update_is_kept(tmp_path: Path, name: str, bad: float) -> None:
    guard, metrics = watched()
    for step in range(7):
        guard.observe(step)
        guard.check(tmp_path)
    assert not list(tmp_path.iterdir())
    metrics[name].fill_(bad)
    guard.observe(7)
    metrics["loss/actor"].fill_(math.nan)
    guard.observe(8)
    for each, value in FINE.items():
        metrics[each].fill_(value)
    guard.observe(9)
    with pytest.raises(NonFiniteError, match=f"{name}={bad} at update 7"):
        guard.check(tmp_path)
    assert report_in(tmp_path) == {"update_step": 7, **FINE, name: str(bad)}


@pytest.mark.parametrize("bad", BAD)
def test_numbers_of_the_host_are_looked_at_and_reported(tmp_path: Path, bad: float) -> None:
    guard, metrics = watched()
    guard.check(tmp_path, {"agent_step": 70, "returns": 1.5})
    with pytest.raises(NonFiniteError, match=f"^returns={bad}; more in "):
        guard.check(tmp_path, {"agent_step": 71, "returns": bad})
    assert report_in(tmp_path) == {"agent_step": 71, "returns": str(bad)}
    metrics["loss/actor"].fill_(bad)
    guard.observe(7)
    with pytest.raises(NonFiniteError, match="at update 7"):
        guard.check(tmp_path, {"agent_step": 72, "returns": 0.0})
    assert report_in(tmp_path)["agent_step"] == 72


def test_a_full_disk_does_not_hide_the_error(tmp_path: Path) -> None:
    guard, metrics = watched()
    metrics["loss/critic"].fill_(math.nan)
    guard.observe(1)
    with pytest.raises(NonFiniteError):
        guard.check(tmp_path / "missing")


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


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_first_non_finite_names_the_tensor(bad: float, dtype: torch.dtype) -> None:
    tree = {
        "actor": {"weight": torch.full((3, 5), 6e4, dtype=dtype), "steps": torch.tensor(3)},
        "optimizer": {"state": {0: (torch.zeros(2, dtype=dtype), [torch.ones(1, dtype=dtype)])}},
        "empty": torch.zeros(0, dtype=dtype),
        "score": -math.inf,  # plain numbers are not looked at: "best so far" starts there
    }
    assert first_non_finite(tree) is None
    tree["optimizer"]["state"][0][1][0][0] = bad
    assert first_non_finite(tree) == "optimizer.state.0.1.0"
    tree["actor"]["weight"][2, 4] = bad
    assert first_non_finite(tree) == "actor.weight"
