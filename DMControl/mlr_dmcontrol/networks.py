"""Networks of the SAC agent: pixel encoder, actor, twin critics, and their momentum targets.

Shapes: N images, F features of their convolutions, Z latent dimensions, A action dimensions.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from .augmentation import center_crop, to_float
from .errors import ConfigError
from .kernels import convolution_relu
from .momentum import MomentumTarget
from .run.schema import bounded, choice

_KERNEL = 3
_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """Keys of the section `agent` that say how its policy sees and acts."""

    crop_size: int = bounded(1)
    num_filters: int = bounded(1)
    conv_strides: tuple[int, ...] = bounded(1, 16)
    latent_dim: int = bounded(1)
    latent_tanh: bool
    hidden_dim: int = bounded(1)
    log_std_min: float
    log_std_max: float


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(PolicySettings):
    """And those that say how the networks start, and targets follow."""

    conv_init: str = choice("delta_orthogonal", "orthogonal")
    initial_temperature: float = bounded(above=0)
    critic_tau: float = bounded(0, 1)
    encoder_tau: float = bounded(0, 1)


def mlp(*widths: int) -> nn.Sequential:
    """Linear maps between these widths, with ReLU between them; of no widths, nothing."""
    layers: list[nn.Module] = []
    for incoming, outgoing in pairwise(widths):
        layers += [nn.Linear(incoming, outgoing), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


class LatentHead(nn.Module):
    """Convolution features to the latent: a linear map and a layer norm, and tanh if asked for."""

    def __init__(self, num_features: int, latent_dim: int, tanh: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, latent_dim)
        self.norm = nn.LayerNorm(latent_dim)
        self.tanh = tanh

    def forward(self, features: Tensor) -> Tensor:
        """(N, F) -> (N, Z)."""
        latent = self.norm(self.linear(features))
        return latent.tanh() if self.tanh else latent


def feature_side(image_size: int, strides: Sequence[int]) -> int:
    """Pixels along a side of what the encoder makes of an image; ConfigError if none are left."""
    side = image_size
    for stride in strides:
        side = (side - _KERNEL) // stride + 1
    if side < 1:
        raise ConfigError(
            f"agent.conv_strides=[{','.join(map(str, strides))}]: nothing is left of {image_size} "
            f"pixels; use fewer or smaller strides"
        )
    return side


class Encoder(nn.Module):
    """3x3 convolutions with ReLU, then a latent head; the critic's, and the shared one.

    `map_shape` is filters, rows and columns of the last convolution, whose product is F.
    """

    def __init__(self, settings: PolicySettings, channels: int, precision: str = "fp32") -> None:
        """Args: `channels`: S*C of the images. `precision`: `bf16` computes convolutions and
        linear maps in bfloat16; weights and latents stay float32. ConfigError: as `feature_side`.
        """
        super().__init__()
        side = feature_side(settings.crop_size, settings.conv_strides)
        layers: list[nn.Module] = []
        filters = settings.num_filters
        for i, stride in enumerate(settings.conv_strides):
            incoming = filters if i else channels
            layers += [nn.Conv2d(incoming, filters, _KERNEL, stride), nn.ReLU(inplace=True)]
        self.autocast_dtype = torch.bfloat16 if precision == "bf16" else None
        self.channels, self.latent_dim = channels, settings.latent_dim
        self.map_shape = (filters, side, side)
        self.convolutions = nn.Sequential(*layers)
        self.convolutions.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        features = math.prod(self.map_shape)
        self.head = LatentHead(features, settings.latent_dim, settings.latent_tanh)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Where reduced precision may be used: convolutions and transformers, never losses."""
        device, dtype = next(self.convolutions.parameters()).device.type, self.autocast_dtype
        return torch.autocast(device, dtype=dtype) if dtype else contextlib.nullcontext()

    def features(self, images: Tensor) -> Tensor:
        """float (N, S*C, H, W) in 0..1 -> (N, F): rows, columns, filters, as memory has them."""
        with self.autocast():
            for layer in self.convolutions:
                if isinstance(layer, nn.Conv2d):  # the ReLU behind it is part of the call
                    images = convolution_relu(images, layer)
            return images.permute(0, 2, 3, 1).flatten(1)

    def latent(self, features: Tensor) -> Tensor:
        """(N, F) -> float32 (N, Z)."""
        with self.autocast():
            return self.head(features).float()

    def forward(self, images: Tensor) -> Tensor:
        """float (N, S*C, H, W) in 0..1 -> float32 (N, Z)."""
        return self.latent(self.features(images))


