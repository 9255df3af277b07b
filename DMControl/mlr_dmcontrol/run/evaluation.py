"""Scoring a policy, and films of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np

from ..environment import PixelControlEnv
from .workers import EvaluationEnvs

# Observations uint8 (N, S*3, H, W) to actions float32 (N, A), without exploration.
Policy = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class EvaluationResult:
    """What each episode brought, in the order of their seeds."""

    returns: list[float]  # sums of rewards
    lengths: list[int]  # agent steps

    @property
    def mean_return(self) -> float:
        """The score."""
        return float(np.mean(self.returns))


def evaluate(
    act: Policy,
    envs: EvaluationEnvs,
    episodes: int,
    episode_seed: Callable[[int], int],
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> EvaluationResult | None:
    """Play episodes 0, 1, ... and sum their rewards; every call plays the same ones.

    As many episodes as there are environments run in lockstep, then the next ones. The policy
    always sees a full batch; rows of environments that are done are blank.

    Args:
        episode_seed: seed of the k-th episode.
        should_stop: asked before every step.

    Returns:
        The result, or None if it was stopped.
    """
    returns: list[float] = []
    lengths: list[int] = []
    for first in range(0, episodes, envs.num_envs):
        numbers = range(first, min(first + envs.num_envs, episodes))
        obs = envs.reset([episode_seed(number) for number in numbers])
        active = np.arange(envs.num_envs) < len(numbers)
        totals, steps = np.zeros(envs.num_envs), np.zeros(envs.num_envs, np.int64)
        while active.any():
            if should_stop():
                return None
            steps += active
            obs, rewards, over = envs.step(act(obs), active)
            totals += rewards
            active &= ~over
        returns += totals[: len(numbers)].tolist()
        lengths += steps[: len(numbers)].tolist()
    return EvaluationResult(returns, lengths)


def record_video(act: Policy, env: PixelControlEnv, seed: int, path: Path) -> float:
    """Film one episode at its natural speed, as `path`.mp4 and, coarser, as `path`.gif.

    Returns:
        The episode's return.
    """
    obs, _ = env.reset(seed=seed)
    frames: list[Any] = [env.render()]
    total = 0.0
    while not env.episode_over:
        obs, reward, *_ = env.step(act(obs[None])[0])
        frames.append(env.render())
        total += reward
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without macro_block_size the codec would resize to a multiple of 16.
    imageio.mimwrite(
        path.with_name(f"{path.name}.mp4"), frames, fps=env.frame_rate, macro_block_size=1
    )
    every = max(1, round(env.frame_rate / 10))
    small = [frame[::2, ::2] for frame in frames[::every]]
    milliseconds = 1000 * every / env.frame_rate
    imageio.mimwrite(path.with_name(f"{path.name}.gif"), small, duration=milliseconds, loop=0)
    return total
