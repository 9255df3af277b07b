"""What the probe needs of this benchmark: games with their objects, encoders, an objective."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from ..batch import Batch, UpdateNoise
from ..build import build_agent, set_up_process, settings_from
from ..device import to_device
from ..environment import AtariEnv, EnvironmentSettings
from ..networks import Encoder
from ..objectives.interface import Metrics
from ..parts import Parts
from ..rainbow import Rainbow
from ..run.seeding import Streams, episode_seed
from .ram import object_names, positions
from .recording import HeldActions, Recording, Sample, recorded

BASELINE = "rainbow"
_PICTURE = ("image_size", "frame_stack")  # settings that do not change what happens
_EVERY = 2  # decisions between samples, which are alike otherwise

Agent = Rainbow
Environment = AtariEnv


def environment_of(cfg: DictConfig) -> AtariEnv:
    """The run's console, playing whole games.

    Raises:
        ConfigError: where the game keeps its objects is not known.
    """
    object_names(cfg.game.name)
    settings = settings_from(EnvironmentSettings, cfg.environment)
    return AtariEnv(cfg.game.name, settings, training=False, seed=0)


def agent_of(cfg: DictConfig, env: AtariEnv) -> Rainbow:
    """The run's agent before anything was learnt."""
    return build_agent(
        cfg.agent,
        obs_shape=env.obs_shape,
        num_actions=env.num_actions,
        device=set_up_process(cfg),
        seed=cfg.seed,
        precision=cfg.precision,
    )


def encoder_of(agent: Rainbow) -> Encoder:
    """What is probed."""
    return agent.network.encoder


def seen(agent: Rainbow, obs: Tensor) -> Tensor:
    """What an evaluation shows the encoder of uint8 observations (N, S, H, W): all of it."""
    del agent
    return obs


@torch.no_grad()
def latents(agent: Rainbow, images: Tensor) -> Tensor:
    """uint8 images (N, S, H, W) -> latents float32 (N, Z), on the CPU."""
    return agent.network.encoder(images.to(agent.device) * (1 / 255)).flatten(1).cpu()


def record(
    cfg: DictConfig, env: AtariEnv, episodes: int, steps: int, seed: int, folder: Path
) -> Recording:
    """`steps` samples of `episodes` games, or as many as there are, with their objects."""
    settings = {str(name): value for name, value in cfg.environment.items()}
    facts = {name: value for name, value in settings.items() if name not in _PICTURE}
    facts |= {"game": cfg.game.name, "episodes": episodes, "steps": steps, "seed": seed}
    return recorded(
        facts,
        {name: settings[name] for name in _PICTURE},
        lambda: object_names(cfg.game.name),
        lambda: _play(env, episodes, steps, seed),
        folder,
    )


def fill(parts: Parts, streams: Streams, count: int) -> int:
    """Store decisions of a uniformly random policy without their rewards; how many there are."""
    env, replay, count = parts.env, parts.replay, min(count, parts.plan.capacity)
    for _ in range(count):
        if env.episode_over:
            env.reset()
        drawn = torch.randint(env.num_actions, (1,), generator=streams["exploration"])
        action = int(drawn)
        frame = env.frame
        _, _, terminated, truncated, _ = env.step(action)
        replay.add(frame, action, 0.0, terminated=terminated, truncated=truncated)
    return count


def objective_step(parts: Parts, streams: Streams, step: int) -> tuple[Metrics, Batch, UpdateNoise]:
    """An update of the encoder, the objective and its targets; RL learns nothing.

    All steps of the replay are equally likely, because priorities come from the RL loss.

    Raises:
        ConfigError: the replay is too small for the sequences.
    """
    agent, replay = parts.agent, parts.replay
    objective, settings = agent.objective, agent.settings
    assert objective is not None  # `train_alone` has looked
    uniforms = replay.draw(streams["replay"], settings.batch_size).to(agent.device)
    exponent = torch.tensor(settings.importance_exponent(0)).to(agent.device)
    batch = replay.gather(replay.find(uniforms), exponent)
    noise = to_device(agent.draw_noise(streams), agent.device)
    objective.set_schedules(step)
    loss, metrics = objective.loss(agent.network.encoder, batch, noise.objective)
    if objective.targets_move == "before_step":
        objective.update_targets()
    agent.optimizer.minimise(agent.objective_weight * loss)
    if objective.targets_move == "after_step":
        objective.update_targets()
    return metrics, batch, noise


def _play(env: AtariEnv, episodes: int, steps: int, seed: int) -> Iterator[Sample]:
    draw = partial(_random_action, env.num_actions)
    for episode in range(episodes):
        env.reset(seed=episode_seed(seed, "probe", episode))
        act = HeldActions(seed, episode, draw)
        for decision in range(_EVERY * steps):
            env.step(act())
            if decision % _EVERY == 0:
                yield Sample(episode, env.observation, positions(env.game, env.memory))
            if env.episode_over:
                break


def _random_action(count: int, random: np.random.Generator) -> int:
    return int(random.integers(count))
