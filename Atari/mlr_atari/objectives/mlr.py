"""Mask-based latent reconstruction (MLR paper, section 3; ALGORITHM.md section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch
from ..frames import FrameStacks
from ..losses import one_hot
from ..momentum import MomentumTarget
from ..networks import ConvEncoder, Projection, QNetwork
from ..settings import bounded, choice
from .decoder import LatentDecoder
from .heads import distance, health, health_names, picture
from .interface import Metrics, Objective, Streams
from .masking import MODES, PER, CubeMasking


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Keys of configs/agent/mlr.yaml, which says what each one is."""

    mlr_weight: float = bounded(0)
    sequence_length: int = bounded(1)
    mask_ratio: float = bounded(0, 1)
    patch_size: int = bounded(1)
    cube_depth: int = bounded(1)
    mask_mode: str = choice(*MODES)
    mask_per: str = choice(*PER)
    mask_polarity: str = choice("masked", "kept")
    masked_input_scale: int = choice(1, 255)
    decoder_depth: int = bounded(1)
    decoder_heads: int = bounded(1)
    decoder_width: int | None = bounded(1)
    decoder_mlp_ratio: float = bounded(above=0)
    decoder_actions: bool
    target_ema_tau: float = bounded(0, 1)


class MLRNoise(NamedTuple):
    """Random numbers of one update; leading shapes of both augmentations are (K, B)."""

    grid: Tensor  # bool (blocks, n, n), or (B, blocks, n, n): the patches that were drawn
    online: AugmentationNoise  # of the masked images
    target: AugmentationNoise

    def to(self, device: torch.device | str) -> MLRNoise:
        """The same draws on another device."""
        grid = self.grid.to(device, non_blocking=True)
        return MLRNoise(grid, self.online.to(device), self.target.to(device))


