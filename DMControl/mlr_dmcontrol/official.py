"""Weights of the published code: its names and layouts, both ways.

`load_official(agent, tensors)` takes the names that the published agent's parts give to their
parameters: `critic/encoder.convs.0.weight`, `critic_target/Q1.trunk.0.bias`, `actor/trunk.4.bias`,
`MTM/transformer.0.attn.qkv.weight`, ..., and `log_alpha`. The actor's convolutions and
`MTM/encoder.*` are the critic's very tensors there and are not repeated; an agent without an
objective knows no `MTM/` names.

A whole update of the published code can be repeated on given data::

    agent = build_agent(settings.load(["agent=mlr_official"]).agent, obs_shape=(9, 100, 100), ...)
    load_official(agent, tensors)
    obs = FrameStacks.from_dense(obs_uint8, channels=3)          # (B, 9, 100, 100)
    windows = FrameStacks.from_dense(sequence_uint8, channels=3)  # (K, B', 9, 100, 100)
    sequence = SequenceBatch(windows, action, reward)
    batch = Batch(obs, next_obs, action, reward, terminated, sequence)
    noise = UpdateNoise(
        obs=AugmentationNoise(offsets=crop_offsets),        # (1, B, 2)
        next_obs=AugmentationNoise(offsets=next_offsets),   # (1, B, 2)
        next_action=next_normal,                            # (1, B, A)
        action=normal,                                      # (B, A)
        objective=MLRNoise(grid, online, target),           # True = masked; lead (K, B')
    )
    agent.update_step = 3000                                # where the schedule stands
    agent.set_schedules(agent_step)                         # the rates follow; 4000 in a run
    metrics = agent.update(batch, noise, actor_step=True, target_step=True)
    weights = export_official(agent)

Images that are 84x84 already need offsets 0. `agent.update_critic`, `update_objective`,
`update_actor` and `update_targets` are its four parts, in this order. Gradients: the loss without
its step is `agent.objective.loss(agent.encoder, batch, noise.objective)`; after
`.backward()`, `export_official(agent, lambda parameter: parameter.grad)` gives the published
names. Published encoders divide images of 0..255 themselves; here the augmentation does.

Parity is checked from outside of this repository, too, by what follows, so names and arguments
stay; a test calls each::

    settings.compose(words)
    build.build_agent(agent, obs_shape, action_dim, device, seed, precision)
    official.load_official(agent, tensors)
    official.export_official(agent, of)
    frames.FrameStacks.from_dense(obs, channels)
    batch.Batch(obs, next_obs, action, reward, terminated, sequence)
    batch.SequenceBatch(obs, action, reward)
    batch.UpdateNoise(obs, next_obs, next_action, action, objective)
    augmentation.AugmentationNoise(offsets, intensity, affine, box)
    objectives.mlr.MLRNoise(grid, online, target)
    sac.SAC.set_schedules(agent_step)
    sac.SAC.update(batch, noise, actor_step, target_step)
    sac.SAC.critic_terms(batch, noise)
    sac.SAC.actor_terms(batch, noise)
    objectives.interface.Objective.loss(encoder, batch, noise)
    environment.EnvironmentSettings(image_size, frame_stack, action_repeat, max_steps, camera_id,
                                    fast_render, kwargs)
    environment.PixelControlEnv(task, settings, episode_seed)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .errors import ConfigError
from .networks import Encoder, LatentHead
from .objectives.mlr import MLR
from .sac import SAC

_DECODER_LAYERS = {
    "norm1": "norm1",
    "attn.proj": "attention.output",
    "norm2": "norm2",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}


@dataclass(frozen=True)
class _Entry:
    """One published tensor: our parameters along its first dimension, columns in (C, H, W)."""

    parameters: Sequence[Tensor]
    map_shape: tuple[int, int, int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.parameters[0].shape
        return (sum(len(each) for each in self.parameters), *first[1:]) if first else ()

    def published(self, values: Sequence[Tensor]) -> Tensor:
        """Our tensors in the published layout; a copy."""
        joined = torch.cat(list(values)) if len(values) > 1 else values[0].clone()
        if self.map_shape is None:
            return joined.contiguous()
        filters, rows, columns = self.map_shape
        return joined.view(-1, rows, columns, filters).permute(0, 3, 1, 2).flatten(1)

    def load(self, value: Tensor) -> None:
        if self.map_shape is not None:
            value = value.view(-1, *self.map_shape).permute(0, 2, 3, 1).flatten(1)
        start = 0
        for parameter in self.parameters:
            stop = start + (len(parameter) if parameter.ndim else 1)
            parameter.copy_(value[start:stop] if parameter.ndim else value)
            start = stop


def load_official(agent: SAC, tensors: Mapping[str, Tensor]) -> None:
    """Copy published weights into `agent`; moments and counters stay as they are.

    Raises:
        ConfigError: listing every missing, unknown and misshapen name; nothing was copied.
    """
    entries = _entries(agent)
    problems = [f"missing {name}" for name in entries if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in entries]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, not {entry.shape}"
        for name, entry in entries.items()
        if name in tensors and tuple(tensors[name].shape) != entry.shape
    ]
    if problems:
        raise ConfigError(f"official weights do not fit this agent: {'; '.join(problems)}")
    with torch.no_grad():
        for name, entry in entries.items():
            entry.load(tensors[name])


def export_official(
    agent: SAC, of: Callable[[Tensor], Tensor | None] | None = None
) -> dict[str, Tensor | None]:
    """The agent's weights under the published names and in the published layout.

    Args:
        of: what to export of each parameter, such as its gradient; None: its value.

    Returns:
        Detached copies by name; None where `of` gave None.
    """
    exported: dict[str, Tensor | None] = {}
    for name, entry in _entries(agent).items():
        values = [each if of is None else of(each) for each in entry.parameters]
        known = [each.detach() for each in values if each is not None]
        exported[name] = entry.published(known) if len(known) == len(values) else None
    return exported


def _entries(agent: SAC) -> dict[str, _Entry]:
    """Every published tensor of this kind of agent, by name."""
    networks = agent.networks
    target_encoder, target_critic = networks.encoder_target.target, networks.critic_target.target
    shape = networks.encoder.map_shape
    entries = {
        **_encoder("critic/encoder", networks.encoder),
        **_sequential("critic/Q1.trunk", networks.critic.first),
        **_sequential("critic/Q2.trunk", networks.critic.second),
        **_encoder("critic_target/encoder", target_encoder),
        **_sequential("critic_target/Q1.trunk", target_critic.first),
        **_sequential("critic_target/Q2.trunk", target_critic.second),
        **_head("actor/encoder", networks.actor.head, shape),
        **_sequential("actor/trunk", networks.actor.trunk),
        "log_alpha": _Entry([networks.log_temperature]),
    }
    if isinstance(agent.objective, MLR):
        entries |= _mlr(agent.objective)
    return entries


def _mlr(objective: MLR) -> dict[str, _Entry]:
    entries = {
        **_encoder("MTM/target_encoder", objective.target_encoder.target),
        **_sequential("MTM/global_classifier", objective.projection),
        **_sequential("MTM/global_final_classifier", objective.predictor),
        **_sequential("MTM/global_target_classifier", objective.target_projection.target),
    }
    if objective.decoder.action_embedding is not None:
        entries |= _layer("MTM/action_emb", objective.decoder.action_embedding)
    for i, block in enumerate(objective.decoder.blocks):
        prefix = f"MTM/transformer.{i}"
        for published, ours in _DECODER_LAYERS.items():
            entries |= _layer(f"{prefix}.{published}", block.get_submodule(ours))
        fused = [block.get_parameter(f"attention.{each}.weight") for each in ("query", "key_value")]
        entries[f"{prefix}.attn.qkv.weight"] = _Entry(fused)
    return entries


def _encoder(prefix: str, encoder: Encoder) -> dict[str, _Entry]:
    layers = [layer for layer in encoder.convolutions if isinstance(layer, nn.Conv2d)]
    entries = _head(prefix, encoder.head, encoder.map_shape)
    for i, layer in enumerate(layers):
        entries |= _layer(f"{prefix}.convs.{i}", layer)
    return entries


def _head(prefix: str, head: LatentHead, shape: tuple[int, int, int]) -> dict[str, _Entry]:
    entries = _layer(f"{prefix}.fc", head.linear) | _layer(f"{prefix}.ln", head.norm)
    entries[f"{prefix}.fc.weight"] = _Entry([head.linear.weight], shape)
    return entries


def _sequential(prefix: str, layers: nn.Sequential) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for i, layer in enumerate(layers):
        entries |= _layer(f"{prefix}.{i}", layer)
    return entries


def _layer(prefix: str, layer: nn.Module) -> dict[str, _Entry]:
    return {f"{prefix}.{name}": _Entry([value]) for name, value in layer.named_parameters()}
