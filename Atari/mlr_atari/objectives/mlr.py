"""Mask-based latent reconstruction (MLR paper, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch
from ..frames import FrameStacks
from ..losses import one_hot
from ..momentum import make_target
from ..networks import Encoder, Projection, QNetwork, feature_shape
from ..optimization import ClipGroup
from ..run.schema import bounded, choice
from .decoder import LatentDecoder, check_heads
from .heads import distance, health, health_names, picture
from .interface import Metrics, Objective, Streams
from .masking import MODES, PER, CubeMasking, check_patches, mask_frames, masked_steps
from .pixels import PixelDecoder, pixel_errors


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Keys of configs/agent/mlr.yaml, which says what each one is."""

    mlr_weight: float = bounded(0)
    sequence_length: int = bounded(1, 1024)
    mask_ratio: float = bounded(0, 1)
    patch_size: int = bounded(1)
    cube_depth: int = bounded(1)
    mask_mode: str = choice(*MODES)
    mask_per: str = choice(*PER)
    mask_polarity: str = choice("masked", "kept")
    mask_level: str = choice("pixel", "latent")
    masked_input_scale: int = choice(1, 255)
    decoder_depth: int = bounded(1, 64)
    decoder_heads: int = bounded(1, 4096)
    decoder_width: int | None = bounded(1)
    decoder_mlp_ratio: float = bounded(above=0)
    decoder_actions: bool
    projection_heads: bool
    reconstruction: str = choice("latent", "pixel")
    loss_positions: str = choice("all", "masked")
    target_ema_tau: float | None = bounded(0, 1)


@dataclass(frozen=True)
class MLRNoise:
    """Random numbers of one update.

    Attributes:
        grid: bool (blocks, n, n), or (B, blocks, n, n) with a mask per sequence; True = drawn.
        online, target: augmentation of the masked and of the original images, lead (K, B).
    """

    grid: Tensor
    online: AugmentationNoise
    target: AugmentationNoise

    def select(self, some: slice) -> MLRNoise:
        """The numbers of some of the sequences."""
        key = (slice(None), some)
        grid = self.grid if self.grid.ndim == 3 else self.grid[some]
        return MLRNoise(grid, self.online.select(key), self.target.select(key))


