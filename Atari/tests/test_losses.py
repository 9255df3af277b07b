"""C51 and Huber losses against the published ones (goldens) and a plain double loop."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mlr_atari.losses import CategoricalValues, ScalarValues, project_distribution


def _slowly_projected(probability: Tensor, returns: Tensor, discounts: Tensor) -> Tensor:
    """Atom by atom, onto 51 atoms in [-10, 10]."""
    projected = torch.zeros(probability.shape, dtype=torch.float64)
    for sample in range(len(probability)):
        for atom in range(51):
            value = float(returns[sample]) + float(discounts[sample]) * (-10 + 0.4 * atom)
            place = (min(10.0, max(-10.0, value)) + 10) / 0.4
            low = min(49, int(place))
            mass = float(probability[sample, atom])
            projected[sample, low] += mass * (1 - (place - low))
            projected[sample, low + 1] += mass * (place - low)
    return projected


def test_projection_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(1)
    probability = torch.rand(6, 51, generator=generator).softmax(-1)
    returns = torch.tensor([0.0, 1.0, -3.3, 25.0, -25.0, 0.123])
    discounts = torch.tensor([1.0, 0.0, 0.9, 0.9, 0.5, 0.99**10])
    ours = project_distribution(probability, returns, discounts, torch.linspace(-10, 10, 51))
    assert torch.allclose(
        ours.double(), _slowly_projected(probability, returns, discounts), atol=2e-6
    )
    assert torch.allclose(ours.sum(-1), torch.ones(6), atol=1e-5)
    assert torch.allclose(ours[0], probability[0], atol=1e-5)  # identity


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("kind", ["double", "single"])
def test_c51_matches_published(index: int, kind: str, golden: Callable[[str], Any]) -> None:
    file = golden("atari_k_c51_loss")
    v_min, v_max, atoms = file["V_min_max_atoms"]
    values = CategoricalValues(int(atoms), float(v_min), float(v_max))
    # The stored target is a probability; its logarithm is an output that yields it.
    bootstrap = file.tensor("target_ps").log()
    chooser = file.tensor("next_ps_online").log() if kind == "double" else bootstrap
    action = values.q_values(chooser).argmax(-1)
    gamma, n_step = file["gamma_n"]
    discounts = gamma**n_step * (~file.tensor("done_n")[index]).float()
    target = values.target(bootstrap, action, file.tensor("return_")[index], discounts)
    taken = file.tensor("all_action")[index + 1]
    losses, priorities = values.loss(file.tensor("log_pred_ps"), taken, target)
    file.check(f"index{index}/{kind}/losses", losses)
    file.check(f"index{index}/{kind}/kl", priorities, atol=2e-6)


def test_dqn_matches_published(golden: Callable[[str], Any]) -> None:
    file = golden("atari_k_c51_loss")
    values = ScalarValues(huber_delta=1.0)
    action = values.q_values(file.tensor("dqn/next_q_online")[..., None]).argmax(-1)
    gamma, n_step = file["gamma_n"]
    discounts = gamma**n_step * (~file.tensor("done_n")[0]).float()
    target = values.target(
        file.tensor("dqn/target_q")[..., None], action, file.tensor("return_")[0], discounts
    )
    outputs = file.tensor("dqn/q")[..., None]
    losses, priorities = values.loss(outputs, file.tensor("all_action")[1], target)
    file.check("dqn/losses", losses)
    file.check("dqn/td_abs", priorities)
