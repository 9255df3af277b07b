"""Momentum targets: the formula, freezing, aliasing and state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlr_atari.momentum import MomentumTarget


def _filled(value: float) -> nn.Linear:
    layer = nn.Linear(2, 2)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


def test_n_updates_leave_the_known_share() -> None:
    online = _filled(0.0)
    target = MomentumTarget(online, tau=0.05)
    for parameter in online.parameters():
        nn.init.constant_(parameter, 1.0)
    for n in range(1, 101):
        target.update()
        expected = torch.full((2, 2), 1 - 0.95**n)
        torch.testing.assert_close(target.target.weight, expected, rtol=1e-5, atol=1e-6)


def test_tau_one_copies_exactly_and_zero_keeps() -> None:
    torch.manual_seed(0)
    online = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    exact, fixed = MomentumTarget(online, 1.0), MomentumTarget(online, 0.0)
    before = [p.clone() for p in fixed.target.parameters()]
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.mul_(3.7).add_(0.1)
    online(torch.randn(8, 3))
    exact.update()
    fixed.update()
    assert all(
        torch.equal(mine, theirs)
        for mine, theirs in zip(
            exact.target.state_dict().values(), online.state_dict().values(), strict=True
        )
    )
    assert all(torch.equal(a, b) for a, b in zip(before, fixed.target.parameters(), strict=True))


def test_target_is_frozen_and_online_is_not_registered() -> None:
    online = _filled(1.0)
    target = MomentumTarget(online, 0.5)
    assert set(target.state_dict()) == {"target.weight", "target.bias"}
    assert not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for p in online.parameters())
    inputs = torch.ones(1, 2, requires_grad=True)
    assert not target(inputs).requires_grad
    assert torch.equal(target(inputs), online(inputs))


def test_update_works_in_place_and_follows_a_loaded_online() -> None:
    online = _filled(0.0)
    target = MomentumTarget(online, 0.5)
    address = target.target.weight.data_ptr()
    online.load_state_dict(_filled(2.0).state_dict())
    target.update()
    assert target.target.weight.data_ptr() == address
    assert torch.equal(target.target.weight, torch.ones(2, 2))
    with pytest.raises(ValueError, match="tau"):
        MomentumTarget(online, 1.5)
