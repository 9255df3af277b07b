"""The same update written plainly, as the published pipeline computes it: the oracle of ours.

Observations are put together frame by frame and become floats as a whole; images are padded and
cropped one by one; masks, losses and targets follow in float32, every block of
the decoder on all tokens, with Adam and target copies a parameter at a time. Given the
same batch and noise, its losses are those of `rainbow.py` and `objectives/mlr.py`, up to rounding.
It is written for agent=mlr, mlr_official and rainbow, as they are.
"""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlr_atari.augmentation import AugmentationNoise
from mlr_atari.batch import Batch, UpdateNoise
from mlr_atari.frames import FrameStacks
from mlr_atari.losses import one_hot
from mlr_atari.momentum import MomentumTarget
from mlr_atari.networks import (
    RANGE_EPS,
    DuelingHead,
    Encoder,
    NoisyLinear,
    Projection,
    QNetwork,
)
from mlr_atari.objectives.decoder import LatentDecoder
from mlr_atari.objectives.latents import distance
from mlr_atari.objectives.mlr import MLR, MLRNoise
from mlr_atari.rainbow import Rainbow

Metrics = dict[str, Tensor]


class PlainRainbow:
    """A copy of an agent, updated the plain way."""

    def __init__(self, agent: Rainbow) -> None:
        self.settings, self.values = agent.settings, agent.values
        self.pad = agent.augmentation.shift_pad
        self.weight = agent.objective_weight
        # Together, so that the copies share the layers that the originals share.
        copies = copy.deepcopy((agent.network, agent.target_network, agent.objective))
        self.network, self.target, objective = copies
        parameters = list(self.network.parameters())
        self.clip_groups: list[Sequence[nn.Parameter]] = [list(parameters)]
        self.objective: MLR | None = None
        if isinstance(objective, MLR):
            self.objective = objective
            parameters += [each for each in objective.parameters() if each.requires_grad]
            self.clip_groups += [group.parameters for group in objective.clip_groups()]
        self.adam = torch.optim.Adam(
            parameters, self.settings.learning_rate, eps=self.settings.adam_eps, foreach=False
        )

    def update(
        self, batch: Batch, noise: UpdateNoise, *, copy_target: bool
    ) -> tuple[Metrics, Tensor]:
        """One update; see `Rainbow.update`."""
        self.network.head.redraw(noise.head)
        self.adam.zero_grad()
        loss, priorities, losses = self._rl_loss(batch, noise)
        if self.objective is not None and noise.objective is not None:
            objective_loss, more = self._mlr_loss(self.objective, batch, noise.objective)
            loss, losses = loss + self.weight * objective_loss, losses | more
            _follow(self.objective.target_encoder, self.network.encoder)
            _follow(self.objective.target_projection, Projection(self.network.head))
        loss.backward()
        for group in self.clip_groups:
            norm = nn.utils.clip_grad_norm_(group, self.settings.max_gradient_norm, foreach=False)
            losses.setdefault("gradient_norm/network", norm)
        self.adam.step()
        if copy_target:
            self.target.load_state_dict(self.network.state_dict())
        return losses, priorities

    def _rl_loss(self, batch: Batch, noise: UpdateNoise) -> tuple[Tensor, Tensor, Metrics]:
        outputs = self._outputs(self.network, batch.obs.select(0), noise.obs)
        seen = noise.n_step_obs if noise.selection is None else noise.selection
        with torch.no_grad():
            bootstrap = self._outputs(self.target, batch.n_step_obs, noise.n_step_obs)
            chooser = self._outputs(self.network, batch.n_step_obs, seen)
            action = self.values.q_values(chooser).argmax(dim=-1)
            returns, discounts = batch.n_step_return, batch.bootstrap_discount
            target = self.values.target(bootstrap, action, returns, discounts)
        losses, priorities = self.values.loss(outputs, batch.action[0], target)
        loss = (batch.importance_weights * losses).mean()
        return loss, priorities, {"loss/rl": loss.detach()}

    def _mlr_loss(self, mlr: MLR, batch: Batch, noise: MLRNoise) -> tuple[Tensor, Metrics]:
        lead, obs = batch.obs.lead, _floats(batch.obs)  # (K * B, C, H, W), 0..255
        visible = ~mlr.masking.pixels(mlr.hidden(noise.grid))  # (K, H, W), or (B, K, H, W)
        visible = visible[:, None] if visible.ndim == 3 else visible.transpose(0, 1)
        visible = visible.expand(*lead, *visible.shape[-2:]).flatten(0, 1)
        masked = obs * visible[:, None].float() * (mlr.settings.masked_input_scale / 255.0)
        latents = _latents(self.network.encoder, _augmented(masked, noise.online, self.pad))
        action = one_hot(batch.action, mlr.num_actions).transpose(0, 1)
        states = latents.unflatten(0, lead).transpose(0, 1)
        decoded = _decoded(mlr.decoder, states, action).transpose(0, 1)
        prediction = mlr.predictor(Projection(self.network.head)(decoded))
        with torch.no_grad():
            images = _augmented(obs / 255.0, noise.target, self.pad)
            assert isinstance(mlr.target_encoder, MomentumTarget)
            target = mlr.target_projection(_latents(mlr.target_encoder.target, images))
        distances = distance(prediction, target.unflatten(0, lead))
        loss = (distances * batch.importance_weights).mean()
        return loss, {"loss/mlr": distances.detach().mean()}

    def _outputs(self, network: QNetwork, stacks: FrameStacks, noise: AugmentationNoise) -> Tensor:
        """Head outputs (B, A, N)."""
        images = _augmented(_floats(stacks) / 255.0, noise, self.pad)
        return _head(network.head, _latents(network.encoder, images))


