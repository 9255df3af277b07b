"""What the probe needs of this benchmark: episodes with their state, encoders, an objective."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from ..augmentation import center_crop, to_float
from ..batch import Batch, UpdateNoise
from ..build import build_agent, set_up_process, settings_from
from ..device import to_device
from ..environment import EnvironmentSettings, PixelControlEnv
from ..networks import Encoder
from ..objectives.interface import Metrics
from ..parts import Parts
from ..run.seeding import Streams, episode_seed
from ..sac import SAC
from .recording import HeldActions, Recording, Sample, recorded
from .state import state, state_names

BASELINE = "sac"
_PICTURE = ("image_size", "frame_stack", "fast_render")  # settings that change no state

Agent = SAC
Environment = PixelControlEnv


def environment_of(cfg: DictConfig) -> PixelControlEnv:
    """The run's simulator."""
    return PixelControlEnv(cfg.task.name, settings_from(EnvironmentSettings, cfg.environment))


def agent_of(cfg: DictConfig, env: PixelControlEnv) -> SAC:
    """The run's agent before anything was learnt."""
    return build_agent(
        cfg.agent,
        obs_shape=env.obs_shape,
        action_dim=env.action_dim,
        device=set_up_process(cfg),
        seed=cfg.seed,
        precision=cfg.precision,
    )


def encoder_of(agent: SAC) -> Encoder:
    """What is probed."""
    return agent.networks.encoder


def seen(agent: SAC, obs: Tensor) -> Tensor:
    """What an evaluation shows the encoder of uint8 observations (N, S*C, H, W); still uint8."""
    return center_crop(obs, agent.settings.crop_size)


@torch.no_grad()
def latents(agent: SAC, images: Tensor) -> Tensor:
    """uint8 images as `seen` gives them -> latents float32 (N, Z), on the CPU."""
    return agent.networks.encoder(to_float(images.to(agent.device))).cpu()


def record(
    cfg: DictConfig, env: PixelControlEnv, episodes: int, steps: int, seed: int, folder: Path
) -> Recording:
    """`steps` decisions of `episodes` episodes with positions and velocities."""
    settings = {str(name): value for name, value in cfg.environment.items()}
    facts = {name: value for name, value in settings.items() if name not in _PICTURE}
    facts |= {"task": cfg.task.name, "episodes": episodes, "steps": steps, "seed": seed}
    return recorded(
        facts,
        {name: settings[name] for name in _PICTURE},
        lambda: state_names(env.physics, env.settings.camera_id),
        lambda: _play(env, episodes, steps, seed),
        folder,
    )


def fill(parts: Parts, streams: Streams, count: int) -> int:
    """Store decisions of a uniformly random policy without their rewards; how many there are."""
    env, replay, count = parts.env, parts.replay, min(count, parts.plan.capacity)
    for _ in range(count):
        if env.episode_over:
            env.reset()
            replay.start_episode(env.frame)
        action = torch.rand(env.action_dim, generator=streams["exploration"]) * 2 - 1
        _, _, terminated, truncated, _ = env.step(action.numpy())
        replay.add(action.numpy(), 0.0, env.frame, terminated, truncated)
    return count


def objective_step(parts: Parts, streams: Streams, step: int) -> tuple[Metrics, Batch, UpdateNoise]:
    """An update of the objective and of all momentum targets; RL learns nothing."""
    agent, replay = parts.agent, parts.replay
    drawn = replay.draw(streams["replay"], agent.settings.batch_size, parts.num_windows)
    batch, noise = replay.gather(*drawn), to_device(agent.draw_noise(streams), agent.device)
    agent.set_schedules(step)
    metrics = agent.update_objective(batch, noise)
    if agent.due(step)["target_step"]:
        agent.update_targets()
    agent.update_step += 1
    return metrics, batch, noise


def _play(env: PixelControlEnv, episodes: int, steps: int, seed: int) -> Iterator[Sample]:
    draw = partial(_random_action, env.action_dim)
    for episode in range(episodes):
        env.reset(seed=episode_seed(seed, "probe", episode))
        act = HeldActions(seed, episode, draw)
        for _ in range(steps):
            env.step(act())
            labels = state(env.physics, env.settings.camera_id)
            yield Sample(episode, env.observation, labels)
            if env.episode_over:
                break


def _random_action(size: int, random: np.random.Generator) -> np.ndarray:
    return random.uniform(-1.0, 1.0, size).astype(np.float32)
