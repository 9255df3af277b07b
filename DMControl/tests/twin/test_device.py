"""Trees of tensors that travel in one copy, and functions that run on a device or as a graph."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from mlr_dmcontrol.device import OnDevice, Parcel, processes_beside, tensors, to_device


@dataclasses.dataclass(frozen=True)
class Noise:
    pair: tuple[Tensor, None]
    grid: Tensor


def tree(seed: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)
    turned = torch.randn(3, 5, generator=draw).t()  # not contiguous
    noise = Noise((turned, None), torch.rand(7, generator=draw) < 0.5)
    numbers = torch.zeros(0), torch.tensor(seed, dtype=torch.float64)
    return {"noise": noise, "numbers": numbers, "nothing": None}


def test_a_tree_moves_as_a_whole_and_what_is_there_stays() -> None:
    here = tree(1)
    there = to_device(here, "meta")
    assert isinstance(there["noise"], Noise)
    assert there["nothing"] is there["noise"].pair[1] is None
    assert [tensor.device.type for tensor in tensors(there)] == ["meta"] * 4
    assert all(map(lambda old, new: old is new, tensors(here), tensors(to_device(here, "cpu"))))


def test_processes_work_beside_a_gpu_alone() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert processes_beside(cpu) == processes_beside(gpu, 0) == 0 < processes_beside(gpu)


def test_what_comes_back_to_the_host_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[bool] = []
    monkeypatch.setattr(Tensor, "to", lambda *_, non_blocking: waits.append(not non_blocking))
    to_device(tree(1), "cpu")
    assert waits == [True] * 4


def test_a_parcel_arrives_complete_and_always_in_the_same_place() -> None:
    parcel = Parcel(tree(1), torch.device("cpu"))
    places = [tensor.data_ptr() for tensor in tensors(parcel.tree)]
    for seed in (1, 2):
        parcel.send(tree(seed))
        assert [tensor.data_ptr() for tensor in tensors(parcel.tree)] == places
        for arrived, sent in zip(tensors(parcel.tree), tensors(tree(seed)), strict=True):
            assert arrived.dtype == sent.dtype
            assert torch.equal(arrived, sent)


@pytest.mark.cuda
def test_a_graph_computes_each_call_once_and_reads_its_inputs_anew() -> None:
    device = torch.device("cuda", 0)
    total = torch.zeros((), device=device)

    def step(x: Tensor, *, twice: bool) -> Tensor:
        total.add_(x.sum() * (2 if twice else 1))
        return total * 1

    run = OnDevice(step, device, cuda_graph=True)
    expected = 0.0
    for number in range(20):
        twice = number % 3 == 0
        expected += 2 * number * (2 if twice else 1)
        assert run({"x": torch.full((2,), float(number))}, twice=twice).item() == expected


@pytest.mark.cuda
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_call_waits_for_no_gpu_until_it_is_asked_to(cuda_graph: bool) -> None:
    device, busy = torch.device("cuda", 0), torch.zeros((), device="cuda")

    def work(noise: Noise) -> Tensor:
        torch.cuda._sleep(10**8)
        return busy.add_(noise.grid.sum())

    run = OnDevice(work, device, cuda_graph=cuda_graph)
    for seed in range(5):
        run({"noise": tree(seed)["noise"]})
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        to_device(tree(1), device)
        run({"noise": tree(1)["noise"]})
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not torch.cuda.current_stream().query()
    run.wait()
    assert torch.cuda.current_stream().query()