class MLR(Objective):
    """Reconstruct, from masked observations and actions, the latents of the unmasked ones.

    The momentum targets follow before the optimiser's step, as published: with tau = 1 they are
    the online weights of one update ago.
    """

    settings_type = Settings
    metric_names = ("loss/mlr",)
    diagnostic_names = ("mlr/masked_fraction", *health_names("mlr"))
    targets_move = "before_step"

    def __init__(
        self, settings: Settings, network: QNetwork, augmentation: Augmentation, batch_size: int
    ) -> None:
        """Raises: ConfigError: patches do not tile the image, or heads do not divide the width."""
        super().__init__(settings, network, augmentation, batch_size)
        self.settings, self.augmentation, self.batch_size = settings, augmentation, batch_size
        self.num_actions = network.head.num_actions
        self.masking = CubeMasking(
            augmentation.image_size,
            settings.patch_size,
            settings.sequence_length,
            settings.cube_depth,
            settings.mask_ratio,
            settings.mask_mode,
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
        projection = Projection(network.head)
        self.predictor = nn.Linear(projection.out_features, projection.out_features)
        self.target_encoder = MomentumTarget(network.encoder, settings.target_ema_tau)
        self.target_projection = MomentumTarget(projection, settings.target_ema_tau)
        # A tuple, because the projection's layers belong to the head and not to this module.
        self._projection = (projection,)

    def draw_noise(self, streams: Streams, rl_view: AugmentationNoise) -> MLRNoise:
        del rl_view  # masked images are augmented by themselves
        lead = (self.settings.sequence_length, self.batch_size)
        return MLRNoise(
            self.masking.draw(streams["masking"], self.batch_size),
            self.augmentation.draw(streams["objective"], lead),
            self.augmentation.draw(streams["objective"], lead),
        )

    def loss(self, encoder: ConvEncoder, batch: Batch, noise: MLRNoise) -> tuple[Tensor, Metrics]:
        """Mean over all K positions, masked or not, and over the batch by importance weight."""
        # First, so that its images are gone before the gradient branch needs the memory.
        target = self.target_projection(self.target_latents(batch, noise))
        distances = distance(self.predictions(encoder, batch, noise), target)  # (K, B)
        loss = (distances.mean(dim=0) * batch.importance_weights).mean()
        return loss, {"loss/mlr": distances.detach().mean()}

    def predictions(self, encoder: ConvEncoder, batch: Batch, noise: MLRNoise) -> Tensor:
        """y: predicted projections of the decoded latents, (K, B, P)."""
        (projection,) = self._projection
        return self.predictor(projection(self.decoded(encoder, batch, noise)))

    def decoded(self, encoder: ConvEncoder, batch: Batch, noise: MLRNoise) -> Tensor:
        """ŝ: latents decoded from the masked images, (K, B, Z)."""
        images = self.masked_images(batch.obs, noise)
        latents = encoder(images.flatten(0, 1)).flatten(1).unflatten(0, batch.obs.lead)
        action = one_hot(batch.action, self.num_actions)
        with encoder.autocast():
            return (
                self.decoder(latents.transpose(0, 1), action.transpose(0, 1))
                .transpose(0, 1)
                .float()
            )

    @torch.no_grad()
    def target_latents(self, batch: Batch, noise: MLRNoise) -> Tensor:
        """s̄: momentum latents of the whole images, (K, B, Z)."""
        images = self.augmentation(batch.obs, noise.target)
        return self.target_encoder(images.flatten(0, 1)).flatten(1).unflatten(0, batch.obs.lead)

    def masked_images(self, obs: FrameStacks, noise: MLRNoise) -> Tensor:
        """Masked, then augmented: float32 (K, B, S*C, H, W)."""
        length, batch_size = obs.lead
        visible = (~self.masked_steps(noise.grid)).to(torch.uint8).flatten(0, -3)[:, None]
        # One mask frame per step, or per sequence and step; stacks of one frame each.
        index = torch.arange(len(visible), device=visible.device).view(-1, length).t()
        shown = FrameStacks(visible, index.expand(length, batch_size)[..., None])
        scale = self.settings.masked_input_scale / 255
        return self.augmentation(obs, noise.online, visible=shown, scale=scale)

    def update_targets(self) -> None:
        self.target_encoder.update()
        self.target_projection.update()

    def clip_groups(self) -> dict[str, list[nn.Parameter]]:
        """The decoder; its action embedding and the predictor stay unclipped (REFERENCE A-6)."""
        embedding = self.decoder.action_embedding
        unclipped = set() if embedding is None else set(embedding.parameters())
        return {"decoder": [each for each in self.decoder.parameters() if each not in unclipped]}

    def masked_steps(self, grid: Tensor) -> Tensor:
        """Hidden pixels of each step, bool (K, H, W), or (B, K, H, W) for a mask per sequence."""
        pixels = self.masking.pixels(grid)
        return pixels if self.settings.mask_polarity == "masked" else ~pixels

    @torch.no_grad()
    def diagnostics(self, encoder: ConvEncoder, batch: Batch, noise: MLRNoise) -> dict[str, float]:
        """Similarity to the targets, and the collapse watch of `health`."""
        latents = self.target_latents(batch, noise)
        target = self.target_projection(latents)
        prediction = self.predictions(encoder, batch, noise)
        masked = self.masked_steps(noise.grid).float().mean().item()
        return {"mlr/masked_fraction": masked, **health("mlr", prediction, target, latents)}

    @torch.no_grad()
    def preview(self, batch: Batch, noise: MLRNoise) -> Tensor:
        """Newest frames of the first sequence: originals, masked inputs and targets, in rows."""
        scale = 255 / self.settings.masked_input_scale
        return picture(
            [
                batch.obs.dense()[:, 0],
                self.masked_images(batch.obs, noise)[:, 0] * scale,
                self.augmentation(batch.obs, noise.target, scale=1.0)[:, 0],
            ]
        )
