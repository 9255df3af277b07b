"""The Q network: convolutional encoder and dueling head with noisy layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batch import evaluation_noise
from .errors import ConfigError
from .kernels import convolution_relu
from .losses import ActionValues, CategoricalValues, ScalarValues
from .run.schema import bounded, choice

# Kernel and stride of each layer: the DQN Nature paper's, and data-efficient Rainbow's.
ENCODERS = {"nature": ((8, 4), (4, 2), (3, 1)), "data_efficient": ((5, 5), (5, 5))}

# A constant feature map has no range; the published code divides 0 by 0 there.
RANGE_EPS = 1e-8


def renormalize(features: Tensor) -> Tensor:
    """Scale each sample to [0, 1] over all its other dimensions; (N, ...) -> (N, ...)."""
    flat = features.flatten(1)
    low, high = flat.aminmax(dim=1, keepdim=True)
    return ((flat - low) / (high - low + RANGE_EPS)).view(features.shape)


def feature_shape(image_size: int, layout: str, channels: Sequence[int]) -> tuple[int, int, int]:
    """(C, h, w) of what the encoder's convolutions make of a square image.

    Raises: ConfigError: `channels` are not as many as the layout's layers, or nothing is left.
    """
    layers, side = ENCODERS[layout], image_size
    if len(channels) != len(layers):
        raise ConfigError(
            f"agent.num_filters=[{','.join(map(str, channels))}]: encoder {layout} has "
            f"{len(layers)} layers; give {len(layers)} numbers"
        )
    for kernel, stride in layers:
        side = (side - kernel) // stride + 1
    if side < 1:
        raise ConfigError(
            f"environment.image_size={image_size}: nothing is left of it behind the encoder; "
            f"use larger images"
        )
    return channels[-1], side, side


class Encoder(nn.Module):
    """Convolutions with ReLU, then optional min-max renormalisation (paper, appendix).

    Attributes: `feature_shape`: (C, h, w) of one image's latent. `latent_dim`: Z = C * h * w.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        layout: str,
        channels: Sequence[int],
        renormalize: bool,
        precision: str = "fp32",
    ) -> None:
        """Args: `image_shape`: (S*C, H, W). `layout`: key of `ENCODERS`. `precision`: `bf16`
        computes convolutions in bfloat16; weights and latents stay float32.
        """
        super().__init__()
        self.feature_shape = feature_shape(image_shape[1], layout, channels)
        self.latent_dim = math.prod(self.feature_shape)
        widths = (image_shape[0], *channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], kernel, stride)
            for i, (kernel, stride) in enumerate(ENCODERS[layout])
        )
        self.renormalize, self.precision = renormalize, precision
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def autocast(self) -> torch.autocast:
        """Where it is entered, products are computed in the encoder's precision."""
        # Weights are used once per context, so a cache of their casts would be of no use.
        device = next(self.parameters()).device.type
        enabled = self.precision == "bf16"
        return torch.autocast(device, torch.bfloat16, enabled=enabled, cache_enabled=False)

    def forward(self, images: Tensor) -> Tensor:
        """Latents: images float (N, S*C, H, W), in [0, 1], -> float32 (N, C, h, w)."""
        features = images
        with self.autocast():
            for conv in self.convs:
                assert isinstance(conv, nn.Conv2d)
                features = convolution_relu(features, conv)
        return renormalize(features.float()) if self.renormalize else features.float()


