"""Mask-based latent reconstruction (paper, section 3; ALGORITHM.md, section 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..augmentation import Augmentation, AugmentationNoise, center_crop
from ..batch import Batch, SequenceBatch
from ..frames import FrameStacks
from ..momentum import MomentumTarget
from ..networks import Encoder, Networks
from ..optimization import ClipGroup, ParameterGroup
from ..settings import bounded, choice
from .decoder import LatentDecoder
from .interface import Metrics, Objective, Streams
from .masking import MODES, PER, CubeMasking

# Vectors shorter than this are not blown up to unit length (published).
MIN_LENGTH = 1e-3
_INITIAL_STD = 0.02
_DIAGNOSED_SEQUENCES = 16


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Keys of configs/agent/mlr.yaml, which says what each one is."""

    mlr_weight: float = bounded(0)
    sequence_length: int = bounded(1)
    sequence_batch_size: int = bounded(1)
    objective_augmentation: tuple[str, ...]
    mask_ratio: float = bounded(0, 1)
    patch_size: int = bounded(1)
    cube_depth: int = bounded(1)
    mask_mode: str = choice(*MODES)
    mask_per: str = choice(*PER)
    decoder_depth: int = bounded(1)
    decoder_heads: int = bounded(1)
    decoder_width: int | None = bounded(1)
    decoder_mlp_ratio: float = bounded(above=0)
    decoder_actions: bool
    projection_dim: int = bounded(1)
    sequences_at_once: int = bounded(1)
    target_ema_tau: float = bounded(0, 1)
    objective_learning_rate_scale: float = bounded(above=0)
    warmup_updates: int = bounded(0)
    warmup_start: float = bounded(0, 1)
    max_gradient_norm: float = bounded(above=0)
    redraw_linear_maps: bool


@dataclass(frozen=True)
class MLRNoise:
    """Random numbers of one update.

    Attributes:
        grid: bool (blocks, n, n), or (B', blocks, n, n) with a mask per sequence; True = masked.
        online, target: augmentation of the masked and of the original images, lead (K, B').
    """

    grid: Tensor
    online: AugmentationNoise
    target: AugmentationNoise

    def to(self, device: torch.device | str) -> MLRNoise:
        """The same numbers on `device`."""
        grid = self.grid.to(device, non_blocking=True)
        return MLRNoise(grid, self.online.to(device), self.target.to(device))


def normalise(vectors: Tensor) -> Tensor:
    """n(v) = v / max(|v|, 1e-3) along the last dimension."""
    return F.normalize(vectors, dim=-1, eps=MIN_LENGTH)


def distance(prediction: Tensor, target: Tensor) -> Tensor:
    """|n(y) - n(ȳ)|², (*, Z) -> (*); 2 - 2 cos for all but tiny vectors."""
    return (normalise(prediction) - normalise(target)).square().sum(-1)


def warmup_inverse_sqrt(update_step: int, warmup: int, start: float) -> float:
    """Factor on the learning rate: linear from `start` to 1, then falling as 1/√k.

    Args: `update_step`: k, from 0. `warmup`: updates until 1 is reached; 0 keeps it at 1.
    """
    if warmup == 0:
        return 1.0
    if update_step < warmup:
        return start + (1.0 - start) * update_step / warmup
    return (warmup / update_step) ** 0.5


