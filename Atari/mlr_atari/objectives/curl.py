"""CURL: two views of an observation are each other's nearest (Srinivas et al. 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch
from ..errors import ConfigError
from ..frames import FrameStacks
from ..momentum import MomentumTarget
from ..networks import Encoder, QNetwork
from ..optimization import ClipGroup
from ..run.schema import bounded, choice
from ..run.seeding import Streams
from .interface import Metrics, Objective
from .latents import health, health_names, picture


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Keys of configs/agent/curl.yaml, which says what each one is."""

    curl_weight: float = bounded(0)
    contrast_hidden_dim: int = bounded(1)
    contrast_dim: int = bounded(1)
    logit_scale: float = bounded(above=0)
    crop_margin: int = bounded(1, 480)
    target_ema_tau: float = bounded(0, 1)
    clip_with: str = choice("itself", "network")


@dataclass(frozen=True)
class CURLNoise:
    """Offsets of the two views, int64 (B, 2, 2): first and second crop, row and column."""

    query: Tensor
    key: Tensor


def crop_pad_crop(stacks: FrameStacks, offsets: Tensor, margin: int) -> Tensor:
    """Crop `margin` pixels away, repeat the border `margin` times, crop to the old size.

    Stacks (B,), offsets in [0, margin] of `CURLNoise` -> uint8 (B, S*C, H, W), channels last.
    """
    images = stacks.dense()
    side = images.shape[-1]
    place = torch.arange(side, device=images.device)
    inner = (offsets[:, 1, :, None] + place - margin).clamp(0, side - margin - 1)
    row, column = (offsets[:, 0, :, None] + inner).unbind(1)  # (B, H) and (B, W)
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    return images[sample, :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)


def contrast(query: Tensor, key: Tensor, matrix: Tensor, scale: float) -> Tensor:
    """Logits scale * (z W z̄ᵀ - row maximum), (B, D), (B, D), (D, D) -> (B, B)."""
    logits = query @ matrix @ key.t()
    return scale * (logits - logits.amax(dim=1, keepdim=True))


class ContrastHead(nn.Module):
    """LN(W_c ReLU(LN(W_h f + b_h)) + b_c); LN has no weights, W_h and W_c are uniform in [0, 1)."""

    def __init__(self, latent_dim: int, hidden_dim: int, contrast_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(latent_dim, hidden_dim)
        self.out = nn.Linear(hidden_dim, contrast_dim)
        for layer in (self.hidden, self.out):
            nn.init.uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, latents: Tensor) -> Tensor:
        """(N, F) -> (N, D)."""
        hidden = F.relu(F.layer_norm(self.hidden(latents), (self.hidden.out_features,)))
        return F.layer_norm(self.out(hidden), (self.out.out_features,))


class CURL(Objective):
    """Among the keys of a batch, find the one that shows the same stack."""

    settings_type = Settings
    metric_names = ("loss/curl",)
    diagnostic_names = (*health_names("curl"), "curl/accuracy")

    def __init__(self, settings: Settings, network: QNetwork, augmentation: Augmentation) -> None:
        super().__init__(settings, network, augmentation)
        size, tau = settings.contrast_dim, settings.target_ema_tau
        self.head = ContrastHead(network.encoder.latent_dim, settings.contrast_hidden_dim, size)
        self.matrix = nn.Parameter(nn.init.uniform_(torch.empty(size, size)))
        self.target_encoder = MomentumTarget(network.encoder, tau)
        self.target_head = MomentumTarget(self.head, tau)
        # A tuple, because its weights belong to the agent and not to this module.
        self._network = (network,)

    @classmethod
    def check(cls, settings: Any, image_size: int) -> None:
        """Something is left of the image."""
        if settings.crop_margin >= image_size:
            raise ConfigError(
                f"agent.crop_margin={settings.crop_margin}: cuts away the image's {image_size} "
                f"pixels; use a smaller one"
            )

    def draw_noise(self, streams: Streams, views: AugmentationNoise) -> CURLNoise:
        """Of stream `objective` query and key, in this order."""
        shape, high = (self.batch_size, 2, 2), self.settings.crop_margin + 1
        stream = streams["objective"]
        return CURLNoise(*(torch.randint(high, shape, generator=stream) for _ in range(2)))

    def loss(self, encoder: Encoder, batch: Batch, noise: CURLNoise) -> tuple[Tensor, Metrics]:
        """Mean cross-entropy over the batch, times the mean importance weight (published)."""
        logits = self.logits(*self.projections(encoder, batch, noise)[:2])
        loss = F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
        return loss * batch.importance_weights.mean(), {"loss/curl": loss.detach()}

    def projections(self, encoder: Encoder, batch: Batch, noise: CURLNoise) -> tuple[Tensor, ...]:
        """z and z̄ of the two views, (B, D), and the latents of z̄, (B, F); the latter constant."""
        obs = batch.obs.select(0)
        latents = self.target_encoder(self.view(obs, noise.key)).flatten(1)
        key = self.target_head(latents)
        return self.head(encoder(self.view(obs, noise.query)).flatten(1)), key, latents

    def logits(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, B), of each query the keys in a row."""
        return contrast(query, key, self.matrix, self.settings.logit_scale)

    def view(self, obs: FrameStacks, offsets: Tensor) -> Tensor:
        """Of stacks (B,): float32 (B, S*C, H, W) in [0, 1]."""
        return crop_pad_crop(obs, offsets, self.settings.crop_margin).float() * (1 / 255)

    def clip_groups(self) -> Sequence[ClipGroup]:
        """One group for the head and W, or as published one for them and the network."""
        own = [*self.head.parameters(), self.matrix]
        if self.settings.clip_with == "itself":
            return [ClipGroup("contrast", own)]
        (network,) = self._network
        return [ClipGroup("network", [*network.parameters(), *own])]

    @torch.no_grad()
    def diagnostics(self, encoder: Encoder, batch: Batch, noise: CURLNoise) -> dict[str, float]:
        """Collapse watch of the views' projections; share of queries that find their key."""
        query, key, latents = self.projections(encoder, batch, noise)
        nearest = self.logits(query, key).argmax(dim=1)
        hits = nearest == torch.arange(len(nearest), device=nearest.device)
        values = health("curl", query, key, latents)
        return {**values, "curl/accuracy": hits.float().mean().item()}

    @torch.no_grad()
    def preview(self, batch: Batch, noise: CURLNoise) -> Tensor:
        """Up to 8 stacks: original, query and key view, in rows."""
        obs = batch.obs.select((0, slice(8)))
        return picture(obs, [self.view(obs, offsets[:8]) for offsets in (noise.query, noise.key)])
