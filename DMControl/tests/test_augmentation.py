"""Augmentation against one image at a time, and the ranges of what is drawn."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mlr_dmcontrol.augmentation import Augmentation, AugmentationNoise, center_crop
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.frames import FrameStacks


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_published_slices(golden: Callable[[str], Any]) -> None:
    """The exact crop is what the pinned library would have cut without its resampling."""
    file = golden("kornia041_random_crop")
    image = file.tensor("dmc_100_to_84/image")
    noise = AugmentationNoise(offsets=file.tensor("dmc_100_to_84/offset_row_col"))
    cropped = Augmentation(["crop"], 100, 84)(FrameStacks.from_dense(image, 1), noise)
    torch.testing.assert_close(cropped * 255, file.tensor("dmc_100_to_84/slice_out").float())


def test_centre_of_the_published_evaluation(golden: Callable[[str], Any]) -> None:
    top, left = golden("dmc_replay_sampling")["center_crop_topleft_100_84"].tolist()
    image = torch.arange(100 * 100).view(1, 100, 100)
    assert torch.equal(center_crop(image, 84), image[:, top : top + 84, left : left + 84])


@pytest.mark.parametrize(
    ("menu", "size", "pad"),
    [(["crop", "intensity"], 15, 0), (["shift"], 20, 3), (["center_crop"], 16, 0)],
)
def test_mask_then_place_then_intensity(menu: list[str], size: int, pad: int) -> None:
    """A shift repeats the border of image and mask."""
    frames = torch.randint(0, 256, (9, 2, 20, 20), dtype=torch.uint8, generator=_generator())
    obs = FrameStacks(frames, torch.randint(0, 9, (2, 3, 3), generator=_generator(1)))
    augmentation = Augmentation(menu, 20, size, shift_pad=3)
    noise = augmentation.draw(_generator(), (2, 3))
    hidden = torch.rand(2, 20, 20, generator=_generator(2)) < 0.5
    index = torch.arange(2).view(2, 1, 1).expand(2, 3, 1)
    images = augmentation(obs, noise, FrameStacks(hidden[:, None].to(torch.uint8), index))
    assert images.shape == (6, 6, size, size)
    assert images.is_contiguous(memory_format=torch.channels_last)
    for i in range(6):
        t, b = divmod(i, 3)
        row, column = (2, 2) if noise.offsets is None else noise.offsets[t, b].tolist()
        whole = F.pad((obs.dense()[t, b].float() * ~hidden[t])[None], (pad,) * 4, mode="replicate")
        factor = 1.0 if noise.intensity is None else noise.intensity[t, b]
        seen = whole[0, :, row : row + size, column : column + size]
        torch.testing.assert_close(images[i], seen * factor / 255)


def test_every_offset_is_drawn_and_the_last_can_be_skipped() -> None:
    for augmentation, last in (
        (Augmentation(["crop"], 20, 16), 4),
        (Augmentation(["crop"], 20, 16, skip_last_offset=True), 3),
        (Augmentation(["shift"], 16, 16, shift_pad=2), 4),
    ):
        offsets = augmentation.draw(_generator(), (4000,)).offsets
        assert offsets is not None
        counts = torch.bincount(offsets.flatten()).float()
        assert len(counts) == last + 1
        # 8000 draws: the standard deviation of a count is below 40.
        torch.testing.assert_close(
            counts, torch.full((last + 1,), 8000 / (last + 1)), atol=240, rtol=0
        )
    # An image of the right size has one place for the crop.
    whole = Augmentation(["crop"], 16, 16, skip_last_offset=True)
    assert whole.draw(_generator(), (50,)).offsets.max() == 0


def test_intensity_is_a_cut_normal() -> None:
    factor = Augmentation(["intensity"], 16, 16).draw(_generator(), (20000,)).intensity
    assert factor is not None
    assert (factor.min(), factor.max()) == pytest.approx((0.9, 1.1))
    assert factor.mean() == pytest.approx(1, abs=2e-3)
    assert (factor > 1.0999).float().mean() == pytest.approx(0.0228, abs=5e-3)  # at the cut


@pytest.mark.parametrize(
    ("menu", "sizes", "key"),
    [
        (["crop", "shift"], (20, 16), "agent.augmentation="),
        (["intensity", "intensity"], (20, 20), "agent.augmentation="),
        (["shift"], (20, 16), "agent.crop_size=16"),
        ([], (20, 16), "agent.crop_size=16"),
        (["crop"], (20, 24), "agent.crop_size=24"),
    ],
)
def test_wrong_menus_name_the_key(menu: list[str], sizes: tuple[int, int], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        Augmentation(menu, *sizes)
