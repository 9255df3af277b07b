"""Every augmentation is the exact function of its draws."""

import pytest
import torch
from torch.nn import functional as F

from mlr_atari.augmentation import Augmentation
from mlr_atari.frames import FrameStacks


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("menu", [["shift", "intensity"], ["shift"], []])
def test_mask_then_shift_then_intensity(menu: list[str]) -> None:
    frames = torch.randint(256, (9, 1, 20, 20), generator=_generator(0), dtype=torch.uint8)
    index = torch.arange(4) + torch.tensor([[0, 3, 1], [2, 5, 4]])[..., None]
    obs, augmentation = FrameStacks(frames, index), Augmentation(menu, 20, 4, 0.05)
    hidden = torch.rand(2, 20, 20, generator=_generator(2)) < 0.5
    masks = FrameStacks(hidden[:, None].to(torch.uint8), torch.arange(6).view(2, 3, 1) // 3)
    noise = augmentation.draw(_generator(), (2, 3))
    images = augmentation(obs, noise, masks)
    assert images.shape == (6, 4, 20, 20)
    assert images.is_contiguous(memory_format=torch.channels_last)
    for i in range(6):
        t, b = divmod(i, 3)
        row, column = (4, 4) if noise.offsets is None else noise.offsets[t, b].tolist()
        factor = 1.0 if noise.intensity is None else noise.intensity[t, b]
        whole = F.pad((obs.dense()[t, b].float() * ~hidden[t])[None], (4,) * 4, mode="replicate")
        seen = whole[0, :, row : row + 20, column : column + 20]
        torch.testing.assert_close(images[i], seen * factor / 255)
    torch.testing.assert_close(augmentation(obs, noise, masks, scale=1.0), images * 255)


def test_draws_have_their_distributions() -> None:
    noise = Augmentation(["shift", "intensity"], 20, 4, 0.05).draw(_generator(), (9000,))
    assert noise.offsets is not None
    assert noise.intensity is not None
    for axis in range(2):
        counts = torch.bincount(noise.offsets[:, axis], minlength=9)
        assert len(counts) == 9
        assert (counts - 1000).abs().max() < 150
    assert (noise.intensity.min(), noise.intensity.max()) == pytest.approx((0.9, 1.1))
    assert noise.intensity.mean().item() == pytest.approx(1, abs=2e-3)
    # The deviation of a standard normal number clipped at two is 0.9594.
    assert noise.intensity.std().item() == pytest.approx(0.05 * 0.9594, rel=0.03)
