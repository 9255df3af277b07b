"""Momentum targets: the formula, freezing, aliasing and state."""

import pytest
import torch
from torch import nn

from mlr_dmcontrol.momentum import MomentumTarget


@pytest.mark.parametrize("tau", [0.0, 0.05, 1.0])
def test_updates_leave_the_known_share_in_place(tau: float) -> None:
    online = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    target = MomentumTarget(online, tau)
    start = [parameter.clone() for parameter in target.target.parameters()]
    places = [parameter.data_ptr() for parameter in target.target.parameters()]
    nn.init.constant_(online[0].weight, 3.7)
    online(torch.randn(8, 3))  # moves the statistics
    for _ in range(20):
        target.update()
    moved = list(target.target.parameters())
    for before, follows, after in zip(start, online.parameters(), moved, strict=True):
        expected = follows + (before - follows) * (1 - tau) ** 20
        torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)
        assert tau != 1 or torch.equal(after, follows)
    assert [parameter.data_ptr() for parameter in moved] == places
    assert torch.equal(target.target[1].running_mean, online[1].running_mean)


@pytest.mark.parametrize("tau", [0.5, None])
def test_target_has_no_gradient_and_online_is_not_registered(tau: float | None) -> None:
    online = nn.Linear(2, 2)
    target = MomentumTarget(online, tau)
    assert set(target.state_dict()) == ({"target.weight", "target.bias"} if tau else set())
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert all(parameter.requires_grad for parameter in online.parameters())
    inputs = torch.ones(1, 2, requires_grad=True)
    assert not target(inputs).requires_grad
    nn.init.zeros_(online.weight)
    target.update()
    assert torch.equal(target(inputs), online(inputs)) == (tau is None)
