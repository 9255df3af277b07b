"""What objectives share: distance, rank and picture by hand."""

import pytest
import torch

from mlr_atari.frames import FrameStacks
from mlr_atari.objectives.latents import distance, effective_rank, picture


def test_distance_is_that_of_the_specification() -> None:
    a, b = torch.randn(4, 7), torch.randn(4, 7)
    torch.testing.assert_close(distance(a, b), 2 - 2 * torch.cosine_similarity(a, b, dim=-1))
    # Lengths below 1e-3 are not blown up to 1.
    assert distance(torch.tensor([5e-4, 0.0]), torch.zeros(2)).item() == pytest.approx(0.25)


@pytest.mark.parametrize("width", [4, 20])
def test_effective_rank_counts_directions(width: int) -> None:
    directions = torch.eye(width)[:3]
    both = torch.cat([directions, -directions])
    assert effective_rank(both).item() == pytest.approx(3.0, abs=1e-4)
    assert effective_rank(torch.ones(9, width)).item() == pytest.approx(1.0)


@pytest.mark.parametrize("colours", [1, 3])
def test_picture_shows_the_newest_frames(colours: int) -> None:
    obs = FrameStacks.from_dense(torch.randint(0, 256, (4, 2 * colours, 8, 8)).byte(), colours)
    image = picture(obs, [torch.zeros(4, 2 * colours, 6, 6), torch.ones(4, 2 * colours, 6, 6)])
    assert image.shape == (3, 3 * 6, 4 * 6)
    newest = torch.cat(list(obs.dense()[:, -colours:, 1:7, 1:7]), dim=-1)
    assert torch.equal(image[:, :6], newest.expand(3, -1, -1))
    assert (image[:, 6:12] == 0).all()
    assert (image[:, 12:] == 255).all()
