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

Parity is checked from outside of this repository, too, so these names and their arguments stay
(`tests/test_official_names.py`): `settings.compose` and `build.build_agent` for an agent,
`load_official` and `export_official` for weights, `agent.update` for an update, `agent.rl_loss` and
`agent.objective.loss` for a loss with batch and noise given, `environment.EnvironmentSettings` and
`environment.make_environment` for an environment.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from .errors import ConfigError
from .networks import DuelingHead, Projection, QNetwork
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
_BLOCK_LAYERS = {
    "attn.proj": "attention.output",
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}
_JOINT = ("query", "key_value")  # of attn.qkv

Parameters = dict[str, list[Tensor]]  # ours by published name; several stand below each other in it


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
    ours, its = _parameters(agent), _network(agent.target_network)
    _check(tensors, ours, agent.network.head, ignore_objective=agent.objective is None)
    if target is not None:
        _check(target, its, agent.target_network.head, ignore_objective=True)
    _copy(tensors, ours, agent.network.head)
    if target is None:
        agent.copy_target()
    else:
        _copy(target, its, agent.target_network.head)


@torch.no_grad()
def export_official(
    agent: Rainbow, of: Callable[[Tensor], Tensor | None] | None = None
) -> dict[str, Tensor | None]:
    """The agent's weights and noise under the published names, on the CPU.

    Args: `of`: what to export of each parameter, such as its gradient; None: its value.

    Returns:
        Detached copies by name; None where `of` gave None. Epsilon buffers and the unused
        advantage bias come with values only.

    Raises:
        ConfigError: the agent has settings that the published code does not know.
    """
    exported: dict[str, Tensor | None] = {}
    for name, parts in _parameters(agent).items():
        values = [part if of is None else of(part) for part in parts]
        known = [value.detach() for value in values if value is not None]
        exported[name] = torch.cat(known).cpu() if len(known) == len(values) else None
    if of is None:
        exported |= _epsilon(agent.network.head)
        exported["head.advantage_bias"] = torch.zeros(agent.network.head.num_atoms)
    return exported


def _epsilon(head: DuelingHead) -> dict[str, Tensor]:
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
    tensors: Mapping[str, Tensor], ours: Parameters, head: DuelingHead, ignore_objective: bool
) -> None:
    shapes = {name: (sum(map(len, parts)), *parts[0].shape[1:]) for name, parts in ours.items()}
    epsilon = {name: tuple(buffer.shape) for name, buffer in _epsilon(head).items()}
    shapes |= epsilon if epsilon.keys() & tensors.keys() else {}
    unknown = sorted(
        name
        for name in tensors.keys() - shapes.keys()
        if not _UNUSED.fullmatch(name) and not (ignore_objective and _OBJECTIVE.fullmatch(name))
    )
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    missing = sorted(shapes.keys() - tensors.keys())
    found = {"missing": missing, "unknown": unknown, "misshapen": misshapen}
    problems = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in found.items() if names)
    if problems:
        raise ConfigError(f"official weights do not fit this agent: {problems}")


def _copy(tensors: Mapping[str, Tensor], ours: Parameters, head: DuelingHead) -> None:
    for name, parts in ours.items():
        pieces = tensors[name].split([len(part) for part in parts])
        for part, piece in zip(parts, pieces, strict=True):
            part.copy_(piece)
    if head.noisy and f"head.{HEAD_LAYERS[0]}.bias_epsilon" in tensors:
        head.redraw(head_normals(tensors).to(head.noise.device))


def _parameters(agent: Rainbow) -> Parameters:
    """Every tensor that the published model and the agent have in common."""
    ours, objective = _network(agent.network), agent.objective
    if objective is None:
        return ours
    if not isinstance(objective, MLR):
        raise ConfigError("agent.objective: official weights exist for mlr and for null only")
    decoder = objective.decoder
    if objective.settings.decoder_width is not None or decoder.action_embedding is None:
        raise ConfigError("agent: the published decoder has decoder_width null and action tokens")
    projection = objective.target_projection.target
    if not isinstance(projection, Projection) or objective.settings.target_ema_tau is None:
        raise ConfigError("agent: the published model has projection heads and momentum targets")
    for index, block in enumerate(decoder.blocks):
        joint = [block.get_parameter(f"attention.{layer}.weight") for layer in _JOINT]
        ours[f"transformer.{index}.attn.qkv.weight"] = list(joint)
        for published, own in _BLOCK_LAYERS.items():
            ours |= _named(f"transformer.{index}.{published}", block.get_submodule(own))
    ours |= _named("action_embedding", decoder.action_embedding)
    ours |= _named("global_final_classifier.0", objective.predictor)
    ours |= _convolutions("target_encoder", objective.target_encoder.target.convs)
    for index, layer in enumerate((projection.value_hidden, projection.advantage_hidden)):
        ours[f"global_target_classifier.encoders.{index}.weight_mu"] = [layer.weight_mu]
        ours[f"global_target_classifier.encoders.{index}.bias_mu"] = [layer.bias_mu]
    return ours


def _network(network: QNetwork) -> Parameters:
    ours = _convolutions("conv", network.encoder.convs)
    for name, layer in zip(HEAD_LAYERS, network.head.layers, strict=True):
        own = _named(f"head.{name}", layer)
        # Without noise the published layer is a plain one.
        ours |= own if network.head.noisy else {key[:-3]: each for key, each in own.items()}
    return ours


def _convolutions(prefix: str, layers: Iterable[nn.Module]) -> Parameters:
    ours: Parameters = {}
    for index, layer in enumerate(layers):
        ours |= _named(f"{prefix}.conv.{2 * index}", layer)
    return ours


def _named(prefix: str, layer: nn.Module) -> Parameters:
    return {f"{prefix}.{name}": [value] for name, value in layer.named_parameters()}