class NoisyLinear(nn.Module):
    """Linear layer with factorised Gaussian noise on its weights (Fortunato et al., eq. 10-11).

    With `sigma` None it has no noise and is a plain linear layer, initialised alike.
    """

    weight_sigma: nn.Parameter | None
    bias_sigma: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, sigma: float | None) -> None:
        """Args: `sigma`: sigma_0, the noise's initial scale before the division by sqrt(fan)."""
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight_mu = nn.Parameter(torch.empty(out_features, in_features))
        self.bias_mu = nn.Parameter(torch.empty(out_features))
        self.weight_sigma = self.bias_sigma = None
        for mean in (self.weight_mu, self.bias_mu):
            nn.init.uniform_(mean, -1 / math.sqrt(in_features), 1 / math.sqrt(in_features))
        if sigma is not None:
            scales = sigma / math.sqrt(in_features), sigma / math.sqrt(out_features)
            self.weight_sigma = nn.Parameter(torch.full_like(self.weight_mu, scales[0]))
            self.bias_sigma = nn.Parameter(torch.full_like(self.bias_mu, scales[1]))

    def forward(self, inputs: Tensor, noise: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """inputs (N, in) -> (N, out).

        Args: `noise`: scaled draws (in,) and (out,), or None for the mean weights. Their outer
        product multiplies the weights' sigma; it is never formed.
        """
        outputs = F.linear(inputs, self.weight_mu, self.bias_mu)
        if noise is None or self.weight_sigma is None or self.bias_sigma is None:
            return outputs
        noise_in, noise_out = noise
        return outputs + noise_out * F.linear(inputs * noise_in, self.weight_sigma, self.bias_sigma)


class _ScaledGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by `scale`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad * ctx.scale, None


class DuelingHead(nn.Module):
    """Value and advantage streams, each Linear, ReLU, Linear (Wang et al. 2016).

    The gradient into the encoder is scaled by 1/sqrt(2), one stream's share (ibid., section 4.2).
    The scaled noise in use, float (noise_size,), belongs to the state: layer after layer in the
    order of `layers`, inputs before outputs.
    """

    noise: Tensor

    def __init__(
        self, latent_dim: int, num_actions: int, num_atoms: int, hidden: int, sigma: float | None
    ) -> None:
        """Args: `num_atoms`: outputs per action; `hidden`: units per stream."""
        super().__init__()
        self.num_actions, self.num_atoms = num_actions, num_atoms
        self.advantage_hidden = NoisyLinear(latent_dim, hidden, sigma)
        self.advantage_out = NoisyLinear(hidden, num_actions * num_atoms, sigma)
        self.value_hidden = NoisyLinear(latent_dim, hidden, sigma)
        self.value_out = NoisyLinear(hidden, num_atoms, sigma)
        self.layers = (self.advantage_hidden, self.advantage_out, self.value_hidden, self.value_out)
        self.noisy = sigma is not None
        self.noise_sizes = [
            size for layer in self.layers for size in (layer.in_features, layer.out_features)
        ]
        self.noise_size = sum(self.noise_sizes) if self.noisy else 0
        self.register_buffer("noise", torch.empty(self.noise_size))
        self.redraw(nn.init.normal_(torch.empty(self.noise_size)))

    @torch.no_grad()
    def redraw(self, normals: Tensor) -> None:
        """Set the noise, in place, to f(x) = sign(x) sqrt|x| of standard normals (noise_size,)."""
        self.noise.copy_(normals.sign() * normals.abs().sqrt())

    def forward(self, latents: Tensor, noisy: bool) -> Tensor:
        """latents (N, Z) -> unnormalised values (N, A, num_atoms); noise is used if `noisy`."""
        noise: Sequence[Any] = [None] * len(self.layers)
        if noisy and self.noisy:
            parts = self.noise.split(self.noise_sizes)
            noise = list(zip(parts[0::2], parts[1::2], strict=True))
        inputs = _ScaledGradient.apply(latents, 1 / math.sqrt(2))
        advantage = self.advantage_out(F.relu(self.advantage_hidden(inputs, noise[0])), noise[1])
        value = self.value_out(F.relu(self.value_hidden(inputs, noise[2])), noise[3])
        advantage = advantage.view(-1, self.num_actions, self.num_atoms)
        return value[:, None, :] + advantage - advantage.mean(dim=1, keepdim=True)


class Projection(nn.Module):
    """The head's own hidden layers, mean weights only, value before advantage, no ReLU (SPR)."""

    def __init__(self, head: DuelingHead) -> None:
        super().__init__()
        self.value_hidden, self.advantage_hidden = head.value_hidden, head.advantage_hidden
        self.out_features = self.value_hidden.out_features + self.advantage_hidden.out_features

    def forward(self, latents: Tensor) -> Tensor:
        """latents (N, Z) -> (N, 2 * hidden)."""
        return torch.cat([self.value_hidden(latents), self.advantage_hidden(latents)], dim=-1)


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """Keys of the section `agent` that say how its policy sees and acts."""

    encoder: str = choice(*ENCODERS)
    num_filters: tuple[int, ...] = bounded(1)
    renormalize: bool
    hidden_dim: int = bounded(1)
    noisy_sigma: float | None = bounded(above=0)
    values: str = choice("categorical", "scalar")
    num_atoms: int = bounded(2, 4096)
    v_min: float
    v_max: float
    huber_delta: float = bounded(above=0)
    epsilon_evaluation: float = bounded(0, 1)


def make_values(settings: PolicySettings) -> ActionValues:
    """How the network's outputs are read."""
    if settings.values == "categorical":
        return CategoricalValues(settings.num_atoms, settings.v_min, settings.v_max)
    return ScalarValues(settings.huber_delta)


class QNetwork(nn.Module):
    """Encoder and head."""

    def __init__(
        self, settings: PolicySettings, obs_shape: Sequence[int], num_actions: int, precision: str
    ) -> None:
        """Weights from torch's global generator. Raises: ConfigError: as `feature_shape`.

        Args: `obs_shape`: (S*C, H, W). `num_actions`: A. `precision`: as the encoder's.
        """
        super().__init__()
        filters, scaled = settings.num_filters, settings.renormalize
        self.encoder = Encoder(obs_shape, settings.encoder, filters, scaled, precision)
        atoms = settings.num_atoms if settings.values == "categorical" else ScalarValues.num_atoms
        sizes = self.encoder.latent_dim, num_actions, atoms, settings.hidden_dim
        self.head = DuelingHead(*sizes, settings.noisy_sigma)

    def forward(self, images: Tensor, noisy: bool) -> Tensor:
        """images float (N, S*C, H, W), in [0, 1] -> unnormalised values (N, A, num_atoms)."""
        return self.head(self.encoder(images).flatten(1), noisy)


class PolicyNetwork(QNetwork):
    """A Q network that acts, under the same names."""

    part = "network"  # of an agent's state, where its weights are

    def __init__(self, settings: PolicySettings, *sizes: Any) -> None:
        """As `QNetwork`."""
        super().__init__(settings, *sizes)
        self._settings = settings

    @cached_property
    def values(self) -> ActionValues:
        """How its outputs are read; made when it is asked for, beside weights that fit."""
        return make_values(self._settings).to(self.head.noise.device)

    def forward(  # type: ignore[override]
        self, obs: Tensor, generators: Sequence[np.random.Generator] | None = None
    ) -> Tensor:
        """uint8 (N, S*C, H, W) -> actions int64 (N,) on the CPU, by the mean weights.

        Args: `generators`: one a game, for random actions now and then (`epsilon_evaluation`).
        """
        outputs = super().forward(obs * (1 / 255), noisy=False)
        greedy = self.values.q_values(outputs).argmax(dim=-1).cpu()
        if generators is None:
            return greedy
        noise = evaluation_noise(generators, self.head.num_actions)
        random = noise.uniform < self._settings.epsilon_evaluation
        return torch.where(random, noise.random_action, greedy)
