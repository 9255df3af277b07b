"""The same update written plainly, as the published pipeline computes it: the oracle of ours.

Whole stacks and sequences become floats; images are cropped one by one; masks, losses and targets
follow in float32, with Adam and moving averages a parameter at a time. Given the
same batch and noise, its losses are those of `sac.py` and `objectives/mlr.py`, up to rounding.
It is written for agent=mlr, mlr_official and sac, as they are.
"""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from mlr_dmcontrol import losses
from mlr_dmcontrol.augmentation import AugmentationNoise
from mlr_dmcontrol.batch import Batch, UpdateNoise
from mlr_dmcontrol.momentum import MomentumTarget
from mlr_dmcontrol.networks import Encoder
from mlr_dmcontrol.objectives.decoder import LatentDecoder
from mlr_dmcontrol.objectives.latents import distance
from mlr_dmcontrol.objectives.mlr import MLR, MLRNoise
from mlr_dmcontrol.sac import SAC


class PlainSAC:
    """A copy of an agent, updated the plain way."""

    def __init__(self, agent: SAC) -> None:
        self.settings, self.update_step = agent.settings, agent.update_step
        self.weight, self.target_entropy = agent.objective_weight, agent.target_entropy
        # Together, so that the copies share the encoder that the originals share.
        self.networks, self.objective = copy.deepcopy((agent.networks, agent.objective))
        networks = self.networks
        self.targets: list[tuple[MomentumTarget, nn.Module]] = [
            (networks.critic_target, networks.critic),
            (networks.encoder_target, networks.encoder),
        ]
        if isinstance(self.objective, MLR):
            self.targets += [
                (self.objective.target_encoder, networks.encoder),
                (self.objective.target_projection, self.objective.projection),
            ]
        rate = self.settings.critic_learning_rate
        trained = [*networks.encoder.parameters(), *networks.critic.parameters()]
        self.critic_adam = _adam(trained, rate)
        self.actor_adam = _adam(networks.actor.parameters(), self.settings.actor_learning_rate)
        betas = self.settings.temperature_beta1, 0.999
        temperature_rate = self.settings.temperature_learning_rate
        self.temperature_adam = _adam([networks.log_temperature], temperature_rate, betas)
        if self.objective is not None:
            self.objective_rate = rate * self.objective.settings.objective_learning_rate_scale
            trained = [*networks.encoder.parameters(), *self.objective.trained()]
            self.objective_adam = _adam(trained, self.objective_rate)

    def update(
        self, batch: Batch, noise: UpdateNoise, *, actor_step: bool, target_step: bool
    ) -> dict[str, Tensor]:
        """One update; see `SAC.update`."""
        size, numbers = self.settings.crop_size, (batch.action, batch.reward, batch.terminated)
        obs = _augmented(batch.obs.dense().float(), noise.obs, size)
        next_obs = _augmented(batch.next_obs.dense().float(), noise.next_obs, size)
        results = {"loss/critic": self._update_critic(obs, next_obs, numbers, noise)}
        if isinstance(self.objective, MLR) and batch.sequence is not None:
            sequence, action = batch.sequence.obs.dense().float(), batch.sequence.action
            mlr = self._update_mlr(self.objective, sequence, action, noise.objective)
            results["loss/mlr"] = mlr
        if actor_step:
            results["loss/actor"] = self._update_actor(obs, noise)
        if target_step:
            self._update_targets()
        self.update_step += 1
        return results

    def _update_critic(
        self, obs: Tensor, next_obs: Tensor, numbers: Sequence[Tensor], noise: UpdateNoise
    ) -> Tensor:
        networks, (action, reward, terminated) = self.networks, numbers
        with torch.no_grad():
            mean, log_std = networks.actor(_features(networks.encoder, next_obs))
            next_action, log_prob = losses.squashed_gaussian(mean, log_std, noise.next_action[0])
            next_latent = _latent(networks.encoder_target.target, next_obs)
            values = networks.critic_target.target(next_latent, next_action)
            temperature, discount = networks.log_temperature.exp(), self.settings.discount
            terms = values[:, None], log_prob[None], temperature
            target = losses.soft_target(*terms, reward, terminated, discount)
        values = networks.critic(_latent(networks.encoder, obs), action)
        loss = losses.critic_loss(values[:, None], target)
        _step(self.critic_adam, loss)
        return loss.detach()

    def _update_mlr(self, mlr: MLR, obs: Tensor, action: Tensor, noise: MLRNoise) -> Tensor:
        encoder, lead = self.networks.encoder, obs.shape[:2]
        visible = ~mlr.masking.pixels(noise.grid)  # (K, H, W), or (B, K, H, W)
        visible = visible[:, None] if visible.ndim == 3 else visible.transpose(0, 1)
        masked = obs * visible[:, :, None].float()
        size = mlr.augmentation.crop_size
        latents = _latent(encoder, _augmented(masked.flatten(0, 1), noise.online, size))
        states = latents.unflatten(0, lead).transpose(0, 1)
        decoded = _decoded(mlr.decoder, states, action.transpose(0, 1)).transpose(0, 1)
        prediction = mlr.predictor(mlr.projection(decoded))
        with torch.no_grad():
            images = _augmented(obs.flatten(0, 1), noise.target, size)
            target = mlr.target_projection(_latent(mlr.target_encoder.target, images))
        loss = distance(prediction, target.unflatten(0, lead)).mean()
        (group,) = mlr.clip_groups(encoder)
        (adam_group,) = self.objective_adam.param_groups
        adam_group["lr"] = self.objective_rate * mlr.learning_rate_factor(self.update_step)
        _step(self.objective_adam, self.weight * loss, clip=group.max_norm)
        return loss.detach()

    def _update_actor(self, obs: Tensor, noise: UpdateNoise) -> Tensor:
        networks = self.networks
        features = _features(networks.encoder, obs).detach()
        mean, log_std = networks.actor(features)
        action, log_prob = losses.squashed_gaussian(mean, log_std, noise.action)
        values = networks.critic(networks.encoder.head(features), action)
        loss = losses.actor_loss(values, log_prob, networks.log_temperature.exp().detach())
        _step(self.actor_adam, loss)
        terms = networks.log_temperature, log_prob, self.target_entropy
        _step(self.temperature_adam, losses.temperature_loss(*terms))
        return loss.detach()

    def _update_targets(self) -> None:
        for target, online in self.targets:
            pairs = zip(target.target.parameters(), online.parameters(), strict=True)
            for mean, parameter in pairs:
                mean.data.copy_(target.tau * parameter.data + (1 - target.tau) * mean.data)


