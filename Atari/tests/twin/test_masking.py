"""Cube masks: counts, blocks, uniformity, and the published generator's facts."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mlr_atari.objectives.masking import CubeMasking, MaskSettings


def masking(
    image: float, patch: float, length: float, depth: float, ratio: float, **changes: str
) -> CubeMasking:
    words = {"mask_mode": "cube", "mask_per": "batch", "mask_level": "pixel"} | changes
    sizes = {"patch_size": int(patch), "sequence_length": int(length), "cube_depth": int(depth)}
    return CubeMasking(MaskSettings(mask_ratio=ratio, **sizes, **words), int(image))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_published_cases(golden: Callable[[str], Any]) -> None:
    file, compared = golden("dmc_f_cube_mask"), 0
    for n, image, clip, depth, ratio, _, count, low, high, *_ in file["cases"].tolist():
        if image % n:
            continue  # the published code makes unequal cells here; ours refuses
        cubes = masking(image, image // n, clip, depth, ratio)
        grid = cubes.draw(_generator(), 1)
        pixels = cubes.pixels(grid)
        # The published mask is too short when the depth does not divide the sequence.
        assert pixels.shape == (clip, image, image)
        fraction = pixels.double().mean(dim=(1, 2))
        assert fraction.min() == pytest.approx(low, abs=1e-6)
        assert fraction.max() == pytest.approx(high, abs=1e-6)
        assert torch.all(grid.sum(dim=(1, 2)) == count)
        compared += 1
    assert compared == 15


@pytest.mark.parametrize("case", [0, 1, 3])
def test_published_masks_are_ours_for_their_grid(case: int, golden: Callable[[str], Any]) -> None:
    file = golden("dmc_f_cube_mask")
    n, image, clip, depth, ratio = (float(value) for value in file["cases"][case][:5])
    bits = np.unpackbits(file[f"mask_case{case}"], axis=1)[:, : int(image * image)]
    published = torch.from_numpy(bits).bool().view(int(clip), int(image), int(image))
    side = int(image // n)
    grid = published[:: int(depth), ::side, ::side]
    assert torch.equal(masking(image, side, clip, depth, ratio).pixels(grid), published)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.29, 0.5, 0.999, 1.0])
def test_exact_count_and_blocks_of_which_the_last_may_be_shorter(ratio: float) -> None:
    cubes = masking(84, 12, 13, 8, ratio)
    grid = cubes.draw(_generator(), 4)
    assert grid.sum(dim=(1, 2)).tolist() == [math.floor(ratio * 49)] * 2
    steps = cubes.expand(grid)
    assert torch.equal(steps, torch.stack([grid[t // 8] for t in range(13)]))


@pytest.mark.parametrize(
    ("depth", "mode", "warned"),
    [(4, "cube", False), (8, "cube", True), (9, "cube", True), (8, "spatial", False)],
)
def test_cubes_of_one_block_are_warned_of(
    caplog: pytest.LogCaptureFixture, depth: int, mode: str, warned: bool
) -> None:
    masking(20, 5, 8, depth, 0.5, mask_mode=mode)
    messages = [record.getMessage() for record in caplog.records]
    assert [f"agent.cube_depth={depth}:" in message for message in messages] == [True] * warned


def test_every_patch_is_hidden_equally_often() -> None:
    cubes, generator = masking(40, 10, 4, 1, 0.25), _generator(3)
    counts = torch.stack([cubes.draw(generator, 1) for _ in range(500)]).double()
    frequency = counts.mean(dim=(0, 1))
    # 2000 draws of one patch: standard deviation 0.0097.
    assert torch.all((frequency - 0.25).abs() < 0.05)
    assert (counts[:, 0] * counts[:, 1]).mean() == pytest.approx(0.0625, abs=0.01)


def test_one_mask_per_sequence_and_its_frames() -> None:
    cubes = masking(20, 5, 8, 4, 0.5, mask_per="sequence")
    grid = cubes.draw(_generator(), 6)
    assert torch.all(grid.sum(dim=(2, 3)) == 8)
    assert len(torch.unique(grid[:, 0].flatten(1), dim=0)) > 1
    pixels = cubes.pixels(grid)
    assert torch.equal(pixels[3], cubes.pixels(grid[3]))
    frames = cubes.frames(grid, 6).dense()  # (K, B, 1, H, W)
    assert torch.equal(frames[:, :, 0].bool(), pixels.transpose(0, 1))
    shared = cubes.frames(grid[3], 6).dense()
    assert torch.equal(shared[:, 5], frames[:, 3])


def test_spatial_and_temporal_ablations() -> None:
    spatial = masking(20, 5, 8, 4, 0.5, mask_mode="spatial")
    steps = spatial.expand(spatial.draw(_generator(), 1))
    assert torch.all(steps == steps[0])
    assert steps[0].sum() == 8
    for word in ({"mask_mode": "temporal"}, {"mask_level": "latent"}):
        temporal = masking(20, 5, 10, 4, 0.35, mask_per="sequence", **word)
        grid = temporal.draw(_generator(), 5)
        steps = temporal.expand(grid).flatten(2)
        assert torch.all(steps.all(dim=2) == steps.any(dim=2))
        assert torch.equal(temporal.steps(grid), steps.any(dim=2).t())
        assert steps.all(dim=2).sum(dim=1).tolist() == [3] * 5
