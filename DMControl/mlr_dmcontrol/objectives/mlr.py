"""Mask-based latent reconstruction (paper, section 3)."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..augmentation import EFFECTS, PLACES, Augmentation, AugmentationNoise
from ..batch import Batch, SequenceBatch
from ..momentum import MomentumTarget
from ..networks import Encoder, Networks, initialise_truncated, mlp
from ..run.schema import bounded, choice
from ..run.seeding import Streams
from .decoder import DecoderSettings, LatentDecoder
from .interface import Metrics, Objective, windows_of
from .latents import check_divides, distance, health, health_names, picture
from .masking import CubeMasking, MaskSettings

_ON_A_CPU = 32  # sequences at once


@dataclass(frozen=True, kw_only=True)
class Settings(MaskSettings, DecoderSettings):
    """Keys of configs/agent/mlr.yaml, which says what each one is."""

    mlr_weight: float = bounded(0)
    sequence_batch_size: int = bounded(1, 65536)
    objective_augmentation: tuple[str, ...] = choice(*PLACES, *EFFECTS)
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
    """Random numbers of one update."""

    grid: Tensor  # bool (blocks, n, n), or (B', blocks, n, n): a mask each; True = masked
    online: AugmentationNoise  # of the masked images, lead (K, B')
    target: AugmentationNoise  # of the original images, lead (K, B')

    def select(self, some: slice) -> "MLRNoise":
        """The numbers of some of the sequences."""
        key = (slice(None), some)
        grid = self.grid if self.grid.ndim == 3 else self.grid[some]
        return MLRNoise(grid, self.online.select(key), self.target.select(key))


def warmup_inverse_sqrt(update_step: int, warmup: int, start: float) -> float:
    """Factor on the learning rate at k: linear from `start` to 1, then falling as 1/√k; or 1."""
    if warmup == 0:
        return 1.0
    if update_step < warmup:
        return start + (1.0 - start) * update_step / warmup
    return (warmup / update_step) ** 0.5


class PixelDecoder(nn.Module):
    """Images from latents: a linear map to a small feature map, whose side doubles three times."""

    def __init__(self, encoder: Encoder, image_size: int) -> None:
        """Args: `encoder`: decides latents, filters and channels. `image_size`: side in pixels."""
        super().__init__()
        filters, side = encoder.map_shape[0], math.ceil(image_size / 2**3)
        layers: list[nn.Module] = [
            nn.Linear(encoder.latent_dim, filters * side * side),
            nn.Unflatten(1, (filters, side, side)),
        ]
        for incoming, outgoing in itertools.pairwise([filters] * 3 + [encoder.channels]):
            layers += [nn.ReLU(), nn.ConvTranspose2d(incoming, outgoing, 4, 2, padding=1)]
        self.layers = nn.Sequential(*layers)
        self.image_size = image_size

    def forward(self, latents: Tensor) -> Tensor:
        """(N, Z) -> float32 (N, S*C, H, W)."""
        return self.layers(latents)[..., : self.image_size, : self.image_size]


class MLR(Objective):
    """Predict the momentum latents of whole images from masked ones and the actions."""

    settings_type = Settings
    metric_names = ("loss/mlr",)
    diagnostic_names = (*health_names("mlr"), "mlr/masked_fraction")

    def __init__(self, settings: Settings, networks: Networks, augmentation: Augmentation) -> None:
        """With `redraw_linear_maps`, as published, linear maps of online and momentum encoder start
        anew here, each on its own and after the critic's target was copied.
        """
        super().__init__(settings, networks, augmentation)
        encoder, latent_dim = networks.encoder, networks.encoder.latent_dim
        self.masking = CubeMasking(settings, augmentation.image_size)
        sizes = latent_dim, networks.action_dim, settings.sequence_length
        self.decoder = LatentDecoder(settings, *sizes)
        pixels = settings.reconstruction == "pixel"  # which need neither heads nor momentum
        latents = settings.mask_level == "latent"
        self.token = nn.Parameter(torch.zeros(latent_dim)) if latents else None
        self.pixel_decoder = PixelDecoder(encoder, augmentation.crop_size) if pixels else None
        heads = settings.projection_heads and not pixels
        widths = (latent_dim, settings.projection_dim, latent_dim) if heads else ()
        tau = None if pixels else settings.target_ema_tau
        self.projection, self.predictor = mlp(*widths), mlp(*widths)
        initialise_truncated(self)
        self.target_encoder = MomentumTarget(encoder, tau)
        self.target_projection = MomentumTarget(self.projection, tau)
        if settings.redraw_linear_maps:
            for network in (encoder, self.target_encoder, self.target_projection):
                initialise_truncated(network)

    @classmethod
    def check(cls, settings: Any, image_size: int) -> None:
        """Patches tile the image, and heads share out the width of a token."""
        width = settings.decoder_width or settings.latent_dim
        check_divides("patch_size", settings.patch_size, image_size, "the image's pixels,")
        check_divides("decoder_heads", settings.decoder_heads, width, "the decoder's width")

    def draw_noise(self, streams: Streams, views: AugmentationNoise) -> MLRNoise:
        """Of stream `masking` the grid, of `objective` online and target, in this order."""
        lead, stream = (self.sequence_length, self.sequence_batch_size), streams["objective"]
        grid = self.masking.draw(streams["masking"], self.sequence_batch_size)
        return MLRNoise(grid, *(self.augmentation.draw(stream, lead) for _ in range(2)))

    def loss(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> tuple[Tensor, Metrics]:
        """Mean error over all K * B' positions, masked or not, or over those with a mask."""
        errors = self.errors(encoder, windows_of(batch), noise)
        if self.settings.loss_positions == "all":
            loss = errors.mean()
        else:
            counts = self.masking.steps(noise.grid).expand(errors.shape)
            loss = (errors * counts).sum() / counts.sum().clamp_min(1)
        return loss, {"loss/mlr": loss.detach()}

    def errors(self, encoder: Encoder, sequence: SequenceBatch, noise: MLRNoise) -> Tensor:
        """Of each position, (K, B'): distance of latents; or mean square of (hidden) pixels."""
        if self.pixel_decoder is None:
            # First, so that its images are gone before the gradient branch needs the memory.
            target = self.target_projection(self.target_latents(sequence, noise))
            return distance(self.predictions(encoder, sequence, noise), target)
        images = self.pixel_decoder(self.decoded(encoder, sequence, noise).flatten(0, 1))
        target = self.augmentation(sequence.obs, noise.online)
        errors = (images - target).square().mean(dim=1)
        if self.settings.loss_positions == "all":
            return errors.mean(dim=(1, 2)).view(sequence.obs.lead)
        frames = self.masking.frames(noise.grid, sequence.obs.lead[1])
        hidden = (self.augmentation(frames, noise.online) > 0).squeeze(1)
        errors = (errors * hidden).sum(dim=(1, 2)) / hidden.sum(dim=(1, 2)).clamp_min(1)
        return errors.view(sequence.obs.lead)

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

    def predictions(self, encoder: Encoder, sequence: SequenceBatch, noise: MLRNoise) -> Tensor:
        """y: predicted projections of the decoded latents, (K, B', Z)."""
        return self.predictor(self.projection(self.decoded(encoder, sequence, noise)))

    def decoded(self, encoder: Encoder, sequence: SequenceBatch, noise: MLRNoise) -> Tensor:
        """ŝ: latents decoded from the masked images, (K, B', Z)."""
        latents = encoder(self.masked_images(sequence, noise)).unflatten(0, sequence.obs.lead)
        if self.token is not None:
            hidden = self.masking.steps(noise.grid)[..., None]
            latents = torch.where(hidden, self.token, latents)
        with encoder.autocast():
            states, actions = latents.transpose(0, 1), sequence.action.transpose(0, 1)
            return self.decoder(states, actions).transpose(0, 1).float()

    def masked_images(self, sequence: SequenceBatch, noise: MLRNoise) -> Tensor:
        """Masked, unless latents are, then augmented: float32 (K * B', S*C, H, W)."""
        hidden = None
        if self.token is None:
            hidden = self.masking.frames(noise.grid, sequence.obs.lead[1])
        return self.augmentation(sequence.obs, noise.online, hidden)

    @torch.no_grad()
    def target_latents(self, sequence: SequenceBatch, noise: MLRNoise) -> Tensor:
        """s̄: momentum latents of the whole images, (K, B', Z)."""
        images = self.augmentation(sequence.obs, noise.target)
        return self.target_encoder(images).unflatten(0, sequence.obs.lead)

    def learning_rate_factor(self, update_step: int) -> float:
        """Warm-up, then inverse square root (published code)."""
        warmup, start = self.settings.warmup_updates, self.settings.warmup_start
        return warmup_inverse_sqrt(update_step, warmup, start)

    @torch.no_grad()
    def diagnostics(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> dict[str, float]:
        """Similarity and collapse watch on the first sequences of the batch."""
        few = slice(16)
        sequence, noise = windows_of(batch).select(few), noise.select(few)
        latents = self.target_latents(sequence, noise)
        prediction = self.predictions(encoder, sequence, noise)
        masked = self.masking.expand(noise.grid).float().mean().item()
        values = health("mlr", prediction, self.target_projection(latents), latents)
        return values | {"mlr/masked_fraction": masked}

    @torch.no_grad()
    def preview(self, batch: Batch, noise: MLRNoise) -> Tensor:
        """The first sequence in time: original, masked input, target; rows."""
        sequence, noise = windows_of(batch).select(slice(1)), noise.select(slice(1))
        target = self.augmentation(sequence.obs, noise.target)
        return picture(sequence.obs, [self.masked_images(sequence, noise), target])