class MLR(Objective):
    """Predict the momentum latents of whole images from masked ones and the actions."""

    settings_type = Settings
    metric_names = ("loss/mlr",)
    diagnostic_names = (
        "mlr/cosine_similarity",
        "mlr/masked_fraction",
        "mlr/prediction_norm",
        "mlr/projection_std",
        "mlr/effective_rank",
    )

    def __init__(self, settings: Settings, networks: Networks, augmentation: Augmentation) -> None:
        """Raises: ConfigError: mask settings do not fit the image.

        With `redraw_linear_maps`, as published, linear maps of the encoder start anew here, in
        the online and momentum encoder independently and after the critic's target was copied.
        """
        super().__init__(settings, networks, augmentation)
        encoder = networks.encoder
        self.settings = settings
        self.sequence_length = settings.sequence_length
        self.sequence_batch_size = settings.sequence_batch_size
        self.augmentation = augmentation
        self.masking = CubeMasking(
            augmentation.image_size,
            settings.patch_size,
            settings.sequence_length,
            settings.cube_depth,
            settings.mask_ratio,
            settings.mask_mode,
            settings.mask_per,
        )
        latent_dim, hidden = encoder.latent_dim, settings.projection_dim
        self.decoder = LatentDecoder(
            latent_dim,
            networks.action_dim,
            settings.decoder_depth,
            settings.decoder_heads,
            settings.decoder_mlp_ratio,
            settings.decoder_width,
            max_length=settings.sequence_length,
            use_actions=settings.decoder_actions,
        )
        self.projection = _mlp(latent_dim, hidden)
        self.predictor = _mlp(latent_dim, hidden)
        self.apply(_initialise_truncated)
        if settings.redraw_linear_maps:
            encoder.apply(_initialise_truncated)
        self.target_encoder = MomentumTarget(encoder, settings.target_ema_tau)
        self.target_projection = MomentumTarget(self.projection, settings.target_ema_tau)
        if settings.redraw_linear_maps:
            self.target_encoder.apply(_initialise_truncated)
            self.target_projection.apply(_initialise_truncated)

    def draw_noise(self, streams: Streams) -> MLRNoise:
        lead = (self.sequence_length, self.sequence_batch_size)
        return MLRNoise(
            self.masking.draw(streams["masking"], self.sequence_batch_size),
            self.augmentation.draw(streams["objective"], lead),
            self.augmentation.draw(streams["objective"], lead),
        )

    def loss(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> tuple[Tensor, Metrics]:
        """Mean distance over all K * B' positions, masked or not."""
        sequence = _sequence(batch)
        # First, so that its images are gone before the gradient branch needs the memory.
        target = self.target_projection(self.target_latents(sequence, noise))
        prediction = self.predictor(self.projection(self.decoded(encoder, sequence, noise)))
        loss = distance(prediction, target).mean()
        return loss, {"loss/mlr": loss.detach()}

    def parts(self, batch: Batch, noise: MLRNoise) -> Iterator[tuple[float, Batch, MLRNoise]]:
        """A few sequences at a time; the loss is a mean over them, so nothing else changes."""
        sequence = _sequence(batch)
        total, size = len(sequence.indices), self.settings.sequences_at_once
        for start in range(0, total, size):
            part, part_noise = _part(sequence, noise, slice(start, start + size))
            share = len(part.indices) / total
            yield share, dataclasses.replace(batch, sequence=part), part_noise

    def decoded(self, encoder: Encoder, sequence: SequenceBatch, noise: MLRNoise) -> Tensor:
        """ŝ: latents decoded from the masked images, (K, B', Z)."""
        images = self.masked_images(sequence.obs, noise)
        latents = encoder(images).unflatten(0, sequence.obs.lead)
        with encoder.autocast():
            states, actions = latents.transpose(0, 1), sequence.action.transpose(0, 1)
            return self.decoder(states, actions).transpose(0, 1).float()

    @torch.no_grad()
    def target_latents(self, sequence: SequenceBatch, noise: MLRNoise) -> Tensor:
        """s̄: momentum latents of the whole images, (K, B', Z)."""
        images = self.augmentation(sequence.obs, noise.target)
        return self.target_encoder(images).unflatten(0, sequence.obs.lead)

    def masked_images(self, obs: FrameStacks, noise: MLRNoise) -> Tensor:
        """Masked, then augmented: float32 (K * B', C, H, W)."""
        length, batch_size = obs.lead
        pixels = self.masking.pixels(noise.grid).to(torch.uint8).flatten(0, -3).unsqueeze(1)
        # One mask frame per step, or per sequence and step; stacks of one frame each.
        index = torch.arange(len(pixels), device=pixels.device).view(-1, length).transpose(0, 1)
        hidden = FrameStacks(pixels, index.expand(length, batch_size).unsqueeze(-1))
        return self.augmentation(obs, noise.online, hidden)

    def update_targets(self) -> None:
        self.target_encoder.update()
        self.target_projection.update()

    def parameter_groups(self, encoder: Encoder) -> Sequence[ParameterGroup]:
        (group,) = super().parameter_groups(encoder)
        return [ParameterGroup(group.parameters, self.settings.objective_learning_rate_scale)]

    def clip_groups(self, encoder: Encoder) -> Sequence[ClipGroup]:
        (group,) = self.parameter_groups(encoder)
        return [ClipGroup(group.parameters, self.settings.max_gradient_norm)]

    def learning_rate_factor(self, update_step: int) -> float:
        """Warm-up, then inverse square root (REFERENCE D-7)."""
        settings = self.settings
        return warmup_inverse_sqrt(update_step, settings.warmup_updates, settings.warmup_start)

    @torch.no_grad()
    def diagnostics(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> dict[str, float]:
        """Similarity and collapse watch on the first sequences of the batch.

        `projection_std` is 1 for targets spread evenly on the sphere, and `effective_rank` counts
        the directions that latents use; both fall towards 0 and 1 in a collapse.
        """
        sequence, noise = _part(_sequence(batch), noise, slice(_DIAGNOSED_SEQUENCES))
        latents = self.target_latents(sequence, noise)
        target = self.target_projection(latents)
        prediction = self.predictor(self.projection(self.decoded(encoder, sequence, noise)))
        unit = F.normalize(target.flatten(0, 1), dim=-1)
        values = {
            "mlr/cosine_similarity": F.cosine_similarity(prediction, target, dim=-1).mean(),
            "mlr/masked_fraction": self.masking.expand(noise.grid).float().mean(),
            "mlr/prediction_norm": prediction.norm(dim=-1).mean(),
            "mlr/projection_std": unit.std(dim=0).square().sum().sqrt(),
            "mlr/effective_rank": effective_rank(latents.flatten(0, 1)),
        }
        return {name: value.item() for name, value in values.items()}

    @torch.no_grad()
    def preview(self, batch: Batch, noise: MLRNoise) -> Tensor:
        """Newest frames of the first sequence in time: original, masked input, target; rows."""
        sequence, noise = _part(_sequence(batch), noise, slice(1))
        size = self.augmentation.crop_size
        rows = [
            center_crop(sequence.obs.dense()[:, 0], size) / 255.0,
            self.masked_images(sequence.obs, noise),
            self.augmentation(sequence.obs, noise.target),
        ]
        strips = [torch.cat(list(images[:, -3:]), dim=-1) for images in rows]
        return (torch.cat(strips, dim=-2) * 255.0).round_().clamp_(0, 255).to(torch.uint8).cpu()


def effective_rank(vectors: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values of the centred `vectors` (N, Z)."""
    values = torch.linalg.svdvals((vectors - vectors.mean(dim=0)).double())
    share = values / values.sum().clamp_min(1e-12)
    return torch.special.entr(share).sum().exp()


def _sequence(batch: Batch) -> SequenceBatch:
    if batch.sequence is None:
        raise ValueError("the batch has no windows; draw some from the replay for the objective")
    return batch.sequence


def _part(sequence: SequenceBatch, noise: MLRNoise, some: slice) -> tuple[SequenceBatch, MLRNoise]:
    """Some of the windows, and their noise."""
    key = (slice(None), some)
    cut = SequenceBatch(
        sequence.obs.select(key),
        sequence.action[key],
        sequence.reward[key],
        sequence.indices[some],
    )
    grid = noise.grid if noise.grid.ndim == 3 else noise.grid[some]
    return cut, MLRNoise(grid, noise.online.select(key), noise.target.select(key))


def _mlp(latent_dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(latent_dim, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, latent_dim)
    )


def _initialise_truncated(module: nn.Module) -> None:
    """Linear maps: normal with deviation 0.02, cut at one deviation (published); biases 0."""
    if isinstance(module, nn.Linear):
        bound = _INITIAL_STD
        nn.init.trunc_normal_(module.weight, std=_INITIAL_STD, a=-bound, b=bound)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
