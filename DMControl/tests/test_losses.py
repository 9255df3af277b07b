"""SAC's losses by hand, and by torch's own distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from mlr_dmcontrol.losses import (
    actor_loss,
    critic_loss,
    soft_target,
    squashed_gaussian,
    temperature_loss,
)


@pytest.mark.parametrize("exact", [True, False])
def test_log_probability_is_that_of_a_squashed_normal(exact: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = (torch.randn(7, 3, generator=generator) * 0.5 for _ in range(3))
    action, log_prob = squashed_gaussian(mean, log_std, noise, exact)
    squash = TanhTransform(cache_size=1)
    sample = squash(mean + log_std.exp() * noise)
    torch.testing.assert_close(action, sample)
    reference = TransformedDistribution(Normal(mean, log_std.exp()), squash)
    tolerance = 1e-5 if exact else 1e-4
    expected = reference.log_prob(sample).sum(-1)
    torch.testing.assert_close(log_prob, expected, rtol=tolerance, atol=tolerance)


def test_where_tanh_is_1_only_the_exact_form_still_knows_how_far_out_a_sample_is() -> None:
    far, zero, gaussian = torch.tensor([[12.0]]), torch.zeros(1, 1), -0.5 * math.log(2 * math.pi)
    exact = squashed_gaussian(far, zero, zero, exact=True)[1].item()
    assert exact == pytest.approx(gaussian + 24 - 2 * math.log(2), rel=1e-5)
    action, log_prob = squashed_gaussian(far, zero, zero)
    assert action.item() == 1
    assert log_prob.item() == pytest.approx(gaussian - math.log(1e-6), rel=1e-5)


def test_target_over_two_views() -> None:
    """The numbers of the DrQ check: y_k = 10.999 and 10.108, y their mean."""
    values = torch.tensor([[[10.0], [12.0]], [[11.0], [9.0]]])
    log_prob = torch.tensor([[-1.0], [-2.0]])
    one, zero = torch.ones(1), torch.zeros(1)
    arguments = (torch.tensor(0.1), one, zero, 0.99)
    for view, expected in enumerate((10.999, 10.108)):
        part = slice(view, view + 1)
        target = soft_target(values[:, part], log_prob[part], *arguments)
        assert target.item() == pytest.approx(expected, rel=1e-6)
    target = soft_target(values, log_prob, *arguments)
    assert target.item() == pytest.approx(10.5535, rel=1e-6)


def test_loss_sums_critics_and_views() -> None:
    values = torch.tensor([[[10.0], [11.0]], [[10.0], [10.0]]])
    assert critic_loss(values, torch.tensor([10.5535])).item() == pytest.approx(1.118449, rel=1e-5)
    # The mean is over transitions only.
    twice = values.expand(2, 2, 2)
    assert critic_loss(twice, torch.tensor([10.5535] * 2)).item() == pytest.approx(
        1.118449, rel=1e-5
    )


def test_a_true_end_is_not_bootstrapped() -> None:
    values, log_prob = torch.full((2, 1, 2), 7.0), torch.zeros(1, 2)
    target = soft_target(
        values, log_prob, torch.tensor(0.5), torch.ones(2), torch.tensor([0.0, 1.0]), 0.5
    )
    assert target.tolist() == [4.5, 1.0]


def test_actor_and_temperature() -> None:
    values, log_prob = torch.tensor([[1.0, 5.0], [2.0, 3.0]]), torch.tensor([2.0, -4.0])
    assert actor_loss(values, log_prob, torch.tensor(0.5)).item() == pytest.approx(-2.5)
    log_temperature = torch.tensor(0.0, requires_grad=True)
    log_prob.requires_grad_()
    loss = temperature_loss(log_temperature, log_prob, target_entropy=-3.0)
    assert loss.item() == pytest.approx(4.0)  # ((-2 + 3) + (4 + 3)) / 2
    loss.backward()
    assert log_temperature.grad == pytest.approx(4.0)
    assert log_prob.grad is None
