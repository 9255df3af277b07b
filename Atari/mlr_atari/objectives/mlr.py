"""Mask-based latent reconstruction (MLR paper, section 3)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch
from ..frames import FrameStacks
from ..losses import one_hot
from ..momentum import MomentumTarget
from ..networks import Encoder, Projection, QNetwork, feature_shape
from ..optimization import ClipGroup
from ..run.schema import bounded, choice
from ..run.seeding import Streams
from .decoder import DecoderSettings, LatentDecoder
from .interface import Metrics, Objective
from .latents import check_divides, distance, health, health_names, picture
from .masking import CubeMasking, MaskSettings


@dataclass(frozen=True, kw_only=True)
class Settings(MaskSettings, DecoderSettings):
    """Keys of configs/agent/mlr.yaml, which says what each one is."""

    mlr_weight: float = bounded(0)
    mask_polarity: str = choice("masked", "kept")
    masked_input_scale: int = choice(1, 255)
    projection_heads: bool
    reconstruction: str = choice("latent", "pixel")
    loss_positions: str = choice("all", "masked")
    target_ema_tau: float | None = bounded(0, 1)


@dataclass(frozen=True)
class MLRNoise:
    """Random numbers of one update."""

    grid: Tensor  # bool (blocks, n, n), or (B, blocks, n, n): a mask each; True = drawn
    online: AugmentationNoise  # of the masked images, lead (K, B)
    target: AugmentationNoise  # of the original images, lead (K, B)

    def select(self, some: slice) -> "MLRNoise":
        """The numbers of some of the sequences."""
        key = (slice(None), some)
        grid = self.grid if self.grid.ndim == 3 else self.grid[some]
        return MLRNoise(grid, self.online.select(key), self.target.select(key))


class PixelDecoder(nn.Module):
    """The encoder's convolutions backwards: transposed, of the same kernels and strides."""

    def __init__(self, encoder: Encoder, image_size: int) -> None:
        super().__init__()
        self.feature_shape = encoder.feature_shape
        side, layers = image_size, list[nn.Module]()
        for layer in encoder.modules():
            if isinstance(layer, nn.Conv2d):
                kernel, stride = int(layer.kernel_size[0]), int(layer.stride[0])
                sizes = layer.out_channels, layer.in_channels, kernel, stride
                # What the encoder's layer leaves over at the border is put back.
                rest = (side - kernel) % stride
                layers.insert(0, nn.ConvTranspose2d(*sizes, output_padding=rest))
                side = (side - kernel) // stride + 1
        self.layers = nn.ModuleList(layers)

    def forward(self, latents: Tensor) -> Tensor:
        """(N, Z) -> (N, S*C, H, W)."""
        images = latents.unflatten(1, self.feature_shape)
        for i, layer in enumerate(self.layers):
            images = layer(F.relu(images) if i else images)
        return images


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
        super().__init__(settings, network, augmentation)
        encoder, latent_dim = network.encoder, network.encoder.latent_dim
        self.num_actions = network.head.num_actions
        self.masking = CubeMasking(settings, augmentation.image_size)
        sizes = latent_dim, self.num_actions, settings.sequence_length
        self.decoder = LatentDecoder(settings, *sizes)
        pixels = settings.reconstruction == "pixel"  # which need neither heads nor momentum
        latents = settings.mask_level == "latent"
        self.token = nn.Parameter(torch.zeros(latent_dim)) if latents else None
        self.pixel_decoder = PixelDecoder(encoder, augmentation.image_size) if pixels else None
        projection: nn.Module = nn.Identity()
        self.predictor: nn.Module = nn.Identity()
        if settings.projection_heads and not pixels:
            projection = Projection(network.head)
            self.predictor = nn.Linear(projection.out_features, projection.out_features)
        tau = None if pixels else settings.target_ema_tau
        self.target_encoder = MomentumTarget(encoder, tau)
        self.target_projection = MomentumTarget(projection, tau)
        # A tuple, because the projection's layers belong to the head and not to this module.
        self._projection = (projection,)

    @classmethod
    def check(cls, settings: Any, image_size: int) -> None:
        """Patches tile the image, and heads share out the width of a token."""
        latent_dim = math.prod(feature_shape(image_size, settings.encoder, settings.num_filters))
        width = settings.decoder_width or latent_dim
        check_divides("patch_size", settings.patch_size, image_size, "the image's pixels,")
        check_divides("decoder_heads", settings.decoder_heads, width, "the decoder's width")

    def draw_noise(self, streams: Streams, views: AugmentationNoise) -> MLRNoise:
        """Of stream `masking` the grid, of `objective` online and target, in this order."""
        lead, stream = (self.sequence_length, self.batch_size), streams["objective"]
        grid = self.masking.draw(streams["masking"], self.batch_size)
        return MLRNoise(grid, *(self.augmentation.draw(stream, lead) for _ in range(2)))

    def loss(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> tuple[Tensor, Metrics]:
        """Mean over K positions, all or those with a mask, and the batch by importance weight."""
        errors = self.errors(encoder, batch, noise)
        if self.settings.loss_positions == "all":
            losses = errors.mean(dim=0)
        else:
            counts = self.masking.steps(self.hidden(noise.grid)).expand(errors.shape)
            losses = (errors * counts).sum(dim=0) / counts.sum(dim=0).clamp_min(1)
        return (losses * batch.importance_weights).mean(), {"loss/mlr": losses.detach().mean()}

    def errors(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> Tensor:
        """Of each position, (K, B): distance of latents; or mean square of (hidden) pixels."""
        if self.pixel_decoder is None:
            # First, so that its images are gone before the gradient branch needs the memory.
            target = self.target_projection(self.target_latents(batch, noise))
            return distance(self.predictions(encoder, batch, noise), target)
        with encoder.autocast():
            images = self.pixel_decoder(self.decoded(encoder, batch, noise).flatten(0, 1)).float()
        target = self.augmentation(batch.obs, noise.online)
        errors = (images - target).square().mean(dim=1)
        if self.settings.loss_positions == "all":
            return errors.mean(dim=(1, 2)).view(batch.obs.lead)
        frames = self.hidden_pixels(batch.obs, noise)
        hidden = (self.augmentation(frames, noise.online) > 0).squeeze(1)
        errors = (errors * hidden).sum(dim=(1, 2)) / hidden.sum(dim=(1, 2)).clamp_min(1)
        return errors.view(batch.obs.lead)

    def predictions(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> Tensor:
        """y: predicted projections of the decoded latents, (K, B, P)."""
        (projection,) = self._projection
        return self.predictor(projection(self.decoded(encoder, batch, noise)))

    def decoded(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> Tensor:
        """ŝ: latents decoded from the masked images, (K, B, Z)."""
        images = self.masked_images(batch, noise)
        latents = encoder(images).flatten(1).unflatten(0, batch.obs.lead)
        if self.token is not None:
            hidden = self.masking.steps(self.hidden(noise.grid))[..., None]
            latents = torch.where(hidden, self.token, latents)
        action = one_hot(batch.action, self.num_actions)
        with encoder.autocast():
            states, actions = latents.transpose(0, 1), action.transpose(0, 1)
            return self.decoder(states, actions).transpose(0, 1).float()

    def masked_images(self, batch: Batch, noise: MLRNoise) -> Tensor:
        """Masked, unless latents are, then augmented: float32 (K * B, S*C, H, W)."""
        if self.token is not None:
            return self.augmentation(batch.obs, noise.online)
        hidden, scale = self.hidden_pixels(batch.obs, noise), self.settings.masked_input_scale / 255
        return self.augmentation(batch.obs, noise.online, hidden, scale)

    def hidden_pixels(self, obs: FrameStacks, noise: MLRNoise) -> FrameStacks:
        """Stacks of one frame, 1 where a pixel is hidden, lead (K, B)."""
        return self.masking.frames(self.hidden(noise.grid), obs.lead[1])

    def hidden(self, grid: Tensor) -> Tensor:
        """Which patches are hidden, where the drawn ones may be those that are kept."""
        return grid if self.settings.mask_polarity == "masked" else ~grid

    @torch.no_grad()
    def target_latents(self, batch: Batch, noise: MLRNoise) -> Tensor:
        """s̄: momentum latents of the whole images, (K, B, Z)."""
        images = self.augmentation(batch.obs, noise.target)
        return self.target_encoder(images).flatten(1).unflatten(0, batch.obs.lead)

    def clip_groups(self) -> Sequence[ClipGroup]:
        """The decoder; its action embedding and the predictor stay unclipped (published code)."""
        own = [p for name, p in self.decoder.named_parameters() if "action_embedding" not in name]
        if self.pixel_decoder is not None:
            own += self.pixel_decoder.parameters()
        return [ClipGroup("decoder", own if self.token is None else [*own, self.token])]

    @torch.no_grad()
    def diagnostics(self, encoder: Encoder, batch: Batch, noise: MLRNoise) -> dict[str, float]:
        """Similarity to the targets, and the collapse watch of `health`."""
        latents = self.target_latents(batch, noise)
        prediction = self.predictions(encoder, batch, noise)
        masked = self.masking.expand(self.hidden(noise.grid)).float().mean().item()
        values = health("mlr", prediction, self.target_projection(latents), latents)
        return {"mlr/masked_fraction": masked} | values

    @torch.no_grad()
    def preview(self, batch: Batch, noise: MLRNoise) -> Tensor:
        """The first sequence in time: original, masked input, target; rows."""
        some = slice(1)
        obs, noise = batch.obs.select((slice(None), some)), noise.select(some)
        masked = self.augmentation(obs, noise.online, self.hidden_pixels(obs, noise))
        return picture(obs, [masked, self.augmentation(obs, noise.target)])
