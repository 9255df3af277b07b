"""Augmentation against one image at a time, and the ranges of what is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mlr_dmcontrol.augmentation import Augmentation, AugmentationNoise, center_crop, to_float
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.frames import FrameStacks


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _stacks(lead: tuple[int, ...] = (2, 3), size: int = 20) -> FrameStacks:
    frames = torch.randint(0, 256, (9, 2, size, size), dtype=torch.uint8, generator=_generator())
    return FrameStacks(frames, torch.randint(0, 9, (*lead, 3), generator=_generator(1)))


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
    obs, augmentation = _stacks(), Augmentation(menu, 20, size, shift_pad=3)
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
        counts = torch.bincount(offsets.flatten())
        assert len(counts) == last + 1
        # 8000 draws: the standard deviation of a share is below 0.005.
        torch.testing.assert_close(
            counts / 8000, torch.full((last + 1,), 1 / (last + 1)), atol=0.03, rtol=0
        )
    # An image of the right size has one place for the crop.
    whole = Augmentation(["crop"], 16, 16, skip_last_offset=True)
    assert whole.draw(_generator(), (50,)).offsets.max() == 0


def test_intensity_is_a_cut_normal() -> None:
    factor = Augmentation(["intensity"], 16, 16).draw(_generator(), (20000,)).intensity
    assert factor is not None
    assert factor.min() == pytest.approx(0.9)
    assert factor.max() == pytest.approx(1.1)
    assert factor.mean() == pytest.approx(1, abs=2e-3)
    share_at_the_cut = (factor > 1.0999).float().mean()
    assert share_at_the_cut == pytest.approx(0.0228, abs=5e-3)


def test_select_takes_the_numbers_of_some_images() -> None:
    augmentation = Augmentation(["crop", "intensity"], 20, 15)
    obs, noise = _stacks(), augmentation.draw(_generator(), (2, 3))
    key = (slice(None), slice(1, 3))
    part = augmentation(obs.select(key), noise.select(key))
    assert torch.equal(part, augmentation(obs, noise).unflatten(0, (2, 3))[:, 1:].flatten(0, 1))


def test_still_affine_and_whole_box_change_nothing() -> None:
    obs = _stacks((4,))
    whole = to_float(obs.dense())
    still = torch.tensor([0.0, 0, 0, 1, 0, 0]).expand(4, 6)
    images = Augmentation(["affine"], 20, 20)(obs, AugmentationNoise(affine=still))
    torch.testing.assert_close(images, whole, atol=1e-5, rtol=0)
    box = torch.tensor([0.0, 0, 20, 20]).expand(4, 4)
    images = Augmentation(["resized_crop"], 20, 20)(obs, AugmentationNoise(box=box))
    torch.testing.assert_close(images, whole, atol=1e-5, rtol=0)
    box = torch.tensor([3.0, 5, 10, 10]).expand(4, 4)
    images = Augmentation(["resized_crop"], 20, 10)(obs, AugmentationNoise(box=box))
    torch.testing.assert_close(images, whole[:, :, 3:13, 5:15], atol=1e-5, rtol=0)


def test_affine_moves_by_its_own_numbers() -> None:
    obs = _stacks((2,))
    affine = torch.tensor([[0, 0.1, 0, 1, 0, 0], [90.0, 0, 0, 1, 0, 0]])
    images = Augmentation(["affine"], 20, 20)(obs, AugmentationNoise(affine=affine))
    whole = to_float(obs.dense())
    torch.testing.assert_close(images[0, :, :, 2:], whole[0, :, :, :-2], atol=1e-5, rtol=0)
    turned = torch.rot90(whole[1], -1, (-2, -1))
    torch.testing.assert_close(images[1], turned, atol=1e-4, rtol=0)


@pytest.mark.parametrize("menu", [["affine"], ["blur"], ["crop", "affine", "blur", "intensity"]])
def test_the_rest_of_the_menu_depends_on_its_draws_only(menu: list[str]) -> None:
    crop = 16 if "crop" in menu else 20
    obs, augmentation = _stacks((4,)), Augmentation(menu, 20, crop)
    noise = augmentation.draw(_generator(), (4,))
    torch.manual_seed(1)
    first = augmentation(obs, noise)
    torch.manual_seed(2)
    assert torch.equal(first, augmentation(obs, noise))
    assert first.shape == (4, 6, crop, crop)
    assert first.dtype == torch.float32
    assert first.min() >= 0
    assert first.max() < 1.2
    assert first.std() > 0.05


def test_boxes_stay_inside_and_keep_their_area() -> None:
    box = Augmentation(["resized_crop"], 100, 84).draw(_generator(), (5000,)).box
    assert box is not None
    top, left, height, width = box.unbind(-1)
    assert min(top.min(), left.min()) >= 0
    assert (top + height).max() <= 100
    assert (left + width).max() <= 100
    assert (height * width).max() <= 10000
    aspect = width / height
    assert aspect.min() > 0.74
    assert aspect.max() < 1.34
    assert height.std() > 3


@pytest.mark.parametrize(
    ("menu", "sizes", "words"),
    [
        (["crop", "shift"], (20, 16), "at most one"),
        (["intensity", "intensity"], (20, 20), "once"),
        (["shift"], (20, 16), "agent.crop_size=16"),
        ([], (20, 16), "agent.crop_size=16"),
        (["crop"], (20, 24), "agent.crop_size=24: larger"),
    ],
)
def test_wrong_menus_name_key_and_remedy(
    menu: list[str], sizes: tuple[int, int], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        Augmentation(menu, *sizes)
