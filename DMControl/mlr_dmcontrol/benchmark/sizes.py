"""Sizes that `benchmark.py --scaling` goes through."""

from __future__ import annotations

from omegaconf import DictConfig

Points = list[tuple[float, list[str]]]

REPLAY_LENGTHS = (3_000, 10_000, 30_000, 100_000)  # enough for a run that learns
_FACTORS = (0.5, 1, 2, 4)
_LENGTHS = (4, 8, 16, 24)
_WIDTHS = (64, 128, 256, 512, 1024)
_IMAGES = ((48, 40), (64, 56), (80, 68), (96, 84))  # pixels: rendered and seen
_PATCH = 8


def sizes(cfg: DictConfig) -> dict[str, Points]:
    """For each thing that varies its values, with the overrides that set them."""
    batch = cfg.agent.batch_size
    sequences = cfg.agent.get("sequence_batch_size", batch)
    points: dict[str, Points] = {
        "batch": [
            (
                batch * each,
                [
                    f"scale.batch_size={int(batch * each)}",
                    f"scale.sequence_batch_size={int(sequences * each)}",
                ],
            )
            for each in _FACTORS
        ],
        "image size": [
            (
                image,
                [
                    f"scale.image_size={image}",
                    f"scale.crop_size={crop}",
                    f"scale.patch_size={_PATCH}",
                ],
            )
            for image, crop in _IMAGES
        ],
    }
    if cfg.agent.objective is not None:
        points["sequence length"] = [(each, [f"scale.sequence_length={each}"]) for each in _LENGTHS]
        points["decoder width"] = [(each, [f"agent.decoder_width={each}"]) for each in _WIDTHS]
    return points