def _floats(stacks: FrameStacks) -> Tensor:
    """Stacks put together frame by frame: float32 (N, S*C, H, W), 0..255."""
    frames, index = stacks.frames.numpy(), stacks.index.flatten(0, -2).tolist()
    observations = [np.concatenate([frames[slot] for slot in stack]) for stack in index]
    return torch.as_tensor(np.stack(observations)).float()


def _augmented(images: Tensor, noise: AugmentationNoise, pad: int) -> Tensor:
    """Pad and shift (N, C, H, W) floats one by one, then scale each one's intensity."""
    size, padded = images.shape[-1], F.pad(images, (pad,) * 4, mode="replicate")
    pairs = zip(padded, noise.offsets.flatten(0, -2).tolist(), strict=True)
    shifted = torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in pairs])
    return shifted * noise.intensity.view(-1, 1, 1, 1)


def _latents(encoder: Encoder, images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, Z), channels first."""
    outputs = images
    for conv in encoder.convs:
        outputs = torch.relu(conv(outputs))
    flat = outputs.flatten(1)
    if not encoder.renormalize:
        return flat
    low, high = flat.min(dim=1, keepdim=True)[0], flat.max(dim=1, keepdim=True)[0]
    return (flat - low) / (high - low + RANGE_EPS)


def _head(head: DuelingHead, latents: Tensor) -> Tensor:
    """(N, Z) -> (N, A, N), from noisy weights that are formed first."""
    scale = 1 / math.sqrt(2)  # of the gradient only
    inputs = scale * latents + (1 - scale) * latents.detach()
    parts = head.noise.split(head.noise_sizes) if head.noisy else ()

    def layer(number: int, values: Tensor) -> Tensor:
        return _noisy(head.layers[number], values, parts[2 * number : 2 * number + 2])

    advantage = layer(1, torch.relu(layer(0, inputs)))
    value = layer(3, torch.relu(layer(2, inputs)))
    advantage = advantage.view(-1, head.num_actions, head.num_atoms)
    return value[:, None, :] + advantage - advantage.mean(dim=1, keepdim=True)


def _noisy(layer: NoisyLinear, values: Tensor, noise: Sequence[Tensor]) -> Tensor:
    if layer.weight_sigma is None or layer.bias_sigma is None:
        return F.linear(values, layer.weight_mu, layer.bias_mu)
    incoming, outgoing = noise
    weight = layer.weight_mu + layer.weight_sigma * torch.outer(outgoing, incoming)
    return F.linear(values, weight, layer.bias_mu + layer.bias_sigma * outgoing)


def _decoded(decoder: LatentDecoder, states: Tensor, action: Tensor) -> Tensor:
    """(B, K, Z), (B, K, A) -> (B, K, Z): every block on all tokens."""
    length, tokens = states.shape[1], decoder.embed(states, action)
    for block in decoder.blocks:
        tokens = block(tokens, tokens.shape[1])
    return decoder.widen(tokens[:, :length])


@torch.no_grad()
def _follow(momentum: nn.Module, online: nn.Module) -> None:
    assert isinstance(momentum, MomentumTarget)
    for mean, parameter in zip(momentum.target.parameters(), online.parameters(), strict=True):
        mean.copy_(momentum.tau * parameter + (1 - momentum.tau) * mean)
