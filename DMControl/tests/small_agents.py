"""Small agents from the real YAML files, and synthetic batches for them."""

from dataclasses import asdict
from functools import cache
from typing import Any

import torch

from mlr_dmcontrol.batch import Batch, SequenceBatch, UpdateNoise
from mlr_dmcontrol.build import build_agent
from mlr_dmcontrol.frames import FrameStacks
from mlr_dmcontrol.objectives import Objective
from mlr_dmcontrol.optimization import Optimizer
from mlr_dmcontrol.run.seeding import Streams
from mlr_dmcontrol.sac import SAC
from mlr_dmcontrol.settings import compose

# The sizes of the agent in the goldens.
GOLDEN = {"num_filters": 4, "hidden_dim": 32}
SMALL = {"num_filters": 4, "hidden_dim": 16, "batch_size": 6, "conv_strides": (2, 2, 1, 1)}
SMALL_SEQUENCES = {"sequence_length": 4, "sequence_batch_size": 3, "cube_depth": 2}
SMALL_MODELS = {"transition_hidden_dim": 8, "num_cycles": 2, "cycle_steps": 3}
# Images of 32 pixels, for what does not depend on their size.
TINY = {"size": 32, "crop_size": 28, "patch_size": 8, "conv_strides": (2, 2)}


@cache
def _agent_cfg(name: str) -> dict[str, Any]:
    return asdict(compose([f"agent={name}"]).agent)


def agent_cfg(name: str, **changes: Any) -> dict[str, Any]:
    """Section `agent` of the configuration, with those `changes` that the agent has a key for."""
    cfg = _agent_cfg(name)
    return cfg | {key: value for key, value in changes.items() if key in cfg}


def make_agent(
    name: str, *, size: int = 100, device: str = "cpu", precision: str = "fp32", **changes: Any
) -> SAC:
    """A small agent with 3 actions for `size` x `size` images; `changes` are agent settings."""
    how = {"device": device, "precision": precision, "seed": changes.pop("seed", 0)}
    cfg = agent_cfg(name, **(SMALL | SMALL_SEQUENCES | SMALL_MODELS | changes))
    return build_agent(cfg, obs_shape=(9, size, size), action_dim=3, **how)


def make_batch(agent: SAC, seed: int = 0, size: int = 100) -> Batch:
    """Random frames, actions and rewards in the shapes that `agent` wants."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (40, 3, size, size), dtype=torch.uint8, generator=generator)

    def stacks(*lead: int) -> FrameStacks:
        return FrameStacks(frames, torch.randint(0, 40, (*lead, 3), generator=generator))

    def actions(*lead: int) -> torch.Tensor:
        return torch.rand(*lead, 3, generator=generator) * 2 - 1

    count = agent.settings.batch_size
    obs, next_obs, action = stacks(count), stacks(count), actions(count)
    reward = torch.rand(count, generator=generator)
    terminated = (torch.arange(count) % 4 == 0).float()
    sequence = None
    if agent.objective is not None and agent.objective.sequence_batch_size > 0:
        lead = (agent.objective.sequence_length, agent.objective.sequence_batch_size)
        sequence = SequenceBatch(stacks(*lead), actions(*lead), torch.zeros(lead))
    return Batch(obs, next_obs, action, reward, terminated, sequence)


def tiny(name: str, **changes: Any) -> SAC:
    """A tiny agent from the file configs/agent/<name>.yaml."""
    size = TINY["crop_size"] if name.startswith("drq") else TINY["size"]
    return make_agent(name, **(TINY | {"size": size} | changes))


def batch_for(agent: SAC, seed: int = 0) -> Batch:
    return make_batch(agent, seed, size=agent.augmentation.image_size)


def updates(agent: SAC, count: int, first: int = 0, seed: int = 5) -> list[dict[str, torch.Tensor]]:
    """Metrics of `count` updates on synthetic batches, the first one with all its parts."""
    streams, results = Streams(seed), []
    for step in range(first, first + count):
        results.append(updated(agent, batch_for(agent, step), agent.draw_noise(streams), step))
    return results


def updated(agent: SAC, batch: Batch, noise: UpdateNoise, step: int) -> dict[str, torch.Tensor]:
    """One update at an agent step, as the learner does it with given batch and noise."""
    agent.set_schedules(step)
    metrics = agent.update(batch, noise, **agent.due(step))
    agent.update_step += 1
    return metrics


def rates(optimizer: Optimizer) -> list[float]:
    """The present learning rate of each group."""
    return [group["lr"].item() for group in optimizer._adam.param_groups]


def diagnostics(agent: SAC, batch: Batch, noise: UpdateNoise) -> dict[str, float]:
    return objective_of(agent).diagnostics(agent.encoder, batch, noise.objective)


def preview(agent: SAC, batch: Batch, noise: UpdateNoise) -> torch.Tensor:
    picture = objective_of(agent).preview(batch, noise.objective)
    assert picture is not None
    return picture


def objective_of(agent: SAC) -> Objective:
    assert agent.objective is not None
    return agent.objective