class Actor(nn.Module):
    """Policy on the shared convolutions: its own latent head and a two-layer network."""

    def __init__(self, settings: PolicySettings, encoder: Encoder, action_dim: int) -> None:
        """Args: `encoder`: decides the number of features; not kept."""
        super().__init__()
        self.log_std_min, self.log_std_max = settings.log_std_min, settings.log_std_max
        latent_dim, hidden = settings.latent_dim, settings.hidden_dim
        self.head = LatentHead(math.prod(encoder.map_shape), latent_dim, settings.latent_tanh)
        self.trunk = mlp(latent_dim, hidden, hidden, 2 * action_dim)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, F), any float -> mean before tanh (N, A), log standard deviation (N, A)."""
        mean, raw = self.trunk(self.head(features.float())).chunk(2, dim=-1)
        spread = self.log_std_max - self.log_std_min
        return mean, self.log_std_min + 0.5 * spread * (raw.tanh() + 1)


class PolicyNetwork(nn.Module):
    """What of `Networks` acts, under the same names: the convolutions and the actor."""

    part = "networks"  # of an agent's state, where its weights are

    def __init__(
        self, settings: PolicySettings, obs_shape: Sequence[int], num_actions: int, precision: str
    ) -> None:
        """Args: `obs_shape`: (S*C, H, W) as rendered. `num_actions`: A. The rest: see `Encoder`."""
        super().__init__()
        self.crop_size = settings.crop_size
        self.encoder = Encoder(settings, obs_shape[0], precision)
        self.actor = Actor(settings, self.encoder, num_actions)
        del self.encoder.head  # the critic's

    def forward(self, obs: Tensor, generators: object = None) -> Tensor:
        """uint8 (N, S*C, H, W) as rendered -> mean actions float32 (N, A) in [-1, 1]."""
        images = to_float(center_crop(obs, self.crop_size))
        mean, _ = self.actor(self.encoder.features(images))
        return torch.tanh(mean)


class TwinCritic(nn.Module):
    """Two action values on the same latent."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.first, self.second = mlp(*widths), mlp(*widths)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """(N, Z), (N, A) -> (2, N)."""
        inputs = torch.cat([latent, action], dim=-1)
        return torch.stack([self.first(inputs), self.second(inputs)]).squeeze(-1)


class Networks(nn.Module):
    """Everything that SAC trains or averages; the temperature is kept as its logarithm, 0-d."""

    def __init__(
        self, settings: NetworkSettings, channels: int, action_dim: int, precision: str
    ) -> None:
        """Weights from torch's global generator. The rest: see `Encoder`."""
        super().__init__()
        self.action_dim, hidden = action_dim, settings.hidden_dim
        self.encoder = Encoder(settings, channels, precision)
        self.actor = Actor(settings, self.encoder, action_dim)
        self.critic = TwinCritic(settings.latent_dim + action_dim, hidden, hidden, 1)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(settings.initial_temperature)))
        initialise_orthogonal(self, settings.conv_init)
        self.encoder_target = MomentumTarget(self.encoder, settings.encoder_tau)
        self.critic_target = MomentumTarget(self.critic, settings.critic_tau)


def initialise_orthogonal(module: nn.Module, conv_init: str) -> None:
    """Linear maps orthogonal; convolutions orthogonal in one of two ways, gain √2; biases 0.

    `delta_orthogonal` (Xiao et al. 2018): only the centre tap is not 0. With ReLU after each layer
    it keeps the scale of the signal. `orthogonal`: the kernel flattened to (out, in * 9) (DrQ).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv2d):
            shape, weight, middle = layer.weight.shape, layer.weight.data, _KERNEL // 2
            if conv_init == "orthogonal":
                weight.copy_(nn.init.orthogonal_(torch.empty(shape), math.sqrt(2)))
            else:
                tap = nn.init.orthogonal_(torch.empty(shape[:2]), math.sqrt(2))
                weight.zero_()[:, :, middle, middle] = tap
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialise_truncated(module: nn.Module) -> None:
    """Linear maps: normal with deviation 0.02, cut at one deviation (published MLR); biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=_STD, a=-_STD, b=_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
