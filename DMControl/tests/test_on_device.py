"""What a GPU and a CUDA graph need of an update, shown without either.

On the CPU and then with meta tensors, which are on a device but hold no numbers: no operation
waits for the device or has a shape that depends on numbers, everything is made on the device, and
what lasts stays in its place.
"""

import contextlib
import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from test_learner import make_learner
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mlr_dmcontrol.device import to_device
from mlr_dmcontrol.learner import Learner
from mlr_dmcontrol.networks import Encoder
from mlr_dmcontrol.optimization import Optimizer

TREE = Path(__file__).resolve().parents[1]
AGENTS = sorted(path.stem for path in (TREE / "configs" / "agent").glob("*.yaml"))
ELSEWHERE = {"cpu": "meta", "meta": "cpu"}
OURS = ("mlr_dmcontrol", "torch.nn", "torch.optim")  # classes whose attributes are looked at
# Operations that read numbers back to decide something; `lift_fresh` is torch.tensor's.
WAITS = ("_local_scalar_dense", "equal", "is_nonzero", "lift_fresh", "masked_select", "nonzero")
WAITS += ("_unique", "argwhere", "bincount", "repeat_interleave", "unique")


class BrokenRuleError(Exception):
    """An operation that no update may have."""


class Rules(TorchDispatchMode):
    """Raises BrokenRuleError for what would wait, or is not on the device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        masks = [
            each
            for each in tree_leaves(args[1:2] if "index" in name else ())
            if isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8)
        ]
        if name.startswith(WAITS) or masks:
            raise BrokenRuleError(f"{func} would wait for the device")
        self.check(func, args, kwargs)
        if self.device == "meta" and name.startswith("_fused_adam"):
            return None  # in place, and without a version for meta tensors
        result = func(*args, **kwargs)
        self.check(func, result)
        return result

    def check(self, func: Any, *tree: Any) -> None:
        for leaf in tree_leaves(tree):
            device = leaf.device if isinstance(leaf, Tensor) else leaf
            if isinstance(device, torch.device) and device.type != self.device:
                raise BrokenRuleError(f"{func} on {device}")


def watched(learner: Learner, device: str = "cpu") -> Learner:
    """The same learner, whose updates on the device keep the rules.

    What is made without naming a device is then made elsewhere.
    """
    original, schedules = learner._on_device, learner.agent.set_schedules

    def update(inputs: Mapping[str, Any], **due: bool) -> Any:
        inputs = to_device(inputs, device)
        with torch.device(ELSEWHERE[device]), Rules(device):
            return original(**inputs, **due)

    def set_schedules(agent_step: int) -> None:
        with Rules(device):
            schedules(agent_step)

    learner._update, learner.agent.set_schedules = update, set_schedules  # type: ignore
    return learner


def places(learner: Learner) -> dict[str, tuple[int, int, tuple[int, ...], str]]:
    """Where everything lies that outlives an update: storage, offset, strides and device."""
    known: dict[str, tuple[int, int, tuple[int, ...], str]] = {}
    seen: set[int] = set()

    def walk(value: Any, name: str) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()._cdata
            known[name] = (storage, value.storage_offset(), value.stride(), value.device.type)
        elif isinstance(value, Mapping | list | tuple):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            for number, (key, child) in enumerate(items):
                walk(child, f"{name}.{key if isinstance(key, str) else number}")
        elif type(value).__module__.startswith(OURS) and id(value) not in seen:
            seen.add(id(value))
            walk(vars(value), name)

    for name in ("agent", "replay", "metrics"):
        walk(getattr(learner, name), name)
    return known


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", AGENTS)
def test_an_update_waits_for_nothing_and_leaves_everything_in_its_place(
    name: str, precision: str
) -> None:
    learner = watched(make_learner(name, precision=precision))
    before = places(learner)
    for step in range(3):
        learner.update(2000 + step)
    for part in (learner.agent, learner.replay, learner.metrics):
        part.load_state_dict(copy.deepcopy(part.state_dict()))
    assert places(learner) == before


@pytest.fixture
def with_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let meta tensors do what those of a GPU can."""
    devices = "torch.utils._foreach_utils._get_foreach_kernels_supported_devices"
    monkeypatch.setattr(devices, lambda: ["meta"])
    monkeypatch.setattr(Encoder, "autocast", lambda _: contextlib.nullcontext())


@pytest.mark.usefixtures("with_meta")
@pytest.mark.parametrize("name", AGENTS)
def test_host_and_device_never_meet_in_an_update(name: str) -> None:
    learner = watched(make_learner(name, "meta"), "meta")
    lasting = places(learner)
    assert [key for key, place in lasting.items() if place[-1] != "meta"] == []
    for kind in ("weight", "exp_avg", "lr", "loss/"):
        assert any(kind in key for key in lasting)
    learner.update(2000)


@pytest.mark.cuda
@pytest.mark.parametrize(("precision", "graph"), [("fp32", False), ("fp32", True), ("bf16", True)])
@pytest.mark.parametrize("name", AGENTS)
def test_updates_do_not_wait_for_a_gpu(name: str, precision: str, graph: bool) -> None:
    learner = make_learner(name, "cuda", precision, graph=graph)
    for step in range(10):  # two variants, each warmed up and captured
        learner.update(2000 + step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(10, 14):
            learner.update(2000 + step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.isfinite() for value in learner.metrics.values.values())


# ---- that a broken rule is noticed -----------------------------------------------------------

KEPT = torch.tensor(2.0)  # on the CPU: a graph would keep its value for ever
FAULTS: dict[str, Callable[[Tensor], Any]] = {
    "decision": lambda losses: bool(losses.sum() > 0),
    "masked write": lambda losses: losses.clone().index_put_((losses > 0,), losses.new_zeros(())),
    "factory": lambda losses: losses + torch.zeros(1),
    "kept number": lambda losses: losses * KEPT,
}


@pytest.mark.usefixtures("with_meta")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wait_and_a_tensor_elsewhere_are_noticed(fault: str) -> None:
    device = "meta" if fault == "kept number" else "cpu"
    learner = watched(make_learner("curl", device), device)
    fail = FAULTS[fault]
    learner.metrics.update = lambda metrics, _: fail(torch.stack([*metrics.values()]))  # type: ignore
    with pytest.raises(BrokenRuleError):
        learner.update(2000)


def test_what_moves_is_noticed() -> None:
    learner = make_learner("curl")
    before, name = places(learner), next(iter(learner.metrics.values))
    optimizer = next(each for each in vars(learner.agent).values() if isinstance(each, Optimizer))
    group = optimizer._adam.param_groups[0]
    group["lr"] = group["lr"] + 0
    learner.metrics.values[name] = torch.zeros(())
    weight = next(learner.agent.encoder.parameters())
    weight.data = weight.detach().clone()
    after = places(learner)
    changed = " ".join(key for key in before if after[key] != before[key])
    assert all(part in changed for part in (".lr", name, "weight"))
