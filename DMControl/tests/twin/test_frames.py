"""Frame stacks against plain slicing, one image at a time."""

import pytest
import torch
from torch.nn import functional as F

from mlr_dmcontrol.frames import FrameStacks


@pytest.fixture
def stacks() -> FrameStacks:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (20, 2, 10, 12), dtype=torch.uint8, generator=generator)
    return FrameStacks(frames, torch.randint(0, 20, (4, 5, 3), generator=generator))


def _one(stacks: FrameStacks, t: int, b: int) -> torch.Tensor:
    return torch.cat([stacks.frames[i] for i in stacks.index[t, b].tolist()])


def test_dense_is_oldest_frame_first(stacks: FrameStacks) -> None:
    dense = stacks.dense()
    assert dense.shape == (4, 5, 6, 10, 12)
    assert all(torch.equal(dense[t, b], _one(stacks, t, b)) for t in range(4) for b in range(5))
    assert torch.equal(stacks.repeated(2).dense()[1], dense)
    assert torch.equal(stacks.select((slice(None), 2)).dense(), dense[:, 2])
    assert torch.equal(FrameStacks.from_dense(dense, channels=2).dense(), dense)


def test_crop_is_slicing_at_each_stacks_own_offset(stacks: FrameStacks) -> None:
    places = torch.cartesian_prod(torch.arange(4), torch.arange(5)).view(4, 5, 2)
    cropped = stacks.crop(places, 7)
    for t in range(4):
        for b in range(5):
            assert torch.equal(cropped[t, b], _one(stacks, t, b)[:, t : t + 7, b : b + 7])


def test_shift_is_replicate_pad_then_crop(stacks: FrameStacks) -> None:
    pad = 2
    offsets = torch.randint(0, 2 * pad + 1, (4, 5, 2), generator=torch.Generator().manual_seed(2))
    offsets[0, 0], offsets[0, 1] = torch.tensor([0, 4]), torch.tensor([2, 2])
    shifted = stacks.shift(offsets, pad)
    for t in range(4):
        for b in range(5):
            padded = F.pad(_one(stacks, t, b)[None].float(), (pad,) * 4, mode="replicate")[0]
            row, column = offsets[t, b].tolist()
            expected = padded[:, row : row + 10, column : column + 12].to(torch.uint8)
            assert torch.equal(shifted[t, b], expected)
    assert torch.equal(shifted[0, 1], _one(stacks, 0, 1))


def test_wrong_shapes_are_refused(stacks: FrameStacks) -> None:
    with pytest.raises(ValueError, match="offsets"):
        stacks.crop(torch.zeros(5, 4, 2, dtype=torch.int64), 7)
    with pytest.raises(ValueError, match="larger"):
        stacks.crop(torch.zeros(4, 5, 2, dtype=torch.int64), 11)
    with pytest.raises(ValueError, match="uint8"):
        FrameStacks(stacks.frames.float(), stacks.index)
