"""The predictive latent decoder: a small transformer over states and actions (paper, 3.2)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..run.schema import bounded


@dataclass(frozen=True, kw_only=True)
class DecoderSettings:
    """Keys of the decoder's sizes. `decoder_width`: None is the latents', without a map."""

    decoder_depth: int = bounded(1, 64)
    decoder_heads: int = bounded(1, 4096)
    decoder_width: int | None = bounded(1)
    decoder_mlp_ratio: float = bounded(above=0)
    decoder_actions: bool


def sinusoidal_positions(length: int, width: int) -> Tensor:
    """Position table, float32 (length, width): sines in the even columns, cosines in the odd."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    even = torch.arange(0, width, 2, dtype=torch.float32)
    angle = position * torch.exp(even * (-math.log(10000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]


class Attention(nn.Module):
    """Attention of the first `queries` tokens to all tokens; no mask, no dropout, no QKV bias.

    Queries have a weight of their own, because the last block computes fewer of them.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, queries: int) -> Tensor:
        """tokens (B, T, W) -> (B, queries, W)."""
        parts = self.query(tokens[:, :queries]), *self.key_value(tokens).chunk(2, dim=-1)
        query, key, value = (  # (B, heads, T, W / heads)
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts
        )
        # Written out: T is at most a few dozen, and the same kernels run on every device.
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)
        return self.output((weights.to(value.dtype) @ value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block with exact GELU."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = max(1, int(width * mlp_ratio))
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor, queries: int) -> Tensor:
        """tokens (B, T, W) -> the first `queries` of them, (B, queries, W)."""
        attended = tokens[:, :queries] + self.attention(self.norm1(tokens), queries)
        return attended + self.mlp(self.norm2(attended))


class LatentDecoder(nn.Module):
    """Reconstructs the latents of all steps from those of the masked ones and the actions.

    State and action of a step share its position; attention has no order besides, so tokens are
    simply all states, then all actions. There is no final normalisation.
    """

    positions: Tensor

    def __init__(
        self, settings: DecoderSettings, latent_dim: int, action_dim: int, length: int
    ) -> None:
        """Args: `latent_dim`: Z. `action_dim`: A. `length`: K, or more."""
        super().__init__()
        given, heads = settings.decoder_width, settings.decoder_heads
        width, ratio = given or latent_dim, settings.decoder_mlp_ratio
        self.action_embedding = nn.Linear(action_dim, width) if settings.decoder_actions else None
        self.narrow = nn.Linear(latent_dim, width) if given else nn.Identity()
        self.widen = nn.Linear(width, latent_dim) if given else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(width, heads, ratio) for _ in range(settings.decoder_depth)
        )
        self.register_buffer("positions", sinusoidal_positions(length, width), persistent=False)

    def embed(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Tokens (B, 2K, W), the K states first; without actions (B, K, W)."""
        positions = self.positions[: latents.shape[1]]
        states = self.narrow(latents) + positions
        if self.action_embedding is None:
            return states
        return torch.cat([states, self.action_embedding(actions) + positions], dim=1)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """latents (B, K, Z), actions (B, K, A; floats, or one-hot) -> (B, K, Z)."""
        tokens, (*blocks, last) = self.embed(latents, actions), self.blocks
        for block in blocks:
            tokens = block(tokens, tokens.shape[1])
        # Only the states' outputs are used, so the last block computes no others.
        return self.widen(last(tokens, latents.shape[1]))
