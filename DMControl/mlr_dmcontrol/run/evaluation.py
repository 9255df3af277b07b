"""Scoring a policy by whole episodes, here or in processes of their own, and films of it.

A worker is a plain subprocess, not one of `multiprocessing`: that would import the training
script, and with it PyTorch, into each of them. Nor does this module import it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import RunError

# Observations uint8 (n, ...) and the generators of their episodes, for a policy that now and then
# acts at random, to n actions.
Policy = Callable[[np.ndarray, Sequence[np.random.Generator]], np.ndarray]
Seen = tuple[np.ndarray, float, bool]  # observation, reward, whether the episode is over

_PICTURE_ROWS = 160  # a film of fewer is enlarged; a GIF has hardly more
_GIF_RATE, _GIF_SECONDS = 10.0, 60.0


@dataclass(frozen=True)
class EvaluationResult:
    """What each episode brought, in the order of their numbers."""

    scores: list[float]  # sums of rewards
    lengths: list[int]  # agent steps
    seconds: float = field(default=0.0, compare=False)  # that it took


class Order(NamedTuple):
    """What the environment at one place is to do: begin the episode of `seed`, or play `action`."""

    place: int
    seed: int | None
    action: Any


class EvaluationEnvs:
    """Places for N episodes at a time, each with an environment that is made when first used.

    What is seen does not depend on the number of processes.

    Args:
        make: makes an environment, whose rewards are the score; it is pickled for workers.
        processes: worker processes, at most N; 0 plays all episodes in this one.
        full_batches: the policy always acts on N observations, blank where nobody plays. The last
            bits of its actions depend on how many there are, and with actions that are real
            numbers so does the score: then N, unlike `processes`, is part of what defines it.

    Attributes:
        processes: workers that there are.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        num_envs: int,
        processes: int = 0,
        *,
        full_batches: bool = False,
    ) -> None:
        self.num_envs, self.full_batches = num_envs, full_batches
        self._here = _Group(make)
        self._workers = [_Worker(make) for _ in range(min(processes, num_envs))]
        self.processes = len(self._workers)

    def advance(self, orders: Sequence[Order]) -> list[Seen]:
        """Carry out one order for each of some places, all at the same time.

        Raises:
            RunError: a worker is dead.
        """
        if not self._workers:
            return [self._here.follow(order) for order in orders]
        workers = [self._workers[order.place % len(self._workers)] for order in orders]
        for worker, order in zip(workers, orders, strict=True):
            worker.ask(order)
        return [worker.answer() for worker in workers]

    def close(self) -> None:
        """End the workers, and the environments here."""
        self._here.close()
        for worker in self._workers:
            worker.close()


@dataclass
class _Episode:
    number: int
    generator: np.random.Generator
    obs: np.ndarray


