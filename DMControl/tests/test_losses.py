"""SAC's losses by hand, and by torch's own distributions."""

import math

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from mlr_dmcontrol.losses import soft_target, squashed_gaussian


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


def test_target_over_two_views_and_at_a_true_end() -> None:
    """The numbers of the DrQ check: y_k = 10.999 and 10.108, y their mean."""
    values = torch.tensor([[[10.0], [12.0]], [[11.0], [9.0]]]).expand(2, 2, 2)
    log_prob = torch.tensor([[-1.0], [-2.0]]).expand(2, 2)
    terminated = torch.tensor([0.0, 1.0])
    target = soft_target(values, log_prob, torch.tensor(0.1), torch.ones(2), terminated, 0.99)
    assert target.tolist() == pytest.approx([10.5535, 1.0], rel=1e-6)