def _features(encoder: Encoder, images: Tensor) -> Tensor:
    """0..255 float (N, C, h, w) -> (N, features), pixel by pixel."""
    outputs = images / 255.0
    for layer in encoder.convolutions:
        if isinstance(layer, nn.Conv2d):
            outputs = torch.relu(layer(outputs))
    return outputs.permute(0, 2, 3, 1).flatten(1)


def _latent(encoder: Encoder, images: Tensor) -> Tensor:
    return encoder.head(_features(encoder, images))


def _decoded(decoder: LatentDecoder, states: Tensor, action: Tensor) -> Tensor:
    """(B, K, Z), (B, K, A) -> (B, K, Z): tokens in turn, every block on all of them."""
    length = states.shape[1]
    positions = decoder.positions[:length]
    tokens = decoder.narrow(states) + positions
    if decoder.action_embedding is not None:
        actions = decoder.action_embedding(action) + positions
        tokens = torch.stack([tokens, actions], dim=2).flatten(1, 2)
    for block in decoder.blocks:
        tokens = block(tokens, tokens.shape[1])
    return decoder.widen(tokens[:, :: tokens.shape[1] // length])


def _augmented(images: Tensor, noise: AugmentationNoise, size: int) -> Tensor:
    """Crop (N, C, H, W) floats one by one, then scale each one's intensity."""
    pairs = zip(images, noise.offsets.flatten(0, -2).tolist(), strict=True)
    cropped = torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in pairs])
    return cropped if noise.intensity is None else cropped * noise.intensity.view(-1, 1, 1, 1)


def _adam(
    parameters: Iterable[nn.Parameter], rate: float, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Adam:
    return torch.optim.Adam(list(parameters), lr=rate, betas=betas, foreach=False, fused=False)


def _step(adam: torch.optim.Adam, loss: Tensor, clip: float | None = None) -> None:
    adam.zero_grad()
    loss.backward()
    if clip is not None:
        (group,) = adam.param_groups
        nn.utils.clip_grad_norm_(group["params"], clip, foreach=False)
    adam.step()