class MLR(Objective):
    """Reconstruct, from masked observations and actions, the latents of the unmasked ones.

    The momentum targets follow before the optimiser's step, as published: with tau = 1 they are
    the online weights of one update ago.
    """

    settings_type = Settings
    metric_names = ("loss/mlr",)
    diagnostic_names = ("mlr/masked_fraction", *health_names("mlr"))
    targets_move = "before_step"

    def __init__(self, settings: Settings, network: QNetwork, augmentation: Augmentation) -> None:
        """Raises: ConfigError: patches do not tile the image, or heads do not divide the width."""
        super().__init__(settings, network, augmentation)
        self.num_actions = network.head.num_actions
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
            network.encoder.latent_dim,
            self.num_actions,
            settings.decoder_depth,
            settings.decoder_heads,
            settings.decoder_mlp_ratio,
            settings.decoder_width,
            use_actions=settings.decoder_actions,
        )
        tau, self.token, self.pixel_decoder = settings.target_ema_tau, None, None
        projection: nn.Module = nn.Identity()
        self.predictor: nn.Module = nn.Identity()
        if settings.reconstruction == "pixel":
            self.pixel_decoder = PixelDecoder(network.encoder, augmentation.image_size)
            tau = None  # pixels need neither heads nor momentum
        elif settings.projection_heads:
            head = Projection(network.head)
            projection, self.predictor = head, nn.Linear(head.out_features, head.out_features)
        if settings.mask_level == "latent":
            self.token = nn.Parameter(torch.zeros(network.encoder.latent_dim))
        self.target_encoder = make_target(network.encoder, tau)
        self.target_projection = make_target(projection, tau)
        # A tuple, because the projection's layers belong to the head and not to this module.
        self._projection = (projection,)

    @classmethod
    def check(cls, settings: Any, image_size: int) -> None:
        check_patches(settings.patch_size, image_size)
        latent_dim = math.prod(feature_shape(image_size, settings.encoder, settings.num_filters))
        check_heads(settings.decoder_heads, settings.decoder_width or latent_dim)

    def draw_noise(self, streams: Streams, views: AugmentationNoise) -> MLRNoise:
        """Of stream `masking` the grid, of `objective` online and target, in this order."""
        lead = (self.sequence_length, self.batch_size)
        return MLRNoise(
            self.masking.draw(streams["masking"], self.batch_size),
            self.augmentation.draw(streams["objective"], lead),
            self.augmentation.draw(streams["objective"], lead),
        )

    def loss(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> tuple[Tensor, Metrics]:
        """Mean over all K positions, masked or not, and over the batch by importance weight."""
        errors = self.errors(encoder, batch, noise)  # (K, B)
        if self.settings.loss_positions == "all":
            losses = errors.mean(dim=0)
        else:
            counts = self.hidden_steps(noise.grid).expand(errors.shape)
            losses = (errors * counts).sum(dim=0) / counts.sum(dim=0).clamp_min(1)
        return (losses * batch.importance_weights).mean(), {"loss/mlr": losses.detach().mean()}

    def errors(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> Tensor:
        """Of each position, (K, B)."""
        if self.pixel_decoder is None:
            # First, so that its images are gone before the gradient branch needs the memory.
            target = self.target_projection(self.target_latents(batch, noise))
            return distance(self.predictions(encoder, batch, noise), target)
        with encoder.autocast():
            images = self.pixel_decoder(self.decoded(encoder, batch, noise).flatten(0, 1)).float()
        target, hidden = self.augmentation(batch.obs, noise.online), None
        if self.settings.loss_positions == "masked":
            frames = mask_frames(self.hidden_pixels(noise.grid), batch.obs.lead[1])
            hidden = self.augmentation(frames, noise.online) > 0
        return pixel_errors(images, target, hidden).view(batch.obs.lead)

    def predictions(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> Tensor:
        """y: predicted projections of the decoded latents, (K, B, P)."""
        (projection,) = self._projection
        return self.predictor(projection(self.decoded(encoder, batch, noise)))

    def decoded(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> Tensor:
        """ŝ: latents decoded from the masked images, (K, B, Z)."""
        if self.token is None:
            images = self.masked_images(batch.obs, noise)
        else:
            images = self.augmentation(batch.obs, noise.online)
        latents = encoder(images).flatten(1).unflatten(0, batch.obs.lead)
        if self.token is not None:
            latents = torch.where(self.hidden_steps(noise.grid)[..., None], self.token, latents)
        action = one_hot(batch.action, self.num_actions)
        with encoder.autocast():
            states, actions = latents.transpose(0, 1), action.transpose(0, 1)
            return self.decoder(states, actions).transpose(0, 1).float()

    @torch.no_grad()
    def target_latents(self, batch: Batch, noise: MLRNoise) -> Tensor:
        """s̄: momentum latents of the whole images, (K, B, Z)."""
        images = self.augmentation(batch.obs, noise.target)
        return self.target_encoder(images).flatten(1).unflatten(0, batch.obs.lead)

    def masked_images(self, obs: FrameStacks, noise: MLRNoise) -> Tensor:
        """Masked, then augmented: float32 (K * B, S*C, H, W)."""
        hidden = mask_frames(self.hidden_pixels(noise.grid), obs.lead[1])
        scale = self.settings.masked_input_scale / 255
        return self.augmentation(obs, noise.online, hidden, scale)

    def clip_groups(self) -> Sequence[ClipGroup]:
        """The decoder; its action embedding and the predictor stay unclipped (published code)."""
        embedding = self.decoder.action_embedding
        unclipped = set() if embedding is None else set(embedding.parameters())
        own = [each for each in self.decoder.parameters() if each not in unclipped]
        if self.pixel_decoder is not None:
            own += self.pixel_decoder.parameters()
        return [ClipGroup("decoder", own if self.token is None else [*own, self.token])]

    def hidden_steps(self, grid: Tensor) -> Tensor:
        """Steps of which anything is hidden, bool (K, 1), or (K, B) for a mask per sequence."""
        return masked_steps(self.hidden_pixels(grid))

    def hidden_pixels(self, grid: Tensor) -> Tensor:
        """Hidden pixels of each step, bool (K, H, W), or (B, K, H, W) for a mask per sequence."""
        pixels = self.masking.pixels(grid)
        return pixels if self.settings.mask_polarity == "masked" else ~pixels

    @torch.no_grad()
    def diagnostics(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> dict[str, float]:
        """Similarity to the targets, and the collapse watch of `health`."""
        latents = self.target_latents(batch, noise)
        target = self.target_projection(latents)
        prediction = self.predictions(encoder, batch, noise)
        masked = self.hidden_pixels(noise.grid).float().mean().item()
        return {"mlr/masked_fraction": masked, **health("mlr", prediction, target, latents)}

    @torch.no_grad()
    def preview(self, batch: Batch, noise: MLRNoise) -> Tensor:
        """Newest frames of the first sequence: originals, masked inputs and targets, in rows."""
        some = slice(1)
        obs, noise = batch.obs.select((slice(None), some)), noise.select(some)
        rows = [
            obs.dense()[:, 0],
            self.masked_images(obs, noise) * (255 / self.settings.masked_input_scale),
            self.augmentation(obs, noise.target, scale=1.0),
        ]
        return picture(rows)
