"""Prioritised sampling: exact beside a plain version, and safe from bad input."""

import numpy as np
import pytest
import torch

from mlr_atari.replay import ProportionalPriorities


def _with(values: np.ndarray, exponent: float = 0.5) -> ProportionalPriorities:
    priorities = ProportionalPriorities(len(values), exponent, "cpu")
    for entry, value in enumerate(values.tolist()):
        priorities.set(entry, value)
    return priorities


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_agrees_with_a_plain_version_through_many_operations(exponent: float) -> None:
    rng = np.random.default_rng(7)
    size, plain = 50, np.zeros(50)
    priorities = ProportionalPriorities(size, exponent, "cpu")
    for operation in range(10_000):
        if operation % 3 == 0:
            entry, value = int(rng.integers(size)), float(rng.choice([0.0, 1.0, 2.5]))
            priorities.set(entry, value)
            plain[entry] = value**exponent if value else 0.0
        elif operation % 3 == 1:
            indices, values = rng.integers(size, size=8), rng.uniform(1e-6, 50, 8)
            values[rng.random(8) < 0.1] = np.nan
            values[rng.random(8) < 0.1] = rng.choice([-1.0, -np.inf])
            priorities.update(torch.from_numpy(indices), torch.from_numpy(values))
            for place, entry in enumerate(indices):
                first = place == list(indices).index(entry)
                if first and values[place] >= 0 and plain[entry] > 0:
                    plain[entry] = values[place] ** exponent
        elif plain.sum() > 0:
            uniforms = rng.random(8)
            drawn = priorities.draw(torch.from_numpy(uniforms)).numpy()
            wanted = np.searchsorted(np.cumsum(plain), uniforms * plain.sum(), side="right")
            np.testing.assert_array_equal(drawn, wanted)
    np.testing.assert_allclose(priorities.masses().numpy(), plain, rtol=1e-6, atol=1e-12)


def test_the_smallest_priority_beside_the_largest_is_kept_apart_from_zero() -> None:
    values = np.full(100_000, 1e6)
    values[5] = 1e-6
    priorities = _with(values)
    assert priorities.masses()[5].item() == pytest.approx(1e-3, rel=1e-6)
    priorities.update(torch.tensor([5]), torch.tensor([float("inf")]))  # counts as the largest
    assert priorities.masses()[5:7].tolist() == [1e3, 1e3]


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-53])
def test_the_ends_of_the_range_draw_the_first_and_last_entry_that_is_on(uniform: float) -> None:
    values = np.random.default_rng(0).uniform(1, 2, 100_000)
    values[[0, -1]] = 0
    drawn = _with(values).draw(torch.tensor([uniform], dtype=torch.float64)).item()
    assert drawn == (1 if uniform == 0 else len(values) - 2)


def test_weights_are_the_published_formula() -> None:
    values = np.array([0.25, 1.0, 9.0, 0.01])
    indices = torch.tensor([2, 0, 0, 3])
    mass = values[indices.numpy()] ** 0.5
    wanted = (1 / (mass + 1e-5)) ** 0.7
    weights = _with(values).importance_weights(indices, torch.tensor(0.7, dtype=torch.float64))
    np.testing.assert_allclose(weights.numpy(), wanted / wanted.max(), rtol=1e-6)
    assert weights.dtype == torch.float32


@pytest.mark.cuda
def test_the_gpu_draws_the_same_without_a_synchronisation() -> None:
    values = np.random.default_rng(2).uniform(0.01, 9, 100_000)
    cpu = _with(values)
    gpu = ProportionalPriorities(100_000, 0.5, "cuda")
    entries = torch.arange(100_000)
    gpu.load_state_dict(cpu.state_dict(entries), entries.cuda())
    uniforms = torch.rand(512, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = cpu.draw(uniforms)
    on_gpu, beta = uniforms.cuda(), torch.tensor(0.5, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = gpu.draw(on_gpu)
        gpu.importance_weights(drawn, beta)
        gpu.update(drawn, on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(drawn.cpu(), wanted)
    cpu.update(wanted, uniforms)
    torch.testing.assert_close(gpu.masses().cpu(), cpu.masses(), rtol=1e-6, atol=0)
