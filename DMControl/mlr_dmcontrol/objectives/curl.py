"""CURL: two views of an observation are each other's nearest (Laskin et al. 2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch
from ..networks import Encoder, Networks
from ..run.schema import bounded, choice
from ..run.seeding import Streams
from .interface import Metrics, Objective
from .latents import health, health_names, picture


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Keys of configs/agent/curl.yaml, which says what each one is."""

    curl_weight: float = bounded(0)
    batch_size: int = bounded(1)
    targets_move: str = choice("after_step", "before_step")
    objective_encoder_learning_rate_scale: float = bounded(above=0)
    objective_learning_rate_scale: float = bounded(above=0)


@dataclass(frozen=True)
class CURLNoise:
    """Random numbers of one update: the critic's view, and the key's, lead (B,)."""

    anchor: AugmentationNoise
    key: AugmentationNoise


def similarities(anchor: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """Logits a W kᵀ minus each row's largest: (B, Z), (B, Z), (Z, Z) -> (B, B)."""
    logits = anchor @ (weight @ key.T)
    return logits - logits.amax(dim=1, keepdim=True)


def info_nce(anchor: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """Mean cross-entropy of picking, for each anchor, the key of the same row."""
    labels = torch.arange(len(anchor), device=anchor.device)
    return F.cross_entropy(similarities(anchor, key, weight), labels)


class CURL(Objective):
    """Contrast the critic's latents with those of another view by the critic target's encoder."""

    settings_type = Settings
    metric_names = ("loss/curl",)
    diagnostic_names = health_names("curl")

    def __init__(self, settings: Settings, networks: Networks, augmentation: Augmentation) -> None:
        super().__init__(settings, networks, augmentation)
        self.targets_move = settings.targets_move
        latent_dim = networks.encoder.latent_dim
        self.bilinear = nn.Parameter(nn.init.uniform_(torch.empty(latent_dim, latent_dim)))
        self._key_encoder = (networks.encoder_target,)  # a tuple keeps it from being registered

    def draw_noise(self, streams: Streams, views: AugmentationNoise) -> CURLNoise:
        """Of stream `objective` the key; the anchor is the critic's first view."""
        key = self.augmentation.draw(streams["objective"], (self.settings.batch_size,))
        return CURLNoise(views.select(0), key)

    def loss(self, encoder: Encoder, batch: Batch, noise: CURLNoise) -> tuple[Tensor, Metrics]:
        """Gradient for the encoder and W, none for the key's side."""
        loss = info_nce(*self.latents(encoder, batch, noise), self.bilinear)
        return loss, {"loss/curl": loss.detach()}

    def latents(self, encoder: Encoder, batch: Batch, noise: CURLNoise) -> tuple[Tensor, Tensor]:
        """z and z̄ of the two views, (B, Z); no gradient for z̄."""
        key = self._key_encoder[0](self.augmentation(batch.obs, noise.key))
        return encoder(self.augmentation(batch.obs, noise.anchor)), key

    @torch.no_grad()
    def diagnostics(self, encoder: Encoder, batch: Batch, noise: CURLNoise) -> dict[str, float]:
        """Similarity of the views' latents, and collapse watch."""
        anchor, key = self.latents(encoder, batch, noise)
        return health("curl", anchor, key, key)

    @torch.no_grad()
    def preview(self, batch: Batch, noise: CURLNoise) -> Tensor:
        """The first observations: whole, the anchor's view, the key's; rows."""
        obs, some = batch.obs.select(slice(6)), slice(6)
        views = (noise.anchor.select(some), noise.key.select(some))
        return picture(obs, [self.augmentation(obs, view) for view in views])
