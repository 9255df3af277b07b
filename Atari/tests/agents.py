"""Small agents and synthetic batches for the tests."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from mlr_atari.batch import Batch, UpdateNoise
from mlr_atari.build import build_agent
from mlr_atari.frames import FrameStacks
from mlr_atari.objectives import Objective
from mlr_atari.rainbow import Rainbow
from mlr_atari.run.seeding import Streams

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

# What takes the place of the sections that an agent's file refers to.
SMALL = {
    "image_size": 84,
    "patch_size": 12,
    "sequence_length": 4,
    "cube_depth": 8,
    "batch_size": 3,
    "num_filters": [4, 4, 2],
    "hidden_dim": 16,
    "decoder_width": None,
    "cycle_steps": 9,
    "virtual_per_action": 2,
    "cycle_ramp_agent_steps": 50000,
    "learning_starts": 2000,
    "updates_per_step": 2,
}
CPU = torch.device("cpu")


def agent_settings(name: str, **changes: Any) -> dict[str, Any]:
    """configs/agent/<name>.yaml at small sizes, with `changes` to its keys."""
    layers = [OmegaConf.load(CONFIGS / "agent" / f"{name}.yaml")]
    while "defaults" in layers[0]:
        (parent,) = (each for each in layers[0].pop("defaults") if each != "_self_")
        layers.insert(0, OmegaConf.load(CONFIGS / "agent" / f"{parent}.yaml"))
    sections = {"scale": SMALL, "game": {"mlr_weight": 1.0, "curl_weight": 1.0}}
    config = OmegaConf.create({**sections, "agent": OmegaConf.merge(*layers, changes)})
    return dict(OmegaConf.to_container(config, resolve=True)["agent"])


def small_agent(
    name: str = "mlr", seed: int = 0, precision: str = "fp32", **changes: Any
) -> Rainbow:
    """An agent of 4 actions for 4 x 84 x 84 observations."""
    settings = agent_settings(name, **changes)
    return build_agent(
        settings, obs_shape=(4, 84, 84), num_actions=4, device=CPU, seed=seed, precision=precision
    )


def synthetic_batch(
    seed: int, batch_size: int = 3, length: int = 4, actions: int = 4, side: int = 84
) -> Batch:
    """Random frames, actions, returns and weights."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(256, (40, 1, side, side), generator=generator, dtype=torch.uint8)
    stack = torch.arange(4)
    first = torch.randint(20, (batch_size,), generator=generator)
    index = first[None, :, None] + torch.arange(length)[:, None, None] + stack
    return Batch(
        obs=FrameStacks(frames, index),
        n_step_obs=FrameStacks(frames, first[:, None] + 10 + stack),
        action=torch.randint(actions, (length, batch_size), generator=generator),
        n_step_return=torch.randn(batch_size, generator=generator),
        bootstrap_discount=torch.tensor([0.9, 0.0, 0.9])[torch.arange(batch_size) % 3],
        ends=torch.zeros(length, batch_size, dtype=torch.bool),
        importance_weights=torch.rand(batch_size, generator=generator),
    )


def run_updates(
    agent: Rainbow, count: int, seed: int = 5, first: int = 0
) -> list[dict[str, torch.Tensor]]:
    """`count` updates on synthetic batches; the metrics and priorities of each."""
    streams, results = Streams(seed), []
    for step in range(first, first + count):
        metrics, priorities = updated(agent, batch_for(agent, step), agent.draw_noise(streams))
        results.append({**metrics, "priorities": priorities})
    return results


def updated(
    agent: Rainbow, batch: Batch, noise: UpdateNoise
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """One update, as the learner does it with given batch and noise."""
    agent_step = 2000 + agent.update_step
    agent.set_schedules(agent_step)
    results = agent.update(batch, noise, **agent.due(agent_step))
    agent.update_step += 1
    return results


def batch_for(agent: Rainbow, seed: int = 0) -> Batch:
    return synthetic_batch(seed, agent.settings.batch_size, agent.settings.sequence_length)


def objective_of(agent: Rainbow) -> Objective:
    assert agent.objective is not None
    return agent.objective


def diagnostics(agent: Rainbow, batch: Batch, noise: UpdateNoise) -> dict[str, float]:
    return objective_of(agent).diagnostics(agent.encoder, batch, noise.objective)


def preview(agent: Rainbow, batch: Batch, noise: UpdateNoise) -> torch.Tensor:
    picture = objective_of(agent).preview(batch, noise.objective)
    assert picture is not None
    return picture


def parts(name: str, kind: type, **changes: Any) -> tuple[Rainbow, Any]:
    """A small agent, and its objective of that `kind`."""
    agent = small_agent(name, **changes)
    assert isinstance(agent.objective, kind)
    return agent, agent.objective
