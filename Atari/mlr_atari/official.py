"""Weights of the published code: its names and layouts, both ways.

A whole update of the published code can be repeated on given data::

    agent = build_agent(cfg.agent, obs_shape=(4, 84, 84), num_actions=4, device=cpu, seed=0)
    load_official(agent, tensors)           # state_dict of the published model
    load_official(agent, tensors, target)   # ... and of its DQN target network, noise included
    stacks = FrameStacks.from_dense(obs_uint8, channels=1)       # (K, B, 4, 84, 84)
    batch = Batch(
        obs=stacks,
        n_step_obs=stacks_of_obs_n,          # (B, 4, 84, 84), or stacks.select(n) if n < K
        action=all_action[1 : 1 + K],        # (K, B); all_action[0] was taken before o_0
        n_step_return=return_[0],            # (B,)
        bootstrap_discount=0.99**10 * (1 - done_n[0]),
        ends=ends,                           # bool (K, B); no loss of MLR or Rainbow reads it
        importance_weights=is_weights,       # (B,)
    )
    noise = UpdateNoise(
        head=head_normals(tensors),          # or torch.cat of the raw draws: layer after layer
        target_head=None,                    # in the order of HEAD_LAYERS, inputs before outputs
        obs=AugmentationNoise(offsets, intensity),         # (1, B, 2), (1, B): RL input
        n_step_obs=AugmentationNoise(offsets, intensity),  # (1, B, 2), (1, B): DQN target
        selection=AugmentationNoise(offsets, intensity),   # the same for the online network
        objective=MLRNoise(mask_grid.bool(), online, target),  # (K, B, 2), (K, B)
    )
    metrics, priorities = agent.update(batch, noise, copy_target=True)
    weights = export_official(agent)

`mask_grid` says what is kept with `mlr_official`, and what is hidden with `mlr`. The published
code flattens images of a sequence batch first (b * K + k): transpose those draws to (K, B). After
`update`, `export_official(agent, lambda parameter: parameter.grad)` gives the clipped gradients;
Adam's moments are not touched by loading, and zero in an agent that has just been built.

Accepted and ignored, because nothing uses them in MLR: `head.advantage_bias` (it cancels in
the dueling head, so its gradient is zero; exported as zeros), `dynamics_model.*`,
`backward_dynamics_model.*`, `global_classifier.*` (the head's hidden layers once more),
`position.*` (a constant table), and sigma and epsilon of `global_target_classifier.*`. An agent
without objective ignores the objective's tensors as well. The head's epsilon buffers may be
left out: then the agent keeps its noise.

Parity is checked from outside of this repository, too, by what follows, so names and arguments
stay; a test calls each::

    settings.compose(words)
    build.build_agent(agent, obs_shape, num_actions, device, seed, precision)
    official.load_official(agent, tensors, target)
    official.export_official(agent, of)
    official.head_normals(tensors)
    frames.FrameStacks.from_dense(obs, channels)
    batch.Batch(obs, n_step_obs, action, n_step_return, bootstrap_discount, ends,
        importance_weights)
    batch.UpdateNoise(head, target_head, obs, n_step_obs, selection, objective)
    augmentation.AugmentationNoise(offsets, intensity, warp)
    objectives.mlr.MLRNoise(grid, online, target)
    rainbow.Rainbow.set_schedules(agent_step)
    rainbow.Rainbow.update(batch, noise, copy_target)
    rainbow.Rainbow.rl_loss(batch, noise)
    objectives.interface.Objective.loss(encoder, batch, noise)
    environment.EnvironmentSettings(protocol, emulator, image_size, frame_stack, frame_skip,
                                    max_steps, kwargs)
    environment.GameEnv(game, settings, training, seed, episode_seed)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import ConfigError
from .networks import DuelingHead, Encoder, NoisyLinear, Projection, QNetwork
from .objectives.decoder import Block
from .objectives.mlr import MLR
from .rainbow import Rainbow

# In the order of DuelingHead.layers, which is also the order in which noise is drawn.
HEAD_LAYERS = ("advantage_hidden.1", "advantage_out", "value.1", "value.3")

_UNUSED = re.compile(
    r"head\.advantage_bias"
    r"|(dynamics_model|backward_dynamics_model|global_classifier|position)\..*"
    r"|global_target_classifier\.encoders\.[01]\.(weight|bias)_(sigma|epsilon)"
)
_OBJECTIVE = re.compile(
    r"(transformer|action_embedding|target_encoder|global_(final|target)_classifier)\..*"
)
_EPSILON = re.compile(r"head\..*_epsilon")


class _Slot(NamedTuple):
    """A published tensor and ours; several of ours stand below each other in it."""

    name: str
    parts: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(len(part) for part in self.parts), *self.parts[0].shape[1:])


@torch.no_grad()
def load_official(
    agent: Rainbow, tensors: Mapping[str, Tensor], target: Mapping[str, Tensor] | None = None
) -> None:
    """Load the published model's tensors, of any floating type, into an agent of its sizes.

    Args:
        target: its DQN target network's, of which only encoder and head are read; None copies
            the online network, as the published code does at its start.

    Raises:
        ConfigError: listing all that is missing, unknown or misshapen, and nothing is copied; or
            the agent has settings that the published code does not know.
    """
    slots, head = list(_slots(agent)), agent.network.head
    _check(tensors, slots, head, ignore_objective=agent.objective is None)
    if target is not None:
        target_slots = list(_network_slots(agent.target_network))
        _check(target, target_slots, head, ignore_objective=True)
    _copy(tensors, slots, head)
    if target is None:
        agent.copy_target()
    else:
        _copy(target, target_slots, agent.target_network.head)


@torch.no_grad()
def export_official(
    agent: Rainbow, of: Callable[[Tensor], Tensor | None] | None = None
) -> dict[str, Tensor | None]:
    """The agent's weights and noise under the published names, on the CPU.

    Args:
        of: what to export of each parameter, such as its gradient; None: its value.

    Returns:
        Detached copies by name; None where `of` gave None. Epsilon buffers and the unused
        advantage bias come with values only.

    Raises:
        ConfigError: the agent has settings that the published code does not know.
    """
    exported: dict[str, Tensor | None] = {}
    for name, parts in _slots(agent):
        values = [part if of is None else of(part) for part in parts]
        known = [value.detach() for value in values if value is not None]
        exported[name] = torch.cat(known).cpu() if len(known) == len(values) else None
    if of is None:
        exported |= _published_noise(agent.network.head)
        exported["head.advantage_bias"] = torch.zeros(agent.network.head.num_atoms)
    return exported


def _published_noise(head: DuelingHead) -> dict[str, Tensor]:
    """The epsilon buffers of a published head."""
    if not head.noisy:
        return {}
    buffers, parts = {}, head.noise.cpu().split(head.noise_sizes)
    for name, noise_in, noise_out in zip(HEAD_LAYERS, parts[0::2], parts[1::2], strict=True):
        buffers[f"head.{name}.weight_epsilon"] = torch.outer(noise_out, noise_in)
        buffers[f"head.{name}.bias_epsilon"] = noise_out.clone()
    return buffers


def head_normals(tensors: Mapping[str, Tensor]) -> Tensor:
    """The normals (head.noise_size,) that yield the epsilon buffers `head.*` of a published model.

    Its weights' epsilon is the outer product of f(out) and f(in), f(x) = sign(x) sqrt|x|, its
    bias' epsilon is f(out).
    """
    scaled = []
    for name in HEAD_LAYERS:
        outer = tensors[f"head.{name}.weight_epsilon"].float()
        noise_out = tensors[f"head.{name}.bias_epsilon"].float()
        largest = int(noise_out.abs().argmax())
        scaled += [outer[largest] / noise_out[largest], noise_out]
    noise = torch.cat(scaled)
    return noise.sign() * noise.square()


def _check(
    tensors: Mapping[str, Tensor], slots: list[_Slot], head: DuelingHead, ignore_objective: bool
) -> None:
    problems = _problems(tensors, slots, head, ignore_objective)
    if problems:
        raise ConfigError(f"official weights do not fit this agent: {'; '.join(problems)}")


def _copy(tensors: Mapping[str, Tensor], slots: list[_Slot], head: DuelingHead) -> None:
    for slot in slots:
        pieces = tensors[slot.name].split([len(part) for part in slot.parts])
        for part, piece in zip(slot.parts, pieces, strict=True):
            part.copy_(piece)
    if head.noisy and f"head.{HEAD_LAYERS[0]}.bias_epsilon" in tensors:
        head.redraw(head_normals(tensors).to(head.noise.device))


def _problems(
    tensors: Mapping[str, Tensor], slots: list[_Slot], head: DuelingHead, ignore_objective: bool
) -> list[str]:
    """What is missing, unknown or misshapen, in words."""
    shapes = {slot.name: slot.shape for slot in slots}
    epsilon = _epsilon_shapes(head) if any(_EPSILON.fullmatch(name) for name in tensors) else {}
    shapes |= epsilon
    missing = sorted(set(shapes) - set(tensors))
    unknown = sorted(
        name
        for name in set(tensors) - set(shapes)
        if not _UNUSED.fullmatch(name) and not (ignore_objective and _OBJECTIVE.fullmatch(name))
    )
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    found = {"missing": missing, "unknown": unknown, "misshapen": misshapen}
    return [f"{kind}: {', '.join(names)}" for kind, names in found.items() if names]


def _epsilon_shapes(head: DuelingHead) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in zip(HEAD_LAYERS, head.layers, strict=True):
        if layer.weight_sigma is not None:
            shapes[f"head.{name}.weight_epsilon"] = tuple(layer.weight_sigma.shape)
            shapes[f"head.{name}.bias_epsilon"] = tuple(layer.bias_mu.shape)
    return shapes


def _slots(agent: Rainbow) -> Iterator[_Slot]:
    """Every tensor that the published model and the agent have in common."""
    yield from _network_slots(agent.network)
    objective = agent.objective
    if objective is None:
        return
    if not isinstance(objective, MLR):
        raise ConfigError("agent.objective: official weights exist for mlr and for null only")
    decoder = objective.decoder
    if objective.settings.decoder_width is not None or decoder.action_embedding is None:
        raise ConfigError("agent: the published decoder has decoder_width null and action tokens")
    projection = objective.target_projection.target
    if not isinstance(projection, Projection) or objective.settings.target_ema_tau is None:
        raise ConfigError("agent: the published model has projection heads and momentum targets")
    for index, block in enumerate(decoder.blocks):
        assert isinstance(block, Block)
        yield from _block_slots(f"transformer.{index}", block)
    yield from _linear_slots("action_embedding", decoder.action_embedding)
    yield from _linear_slots("global_final_classifier.0", objective.predictor)
    yield from _encoder_slots("target_encoder", objective.target_encoder.target)
    for index, layer in enumerate((projection.value_hidden, projection.advantage_hidden)):
        yield _Slot(f"global_target_classifier.encoders.{index}.weight_mu", (layer.weight_mu,))
        yield _Slot(f"global_target_classifier.encoders.{index}.bias_mu", (layer.bias_mu,))


def _network_slots(network: QNetwork) -> Iterator[_Slot]:
    yield from _encoder_slots("conv", network.encoder)
    for name, layer in zip(HEAD_LAYERS, network.head.layers, strict=True):
        yield from _noisy_slots(f"head.{name}", layer)


def _encoder_slots(name: str, encoder: Encoder) -> Iterator[_Slot]:
    for index, conv in enumerate(encoder.convs):
        yield from _linear_slots(f"{name}.conv.{2 * index}", conv)


def _noisy_slots(name: str, layer: NoisyLinear) -> Iterator[_Slot]:
    if layer.weight_sigma is None or layer.bias_sigma is None:
        yield _Slot(f"{name}.weight", (layer.weight_mu,))
        yield _Slot(f"{name}.bias", (layer.bias_mu,))
        return
    for kind in ("weight_mu", "weight_sigma", "bias_mu", "bias_sigma"):
        yield _Slot(f"{name}.{kind}", (getattr(layer, kind),))


def _block_slots(name: str, block: Block) -> Iterator[_Slot]:
    attention = block.attention
    qkv = (attention.query.weight, attention.key_value.weight)
    yield _Slot(f"{name}.attn.qkv.weight", qkv)
    yield from _linear_slots(f"{name}.attn.proj", attention.output)
    yield from _linear_slots(f"{name}.norm1", block.norm1)
    yield from _linear_slots(f"{name}.norm2", block.norm2)
    yield from _linear_slots(f"{name}.mlp.fc1", block.mlp[0])
    yield from _linear_slots(f"{name}.mlp.fc2", block.mlp[2])


def _linear_slots(name: str, layer: Any) -> Iterator[_Slot]:
    yield _Slot(f"{name}.weight", (layer.weight,))
    yield _Slot(f"{name}.bias", (layer.bias,))
