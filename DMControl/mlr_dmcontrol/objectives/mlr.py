"""Mask-based latent reconstruction (paper, section 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..augmentation import EFFECTS, PLACES, Augmentation, AugmentationNoise, center_crop
from ..batch import Batch, SequenceBatch
from ..frames import FrameStacks
from ..momentum import make_target
from ..networks import Encoder, Networks, initialise_truncated
from ..run.schema import bounded, choice
from .decoder import LatentDecoder, check_heads
from .heads import distance, health, health_names, picture, projection_head, windows_of
from .interface import Metrics, Objective, Streams
from .masking import MODES, PER, CubeMasking, check_patches, mask_frames, masked_steps
from .pixels import PixelDecoder, pixel_errors

_DIAGNOSED_SEQUENCES = 16
_ON_A_CPU = 32  # sequences at once


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Keys of configs/agent/mlr.yaml, which says what each one is."""

    mlr_weight: float = bounded(0)
    sequence_length: int = bounded(1, 1024)
    sequence_batch_size: int = bounded(1, 65536)
    objective_augmentation: tuple[str, ...] = choice(*PLACES, *EFFECTS)
    mask_ratio: float = bounded(0, 1)
    patch_size: int = bounded(1)
    cube_depth: int = bounded(1)
    mask_mode: str = choice(*MODES)
    mask_per: str = choice(*PER)
    mask_level: str = choice("pixel", "latent")
    decoder_depth: int = bounded(1, 64)
    decoder_heads: int = bounded(1, 4096)
    decoder_width: int | None = bounded(1)
    decoder_mlp_ratio: float = bounded(above=0)
    decoder_actions: bool
    projection_heads: bool
    projection_dim: int = bounded(1)
    reconstruction: str = choice("latent", "pixel")
    loss_positions: str = choice("all", "masked")
    sequences_at_once: int | None = bounded(1)
    target_ema_tau: float | None = bounded(0, 1)
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

    def select(self, some: slice) -> MLRNoise:
        """The numbers of some of the sequences."""
        key = (slice(None), some)
        grid = self.grid if self.grid.ndim == 3 else self.grid[some]
        return MLRNoise(grid, self.online.select(key), self.target.select(key))


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
    diagnostic_names = (*health_names("mlr"), "mlr/masked_fraction")

    def __init__(self, settings: Settings, networks: Networks, augmentation: Augmentation) -> None:
        """Raises: ConfigError: mask settings do not fit the image.

        With `redraw_linear_maps`, as published, linear maps of the encoder start anew here, in
        the online and momentum encoder independently and after the critic's target was copied.
        """
        super().__init__(settings, networks, augmentation)
        encoder, latent_dim = networks.encoder, networks.encoder.latent_dim
        self.masking = CubeMasking(
            augmentation.image_size,
            settings.patch_size,
            settings.sequence_length,
            settings.cube_depth,
            settings.mask_ratio,
            # A latent is hidden as a whole, and with it its step.
            settings.mask_mode if settings.mask_level == "pixel" else "temporal",
            settings.mask_per,
        )
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
        tau = settings.target_ema_tau
        hidden = settings.projection_dim if settings.projection_heads else None
        self.token = self.pixel_decoder = None
        if settings.mask_level == "latent":
            self.token = nn.Parameter(torch.zeros(latent_dim))
        if settings.reconstruction == "pixel":
            self.pixel_decoder = PixelDecoder(encoder, augmentation.crop_size)
            tau = hidden = None  # pixels need neither heads nor momentum
        self.projection = projection_head(latent_dim, hidden)
        self.predictor = projection_head(latent_dim, hidden)
        initialise_truncated(self)
        if settings.redraw_linear_maps:
            initialise_truncated(encoder)
        self.target_encoder = make_target(encoder, tau)
        self.target_projection = make_target(self.projection, tau)
        if settings.redraw_linear_maps:
            initialise_truncated(self.target_encoder)
            initialise_truncated(self.target_projection)

    @classmethod
    def check(cls, settings: Any, image_size: int) -> None:
        check_patches(settings.patch_size, image_size)
        check_heads(settings.decoder_heads, settings.decoder_width or settings.latent_dim)

    def draw_noise(self, streams: Streams, views: AugmentationNoise) -> MLRNoise:
        """Of stream `masking` the grid, of `objective` online and target, in this order."""
        lead = (self.sequence_length, self.sequence_batch_size)
        return MLRNoise(
            self.masking.draw(streams["masking"], self.sequence_batch_size),
            self.augmentation.draw(streams["objective"], lead),
            self.augmentation.draw(streams["objective"], lead),
        )

    def loss(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> tuple[Tensor, Metrics]:
        """Mean error over all K * B' positions, masked or not, or over those with a mask."""
        sequence = windows_of(batch)
        if self.pixel_decoder is None:
            # First, so that its images are gone before the gradient branch needs the memory.
            target = self.target_projection(self.target_latents(sequence, noise))
            prediction = self.predictor(self.projection(self.decoded(encoder, sequence, noise)))
            errors = distance(prediction, target)
        else:
            images = self.pixel_decoder(self.decoded(encoder, sequence, noise).flatten(0, 1))
            errors = self.pixel_errors(images, sequence.obs, noise)
        if self.settings.loss_positions == "all":
            loss = errors.mean()
        else:
            counts = self.hidden_steps(noise.grid).expand(errors.shape)
            loss = (errors * counts).sum() / counts.sum().clamp_min(1)
        return loss, {"loss/mlr": loss.detach()}

    @property
    def sequences_at_once(self) -> int:
        """Whose activations are in memory together, unless configured: on a GPU all."""
        on_cpu = next(self.parameters()).device.type == "cpu"
        return self.settings.sequences_at_once or (
            _ON_A_CPU if on_cpu else self.sequence_batch_size
        )

    def pieces(self, batch: Batch, noise: MLRNoise) -> Iterator[tuple[float, Batch, MLRNoise]]:
        """A few sequences at a time; the loss is a mean over them, so nothing else changes."""
        total, size = self.sequence_batch_size, self.sequences_at_once
        for start in range(0, total, size):
            some = slice(start, min(start + size, total))
            piece = dataclasses.replace(batch, sequence=windows_of(batch).select(some))
            yield (some.stop - start) / total, piece, noise.select(some)

    def decoded(self, encoder: Encoder, sequence: SequenceBatch, noise: MLRNoise) -> Tensor:
        """ŝ: latents decoded from the masked images, (K, B', Z)."""
        if self.token is None:
            images = self.masked_images(sequence.obs, noise)
            latents = encoder(images).unflatten(0, sequence.obs.lead)
        else:
            images = self.augmentation(sequence.obs, noise.online)
            latents = encoder(images).unflatten(0, sequence.obs.lead)
            latents = torch.where(self.hidden_steps(noise.grid)[..., None], self.token, latents)
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
        return self.augmentation(obs, noise.online, self.hidden_pixels(obs, noise))

    def hidden_pixels(self, obs: FrameStacks, noise: MLRNoise) -> FrameStacks:
        """A stack of one frame for each of `obs`, 1 where its pixels are hidden."""
        return mask_frames(self.masking.pixels(noise.grid), obs.lead[1])

    def hidden_steps(self, grid: Tensor) -> Tensor:
        """Steps of which anything is hidden, bool (K, 1), or (K, B') with a mask per sequence."""
        return masked_steps(self.masking.expand(grid))

    def pixel_errors(self, images: Tensor, obs: FrameStacks, noise: MLRNoise) -> Tensor:
        """Mean squared error of each reconstructed image, or of its hidden pixels: (K, B')."""
        target, hidden = self.augmentation(obs, noise.online), None
        if self.settings.loss_positions == "masked":
            hidden = self.augmentation(self.hidden_pixels(obs, noise), noise.online) > 0
        return pixel_errors(images, target, hidden).view(obs.lead)

    def learning_rate_factor(self, update_step: int) -> float:
        """Warm-up, then inverse square root (published code)."""
        settings = self.settings
        return warmup_inverse_sqrt(update_step, settings.warmup_updates, settings.warmup_start)

    @torch.no_grad()
    def diagnostics(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> dict[str, float]:
        """Similarity and collapse watch on the first sequences of the batch."""
        few = slice(_DIAGNOSED_SEQUENCES)
        sequence, noise = windows_of(batch).select(few), noise.select(few)
        latents = self.target_latents(sequence, noise)
        target = self.target_projection(latents)
        prediction = self.predictor(self.projection(self.decoded(encoder, sequence, noise)))
        masked = self.masking.expand(noise.grid).float().mean().item()
        return health("mlr", prediction, target, latents) | {"mlr/masked_fraction": masked}

    @torch.no_grad()
    def preview(self, batch: Batch, noise: MLRNoise) -> Tensor:
        """Newest frames of the first sequence in time: original, masked input, target; rows."""
        sequence, noise = windows_of(batch).select(slice(1)), noise.select(slice(1))
        size = self.augmentation.crop_size
        rows = [
            center_crop(sequence.obs.dense()[:, 0], size) / 255.0,
            self.masked_images(sequence.obs, noise),
            self.augmentation(sequence.obs, noise.target),
        ]
        return picture(rows)
