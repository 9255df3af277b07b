"""Every augmentation is the exact function of its draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mlr_atari.augmentation import (
    NAMES,
    Augmentation,
    AugmentationNoise,
    random_affine,
    random_resized_crop,
)
from mlr_atari.frames import FrameStacks


def _stacks(size: int = 20) -> FrameStacks:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (9, 1, size, size), generator=generator, dtype=torch.uint8)
    index = torch.arange(4) + torch.tensor([[0, 3, 1], [2, 5, 4]])[..., None]
    return FrameStacks(frames, index)


def _dense() -> Tensor:
    return _stacks().dense().flatten(0, 1)


def _build(*names: str, size: int = 20) -> Augmentation:
    return Augmentation(names, size, shift_pad=4, intensity_scale=0.05)


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_shift_and_intensity_by_hand() -> None:
    stacks, augmentation = _stacks(), _build("shift", "intensity")
    noise = augmentation.draw(_generator(), (2, 3))
    images = augmentation(stacks, noise)
    assert images.shape == (6, 4, 20, 20)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.dtype == torch.float32
    assert noise.offsets is not None
    assert noise.intensity is not None
    for t in range(2):
        for b in range(3):
            dense = stacks.dense()[t, b].float()
            padded = F.pad(dense[None], (4, 4, 4, 4), mode="replicate")[0]
            row, column = noise.offsets[t, b].tolist()
            window = padded[:, row : row + 20, column : column + 20]
            expected = window / 255 * noise.intensity[t, b]
            assert torch.allclose(images[3 * t + b], expected, atol=1e-6)


def test_hidden_pixels_are_black_before_the_shift() -> None:
    stacks, augmentation = _stacks(), _build("shift")
    hidden = torch.zeros(2, 1, 20, 20, dtype=torch.uint8)
    hidden[1, 0, :, :10] = 1
    masks = FrameStacks(hidden, torch.tensor([[0, 1, 0], [1, 1, 0]])[..., None])
    noise = augmentation.draw(_generator(), (2, 3))
    dense = stacks.dense() * (1 - masks.dense())
    expected = augmentation(FrameStacks.from_dense(dense, channels=1), noise)
    assert torch.equal(augmentation(stacks, noise, masks), expected)
    scaled = augmentation(stacks, noise, masks, scale=1.0)
    assert torch.allclose(scaled, expected * 255, atol=1e-3)


def test_nothing_is_just_the_scale() -> None:
    augmentation = _build()
    noise = augmentation.draw(_generator(), (2, 3))
    assert noise == AugmentationNoise()
    assert torch.allclose(augmentation(_stacks(), noise), _dense() / 255)


def test_draws_have_their_distributions() -> None:
    noise = _build("shift", "intensity").draw(_generator(), (9000,))
    assert noise.offsets is not None
    assert noise.intensity is not None
    for axis in range(2):
        counts = torch.bincount(noise.offsets[:, axis], minlength=9)
        assert len(counts) == 9
        assert (counts - 1000).abs().max() < 150
    assert noise.intensity.min() == pytest.approx(0.9)
    assert noise.intensity.max() == pytest.approx(1.1)
    assert noise.intensity.mean().item() == pytest.approx(1, abs=2e-3)
    # The deviation of a standard normal number clipped at two is 0.9594.
    assert noise.intensity.std().item() == pytest.approx(0.05 * 0.9594, rel=0.03)


def test_identity_warp_keeps_the_image() -> None:
    stacks, augmentation = _stacks(), _build("affine")
    identity = AugmentationNoise(warp=torch.eye(3).expand(2, 3, 3, 3))
    assert torch.allclose(augmentation(stacks, identity), _dense() / 255, atol=1e-5)


def test_translation_moves_pixels_right_and_down() -> None:
    move = torch.eye(3)
    move[0, 2], move[1, 2] = 3, 1
    stacks = _stacks()
    images = _build("affine")(stacks, AugmentationNoise(warp=move.expand(2, 3, 3, 3)))
    expected = torch.zeros(6, 4, 20, 20)
    expected[..., 1:, 3:] = _dense()[..., :-1, :-3] / 255
    assert torch.allclose(images, expected, atol=1e-4)


def _corners(warp: Tensor, size: int) -> Tensor:
    """Where the corners go, (N, 4, 2) x and y."""
    last = size - 1.0
    points = torch.tensor([[0, 0, 1], [last, 0, 1], [0, last, 1], [last, last, 1]])
    return (warp @ points.t()).transpose(-2, -1)[..., :2]


def test_resized_crops_cover_the_output() -> None:
    warp = random_resized_crop(_generator(), (500,), 84)
    corners = _corners(torch.linalg.inv(warp), 84)  # of the output, in the input
    assert corners.min() > -1e-3
    assert corners.max() < 83 + 1e-3
    area = (corners[:, 3] - corners[:, 0] + 1).prod(-1) / 84**2
    assert area.min() > 0.7
    assert area.max() < 1.01


def test_affine_maps_stay_small() -> None:
    moved = _corners(random_affine(_generator(), (500,), 84), 84)
    centre = moved.mean(1)
    assert ((centre - 41.5).abs() < 0.14 * 84 + 1e-3).all()
    side = (moved[:, 1] - moved[:, 0]).norm(dim=-1) / 83
    assert ((side > 0.899) & (side < 1.101)).all()
    assert side.std() > 0.03


def test_whole_menu_runs_on_masked_images() -> None:
    augmentation, stacks = _build(*NAMES), _stacks()
    noise = augmentation.draw(_generator(), (2, 3))
    hidden = FrameStacks(
        torch.ones(1, 1, 20, 20, dtype=torch.uint8), torch.zeros(2, 3, 1, dtype=torch.int64)
    )
    assert augmentation(stacks, noise).std() > 0
    assert augmentation(stacks, noise, hidden).abs().max() == 0


def test_blur_keeps_the_mean_and_lowers_the_contrast() -> None:
    stacks = _stacks()
    sharp, blurred = (_build(*names)(stacks, AugmentationNoise()) for names in ((), ("blur",)))
    assert blurred.mean().item() == pytest.approx(sharp.mean().item(), rel=0.02)
    assert blurred.std() < 0.5 * sharp.std()
