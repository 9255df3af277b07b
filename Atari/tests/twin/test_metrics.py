"""Metrics come back; non-finite ones are found, the first update is named."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mlr_atari.errors import NonFiniteError
from mlr_atari.run.metrics import LatestMetrics

FINE = {"loss/critic": 1.0, "loss/actor": 2.0, "gradient_norm/encoder": 3.0}


def made(device: str = "cpu") -> LatestMetrics:
    """Those that are watched, and one that is not and never a number."""
    metrics = LatestMetrics([*FINE, "actor/entropy"], torch.device(device))
    metrics.update(tensors(FINE | {"actor/entropy": math.inf}, device), 0)
    return metrics


def tensors(values: dict[str, float], device: str = "cpu") -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, device=device) for name, value in values.items()}


def report_in(folder: Path) -> Any:
    return json.loads((folder / "nonfinite.json").read_text(), parse_constant=pytest.fail)


def test_the_latest_values_come_back() -> None:
    metrics, restored = (LatestMetrics(["loss/a", "b"], torch.device("cpu")) for _ in range(2))
    metrics.update(tensors({"loss/a": 0.1}), 0)
    metrics.update(tensors({"b": 3.0}), 1)
    restored.load_state_dict(metrics.state_dict())
    assert restored.fetch() == {"loss/a": 0.10000000149011612, "b": 3.0}


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("name", FINE)
def test_the_first_bad_update_is_kept(tmp_path: Path, name: str, bad: float) -> None:
    metrics = made()
    metrics.check(tmp_path, {"returns": 1.5})
    assert not list(tmp_path.iterdir())
    metrics.update(tensors({name: bad}), 7)
    metrics.update(tensors({"loss/actor": math.nan}), 8)
    metrics.update(tensors(FINE), 9)
    with pytest.raises(NonFiniteError, match=f"{name}={bad} at update 7"):
        metrics.check(tmp_path, {"agent_step": 72})
    assert report_in(tmp_path) == {"agent_step": 72, "update_step": 7, **FINE, name: str(bad)}
    with pytest.raises(NonFiniteError):  # which a disk that fails does not hide
        metrics.check(tmp_path / "missing", {})


def test_numbers_of_the_host_are_looked_at_and_reported(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="^returns=inf; more in "):
        made().check(tmp_path, {"agent_step": 71, "returns": math.inf})
    assert report_in(tmp_path) == {"agent_step": 71, "returns": "inf"}


@pytest.mark.cuda
def test_update_works_in_a_cuda_graph_without_synchronising(tmp_path: Path) -> None:
    metrics, reported = made("cuda"), tensors(FINE, "cuda")
    step = torch.zeros((), dtype=torch.int64, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        metrics.update(reported, step)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # capture fails on any synchronisation
        metrics.update(reported, step)
    for number in range(1, 6):
        step.fill_(number)
        reported["loss/actor"].fill_(math.inf if number >= 3 else 1.0)
        graph.replay()
    with pytest.raises(NonFiniteError, match="loss/actor=inf at update 3"):
        metrics.check(tmp_path, {})
