"""Adam whose kernel clips is Adam behind clipping."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from agents import small_agent
from torch import Tensor, nn

from mlr_atari import kernels
from mlr_atari.optimization import ClipGroup, Optimizer

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "agent"


def steps(max_norm: float) -> list[Tensor]:
    """Parameters, gradients and norms of three steps, of two groups and one that is in neither."""
    draws = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(size, 3, generator=draws)) for size in (2, 3, 4, 5)]
    groups = [ClipGroup("first", weights[:2]), ClipGroup("second", weights[2:3])]
    optimizer = Optimizer(weights, 0.1, eps=1e-5, clip=groups, max_norm=max_norm)
    results: list[Tensor] = []
    for step in range(1, 4):
        norms = optimizer.minimise(sum((each**2).sum() * step for each in weights))  # type: ignore
        results += [*norms.values(), *(each.grad for each in weights)]
        results += [each.detach().clone() for each in weights]
    return results


@pytest.mark.parametrize("max_norm", [0.5, 1e4])
def test_clipping_in_adams_kernel(max_norm: float, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = steps(max_norm)
    monkeypatch.setattr(kernels, "fused", lambda _: True)
    for mine, theirs in zip(steps(max_norm), plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_groups_share_no_parameters(name: str) -> None:
    optimizer = small_agent(name).optimizer
    grouped = [each for group in optimizer.clip for each in group.parameters]
    assert all(one is not other for one, other in pairwise(sorted(grouped, key=id)))
    assert {*grouped, *optimizer.unclipped} == set(optimizer.parameters)