def evaluate(
    policy: Policy,
    envs: EvaluationEnvs,
    episodes: int,
    episode_seed: Callable[[int], int],
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> EvaluationResult | None:
    """Play episodes 0, 1, ... and sum their rewards; every call plays the same ones.

    As many as `envs` has places are under way; where one ends the next one begins.

    Args:
        episode_seed: seed of the k-th episode.
        should_stop: asked before every step.

    Returns:
        The result, or None if it was stopped.
    """
    start, scores, lengths = time.perf_counter(), [0.0] * episodes, [0] * episodes
    waiting, playing = iter(range(episodes)), dict[int, _Episode]()  # by place
    while not should_stop():
        orders = _decide(policy, envs, playing) if playing else []
        free = (place for place in range(envs.num_envs) if place not in playing)
        for place, number in zip(free, waiting, strict=False):
            seed = episode_seed(number)
            playing[place] = _Episode(number, _generator(seed), np.empty(0))
            orders.append(Order(place, seed, None))
        if not orders:
            return EvaluationResult(scores, lengths, time.perf_counter() - start)
        for order, (obs, reward, over) in zip(orders, envs.advance(orders), strict=True):
            episode = playing[order.place]
            episode.obs = obs
            lengths[episode.number] += order.seed is None
            scores[episode.number] += reward
            if over:
                del playing[order.place]
    return None


def _decide(policy: Policy, envs: EvaluationEnvs, playing: dict[int, _Episode]) -> list[Order]:
    """One batch through the policy: the next action of every episode."""
    places = list(range(envs.num_envs)) if envs.full_batches else list(playing)
    nobody = _Episode(-1, _generator(0), np.zeros_like(next(iter(playing.values())).obs))
    batch = [playing.get(place, nobody) for place in places]
    obs = np.stack([episode.obs for episode in batch])
    actions = policy(obs, [episode.generator for episode in batch])
    return [
        Order(place, None, action)
        for place, action in zip(places, actions, strict=True)
        if place in playing
    ]


def _generator(seed: int) -> np.random.Generator:
    """What a policy draws from: it depends on the episode alone, whoever plays beside it."""
    return np.random.default_rng([seed, 1])  # another stream than the environment's own


def record_video(policy: Policy, env: Any, seed: int, path: Path) -> float:
    """Film the episode of `seed`: `path`.mp4, and its first minute, coarser, as `path`.gif.

    Returns:
        The episode's score.
    """
    import imageio.v2 as imageio  # workers do without

    path.parent.mkdir(parents=True, exist_ok=True)
    every = max(1, round(env.frame_rate / _GIF_RATE))  # steps between two pictures of the GIF
    # Without macro_block_size the codec would resize to a multiple of 16.
    film = imageio.get_writer(f"{path}.mp4", fps=env.frame_rate, macro_block_size=1)
    loop = imageio.get_writer(f"{path}.gif", duration=1000 * every / env.frame_rate, loop=0)
    generator, (obs, _) = _generator(seed), env.reset(seed=seed)
    score, step, over = 0.0, 0, False
    with film, loop:
        while True:
            picture = _enlarged(env.render())
            film.append_data(picture)
            if step % every == 0 and step < _GIF_SECONDS * env.frame_rate:
                coarse = max(1, picture.shape[0] // _PICTURE_ROWS)
                loop.append_data(picture[::coarse, ::coarse])
            if over:
                return score
            (action,) = policy(obs[None], [generator])
            obs, reward, terminated, truncated, _ = env.step(action)
            score, step, over = score + reward, step + 1, terminated or truncated


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """Small pictures made larger, and both sides even, as the codec wants them."""
    factor = -(-_PICTURE_ROWS // picture.shape[0])
    if any(side * factor % 2 for side in picture.shape[:2]):
        factor += factor % 2
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


class _Group:
    """Environments by their place, in whichever process they live."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._envs: dict[int, Any] = {}

    def follow(self, order: Order) -> Seen:
        if order.place not in self._envs:
            self._envs[order.place] = self._make()
        env = self._envs[order.place]
        if order.seed is not None:
            return env.reset(seed=order.seed)[0], 0.0, False
        obs, reward, terminated, truncated, _ = env.step(order.action)
        return obs, float(reward), terminated or truncated

    def close(self) -> None:
        for env in self._envs.values():
            env.close()


class _Worker:
    """A group in a process of its own, which ends when this one does."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._connection, theirs = Pipe()
        # The user's own environments must be importable there as they are here.
        paths = [str(Path(__file__).resolve().parents[2]), *sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve({theirs.fileno()})"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for the training process to handle
        )
        theirs.close()
        self._connection.send(make)

    def ask(self, order: Order) -> None:
        with suppress(ConnectionError):  # `answer` finds out why
            self._connection.send(order)

    def answer(self) -> Seen:
        """What came of the oldest order that was not answered yet."""
        try:
            seen: Seen | str = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            code = self._process.wait()
            raise RunError(f"an evaluation worker ended with code {code}") from error
        if isinstance(seen, str):
            raise RuntimeError(f"an evaluation worker failed:\n{seen}")
        return seen

    def close(self) -> None:
        self._connection.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(file_number: int) -> None:
    """A worker's life: answer until the other end is closed, on purpose or by its death."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # schedulers send them to every process of a job
    connection, group = Connection(file_number), None
    try:
        group = _Group(connection.recv())
        while True:
            connection.send(group.follow(connection.recv()))
    except (EOFError, ConnectionError):
        pass
    except Exception:  # noqa: BLE001 (whatever it is, the other end raises it)
        connection.send(traceback.format_exc())
    finally:
        if group is not None:
            group.close()
