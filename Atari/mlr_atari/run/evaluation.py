"""Scoring a policy by full games, and films of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import imageio.v2 as imageio
import numpy as np

from ..environment import GameEnv
from .workers import EvaluationEnvs, Order

# Observations uint8 (n, S, H, W), uniform float32 (n,) in [0, 1) and random actions int64 (n,), for
# a policy that now and then takes the random one, to actions int64 (n,).
Policy = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

_PICTURE_ROWS = 160  # a film of fewer rows is enlarged
_GIF_SECONDS = 60.0


@dataclass(frozen=True)
class EvaluationResult:
    """What each game brought, in the order of their numbers."""

    scores: list[float]  # raw
    lengths: list[int]  # agent steps

    @property
    def mean_score(self) -> float:
        """The score of the policy."""
        return float(np.mean(self.scores))


def evaluate(
    act: Policy,
    envs: EvaluationEnvs,
    games: int,
    episode_seed: Callable[[int], int],
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> EvaluationResult | None:
    """Play full games 0, 1, ...; every call plays the same ones.

    As many games as `envs` has places run in lockstep. Where one ends the next one begins, and
    when none is left the batch shrinks.

    Args:
        episode_seed: seed of the k-th game.
        should_stop: asked before every step.

    Returns:
        The result, or None if it was stopped.
    """
    result = EvaluationResult([0.0] * games, [0] * games)
    waiting, playing = iter(range(games)), dict[int, _Game]()  # by place
    while not should_stop():
        orders = _decide(act, playing, envs.num_actions) if playing else []
        free = (place for place in range(envs.num_envs) if place not in playing)
        for place, number in zip(free, waiting, strict=False):
            playing[place] = _Game(number, episode_seed(number))
            orders.append(Order(place, playing[place].seed, 0))
        if not orders:
            return result
        seen = envs.advance(orders)
        for order, obs, over, score in zip(orders, *seen, strict=True):
            game = playing[order.place]
            game.obs = obs
            result.lengths[game.number] += order.seed is None
            result.scores[game.number] = float(score)
            if over:
                del playing[order.place]
    return None


@dataclass
class _Game:
    """A game under way; what its policy draws depends on its seed and step alone."""

    number: int
    seed: int
    obs: np.ndarray = field(init=False)
    noise: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        # A sequence, so that the stream is another one than the game's own.
        self.noise = np.random.default_rng([self.seed, 1])


def _decide(act: Policy, playing: dict[int, _Game], num_actions: int) -> list[Order]:
    """One batch through the policy: the next action of every game."""
    games = list(playing.values())
    uniform = np.array([game.noise.random(dtype=np.float32) for game in games])
    random_action = np.array([game.noise.integers(num_actions) for game in games])
    actions = act(np.stack([game.obs for game in games]), uniform, random_action)
    return [Order(place, None, int(a)) for place, a in zip(playing, actions, strict=True)]


def record_video(act: Policy, env: GameEnv, seed: int, path: Path) -> float:
    """Film a game of an evaluation environment: `path`.mp4, and its first minute as `path`.gif.

    Returns:
        The game's raw score.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    every = max(1, round(env.frame_rate / 10))  # frames of the game between two of the GIF
    # Without macro_block_size the codec would resize to a multiple of 16.
    film = imageio.get_writer(path.with_suffix(".mp4"), fps=env.frame_rate, macro_block_size=1)
    loop = imageio.get_writer(
        path.with_suffix(".gif"), duration=1000 * every / env.frame_rate, loop=0
    )
    game = _Game(0, seed)
    with film, loop:
        game.obs, info = env.reset(seed=seed)
        while True:
            picture = _enlarged(env.render())
            film.append_data(picture)
            step = info["game_steps"]
            if step % every == 0 and step < _GIF_SECONDS * env.frame_rate:
                loop.append_data(picture)
            if info["game_over"]:
                return float(info["score"])
            (order,) = _decide(act, {0: game}, env.num_actions)
            game.obs, _, _, _, info = env.step(order.action)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """Small pictures made larger, and both sides even, as the codec wants them."""
    factor = -(-_PICTURE_ROWS // picture.shape[0])
    if any(side * factor % 2 for side in picture.shape[:2]):
        factor += factor % 2
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)
