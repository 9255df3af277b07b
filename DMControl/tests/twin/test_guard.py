"""Non-finite numbers are found, the first update is named, nothing else is disturbed (R14)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mlr_dmcontrol.errors import NonFiniteError
from mlr_dmcontrol.run.guard import NonFiniteGuard, first_non_finite

BAD = [math.nan, math.inf, -math.inf]


def make_guard(device: str = "cpu") -> NonFiniteGuard:
    indices = {"replay": torch.zeros(4, dtype=torch.int64, device=device)}
    return NonFiniteGuard(["critic", "actor"], ["encoder"], indices, device)


def observe(guard: NonFiniteGuard, step: int, device: str = "cpu", **values: float) -> None:
    numbers = {"critic": 1.0, "actor": 2.0, "encoder": 3.0, **values}
    tensors = {key: torch.tensor(value, device=device) for key, value in numbers.items()}
    norms = {"encoder": tensors.pop("encoder")}
    indices = torch.arange(4, device=device) + 10 * step
    guard.observe(step, tensors, norms, {"replay": indices})


def test_finite_updates_pass(tmp_path: Path) -> None:
    guard = make_guard()
    for step in range(5):
        observe(guard, step)
        guard.check(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["critic", "actor", "encoder"])
def test_the_first_bad_update_is_kept(tmp_path: Path, name: str, bad: float) -> None:
    guard = make_guard()
    observe(guard, 6)
    observe(guard, 7, **{name: bad})
    observe(guard, 8, critic=math.nan, actor=math.nan)
    observe(guard, 9)
    with pytest.raises(NonFiniteError, match=f"{name}={bad} at update 7"):
        guard.check(tmp_path)
    report = json.loads((tmp_path / "nonfinite.json").read_text(), parse_constant=pytest.fail)
    expected: dict[str, Any] = {"critic": 1.0, "actor": 2.0, "encoder": 3.0, name: str(bad)}
    assert report == {
        "update_step": 7,
        "losses": {"critic": expected["critic"], "actor": expected["actor"]},
        "norms": {"encoder": expected["encoder"]},
        "indices": {"replay": [70, 71, 72, 73]},
    }


@pytest.mark.parametrize("bad", BAD)
def test_numbers_of_the_host_are_looked_at_and_reported(tmp_path: Path, bad: float) -> None:
    guard = make_guard()
    guard.check(tmp_path, {"agent_step": 70, "returns": 1.5})
    with pytest.raises(NonFiniteError, match=f"^returns={bad}; more in "):
        guard.check(tmp_path, {"agent_step": 71, "returns": bad})
    report = json.loads((tmp_path / "nonfinite.json").read_text(), parse_constant=pytest.fail)
    assert report == {"agent_step": 71, "returns": str(bad)}
    observe(guard, 7, critic=bad)
    with pytest.raises(NonFiniteError, match="at update 7"):
        guard.check(tmp_path, {"agent_step": 72, "returns": 0.0})
    assert json.loads((tmp_path / "nonfinite.json").read_text())["agent_step"] == 72


def test_a_full_disk_does_not_hide_the_error(tmp_path: Path) -> None:
    guard = make_guard()
    observe(guard, 1, critic=math.nan)
    with pytest.raises(NonFiniteError):
        guard.check(tmp_path / "missing")


def test_observe_gives_no_gradient_path_and_keeps_its_tensors() -> None:
    guard = make_guard()
    loss = torch.tensor(1.0, requires_grad=True) * 1
    addresses = [each.data_ptr() for each in vars(guard).values() if torch.is_tensor(each)]
    guard.observe(
        torch.tensor(3),
        {"critic": loss, "actor": loss},
        {"encoder": loss},
        {"replay": torch.zeros(4, dtype=torch.int64)},
    )
    tensors = [each for each in vars(guard).values() if torch.is_tensor(each)]
    assert [each.data_ptr() for each in tensors] == addresses
    assert not any(each.requires_grad for each in tensors)


@pytest.mark.cuda
def test_observe_works_in_a_cuda_graph_without_synchronising(tmp_path: Path) -> None:
    guard = make_guard("cuda")
    step = torch.zeros((), dtype=torch.int64, device="cuda")
    losses = {name: torch.ones((), device="cuda") for name in ("critic", "actor")}
    norms = {"encoder": torch.ones((), device="cuda")}
    indices = {"replay": torch.zeros(4, dtype=torch.int64, device="cuda")}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        guard.observe(step, losses, norms, indices)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # capture fails on any synchronisation
        guard.observe(step, losses, norms, indices)
    for number in range(1, 6):
        step.fill_(number)
        indices["replay"].fill_(100 + number)
        losses["actor"].fill_(math.inf if number >= 3 else 1.0)
        graph.replay()
    with pytest.raises(NonFiniteError, match="actor=inf at update 3"):
        guard.check(tmp_path)
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    assert report["indices"]["replay"] == [103] * 4


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
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
