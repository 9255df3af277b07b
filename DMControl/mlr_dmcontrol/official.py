"""Weights of the published code: its names and layouts, both ways.

`load_official(agent, tensors)` takes the names that the published agent's parts give to their
parameters: `critic/encoder.convs.0.weight`, `critic_target/Q1.trunk.0.bias`, `actor/trunk.4.bias`,
`MTM/transformer.0.attn.qkv.weight`, ..., and `log_alpha`. The actor's convolutions and
`MTM/encoder.*` are the critic's very tensors there and are not repeated; an agent without an
objective knows no `MTM/` names.

A whole update of the published code can be repeated on given data::

    agent = build_agent(compose(["agent=mlr_official"]).agent, obs_shape=(9, 100, 100), ...)
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

Parity is checked from outside of this repository, too, so these names and their arguments stay
(`tests/test_official_names.py`): `settings.compose` and `build.build_agent` for an agent,
`load_official` and `export_official` for weights, `agent.update` and its parts for an update,
`agent.critic_terms`, `agent.actor_terms` and `agent.objective.loss` for a loss with batch and noise
given, `environment.EnvironmentSettings` and `environment.PixelControlEnv` for an environment.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .errors import ConfigError
from .networks import Encoder
from .objectives.mlr import MLR
from .sac import SAC

_FLAT = "encoder.fc.weight"  # its columns are (C, H, W) there, (H, W, C) here
_DECODER_LAYERS = {
    "norm1": "norm1",
    "attn.proj": "attention.output",
    "norm2": "norm2",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}
_JOINT = ("query", "key_value")  # of attn.qkv


@torch.no_grad()
def load_official(agent: SAC, tensors: Mapping[str, Tensor]) -> None:
    """Copy published weights into `agent`; moments and counters stay as they are.

    Raises: ConfigError: listing every missing, unknown and misshapen name; nothing was copied.
    """
    parameters, (filters, rows, columns) = _parameters(agent), agent.encoder.map_shape
    known = export_official(agent)
    shapes = {name: tuple(value.shape) for name, value in known.items() if value is not None}
    problems = [f"missing {name}" for name in shapes if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in shapes]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, not {shape}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems:
        raise ConfigError(f"official weights do not fit this agent: {'; '.join(problems)}")
    for name, ours in parameters.items():
        value = tensors[name]
        if name.endswith(_FLAT):
            value = value.view(-1, filters, rows, columns).permute(0, 2, 3, 1).flatten(1)
        pieces = value.split([len(parameter) for parameter in ours]) if len(ours) > 1 else [value]
        for parameter, piece in zip(ours, pieces, strict=True):
            parameter.copy_(piece)


def export_official(
    agent: SAC, of: Callable[[Tensor], Tensor | None] | None = None
) -> dict[str, Tensor | None]:
    """The agent's weights under the published names and in the published layout.

    Args: `of`: what to export of each parameter, such as its gradient; None: its value.

    Returns: Detached copies by name; None where `of` gave None.
    """
    exported: dict[str, Tensor | None] = {}
    filters, rows, columns = agent.encoder.map_shape
    for name, ours in _parameters(agent).items():
        values = [parameter if of is None else of(parameter) for parameter in ours]
        known = [value.detach() for value in values if value is not None]
        if len(known) < len(values):
            exported[name] = None
            continue
        value = torch.cat(known) if len(known) > 1 else known[0].clone()
        if name.endswith(_FLAT):
            value = value.view(-1, rows, columns, filters).permute(0, 3, 1, 2).flatten(1)
        exported[name] = value.contiguous()
    return exported


def _parameters(agent: SAC) -> dict[str, list[Tensor]]:
    """Ours by published name; where there are several they stand below each other."""
    networks = agent.networks
    target = networks.critic_target.target
    modules: dict[str, nn.Module] = {
        **_encoder("critic/encoder", networks.encoder),
        "critic/Q1.trunk": networks.critic.first,
        "critic/Q2.trunk": networks.critic.second,
        **_encoder("critic_target/encoder", networks.encoder_target.target),
        "critic_target/Q1.trunk": target.first,
        "critic_target/Q2.trunk": target.second,
        "actor/encoder.fc": networks.actor.head.linear,
        "actor/encoder.ln": networks.actor.head.norm,
        "actor/trunk": networks.actor.trunk,
    }
    ours: dict[str, list[Tensor]] = {"log_alpha": [networks.log_temperature]}
    if isinstance(agent.objective, MLR):
        modules |= _mlr(agent.objective)
        for i, block in enumerate(agent.objective.decoder.blocks):
            joint = [block.get_parameter(f"attention.{layer}.weight") for layer in _JOINT]
            ours[f"MTM/transformer.{i}.attn.qkv.weight"] = list(joint)
    for prefix, module in modules.items():
        ours |= {f"{prefix}.{name}": [value] for name, value in module.named_parameters()}
    return ours


def _mlr(objective: MLR) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {
        **_encoder("MTM/target_encoder", objective.target_encoder.target),
        "MTM/global_classifier": objective.projection,
        "MTM/global_final_classifier": objective.predictor,
        "MTM/global_target_classifier": objective.target_projection.target,
    }
    if objective.decoder.action_embedding is not None:
        modules["MTM/action_emb"] = objective.decoder.action_embedding
    for i, block in enumerate(objective.decoder.blocks):
        for published, ours in _DECODER_LAYERS.items():
            modules[f"MTM/transformer.{i}.{published}"] = block.get_submodule(ours)
    return modules


def _encoder(prefix: str, encoder: Encoder) -> dict[str, nn.Module]:
    layers = [layer for layer in encoder.convolutions if isinstance(layer, nn.Conv2d)]
    modules: dict[str, nn.Module] = {f"{prefix}.convs.{i}": conv for i, conv in enumerate(layers)}
    return modules | {f"{prefix}.fc": encoder.head.linear, f"{prefix}.ln": encoder.head.norm}
