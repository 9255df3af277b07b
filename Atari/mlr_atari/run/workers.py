"""Games for evaluation: several in lockstep, here or in processes of their own.

A worker is a plain subprocess, not one of `multiprocessing`: that would import the training
script, and with it PyTorch, into each of them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..environment import EnvironmentSettings, GameEnv, make_environment
from ..errors import RunError


class Order(NamedTuple):
    """What one place is to do: begin the game of `seed`, or else play `action`."""

    place: int
    seed: int | None
    action: int


class Seen(NamedTuple):
    """What n places saw."""

    obs: np.ndarray  # uint8 (n, S, H, W)
    over: np.ndarray  # bool (n,), the game is
    scores: np.ndarray  # float64 (n,), raw, of the game so far


class EvaluationEnvs:
    """Places for N games, each with an emulator of its own that is loaded when first used.

    What is seen does not depend on the number of processes.
    """

    def __init__(
        self,
        game: str,
        settings: EnvironmentSettings,
        num_envs: int,
        *,
        seed: int,
        processes: int = 0,
    ) -> None:
        """Start the workers.

        Args:
            seed: the run's seed, for the emulators themselves.
            processes: worker processes, at most N; 0 plays all games in this one.
        """
        self.num_envs = num_envs
        member = _Worker if processes else _Here
        count = min(processes, num_envs) or 1
        self._members: list[_Member] = [member(game, settings, seed) for _ in range(count)]
        self._num_actions: int | None = None

    @property
    def num_actions(self) -> int:
        """Actions of the game."""
        if self._num_actions is None:
            self._members[0].ask("num_actions")
            self._num_actions = int(self._members[0].answer())
        return self._num_actions

    def advance(self, orders: Sequence[Order]) -> Seen:
        """Carry out one order for each of some places, all at the same time.

        Returns:
            What they saw, in the order of `orders`.
        """
        count = len(self._members)
        shares = [[each for each in orders if each.place % count == k] for k in range(count)]
        busy = [
            (member, share) for member, share in zip(self._members, shares, strict=True) if share
        ]
        for member, share in busy:
            member.ask("advance", share)
        parts: list[Seen] = [member.answer() for member, _ in busy]
        places = [order.place for _, share in busy for order in share]
        rank = {place: row for row, place in enumerate(places)}
        rows = [rank[order.place] for order in orders]
        return Seen(*(np.concatenate(part)[rows] for part in zip(*parts, strict=True)))

    def close(self) -> None:
        """End the workers, or close the games here."""
        for member in self._members:
            member.close()

    def __enter__(self) -> EvaluationEnvs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Group:
    """Some of the places, in whichever process they live."""

    def __init__(self, game: str, settings: EnvironmentSettings, seed: int) -> None:
        self._made = {"game": game, "settings": settings, "training": False, "seed": seed}
        self._envs: dict[int, GameEnv] = {}

    def num_actions(self) -> int:
        return self._env(0).num_actions

    def advance(self, orders: Sequence[Order]) -> Seen:
        seen = [self._follow(order) for order in orders]
        obs, over, scores = zip(*seen, strict=True)
        return Seen(np.stack(obs), np.array(over), np.array(scores))

    def close(self) -> None:
        for env in self._envs.values():
            env.close()

    def _follow(self, order: Order) -> tuple[np.ndarray, bool, float]:
        env = self._env(order.place)
        if order.seed is not None:
            return env.reset(seed=order.seed)[0], False, 0.0
        obs, _, terminated, truncated, info = env.step(order.action)
        return obs, terminated or truncated, info["score"]

    def _env(self, place: int) -> GameEnv:
        if place not in self._envs:
            self._envs[place] = make_environment(**self._made)  # type: ignore[arg-type]
        return self._envs[place]


class _Member(Protocol):
    """Asks a group and fetches its answer, so that all groups can work at the same time."""

    def ask(self, method: str, *arguments: Any) -> None: ...

    def answer(self) -> Any: ...

    def close(self) -> None: ...


class _Here:
    """A group in this process."""

    def __init__(self, game: str, settings: EnvironmentSettings, seed: int) -> None:
        self._group = _Group(game, settings, seed)
        self._answer: Any = None

    def ask(self, method: str, *arguments: Any) -> None:
        self._answer = getattr(self._group, method)(*arguments)

    def answer(self) -> Any:
        return self._answer

    def close(self) -> None:
        self._group.close()


class _Worker:
    """A group in a process of its own, which ends when this one does."""

    def __init__(self, game: str, settings: EnvironmentSettings, seed: int) -> None:
        self._connection, theirs = Pipe()
        # Own games must be importable there as they are here.
        paths = [str(Path(__file__).resolve().parents[2]), *sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve({theirs.fileno()})"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for the training process to handle
        )
        theirs.close()
        self._connection.send((game, settings, seed))

    def ask(self, method: str, *arguments: Any) -> None:
        with suppress(ConnectionError):  # `answer` finds out why
            self._connection.send((method, arguments))

    def answer(self) -> Any:
        try:
            worked, result = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            code = self._process.wait()
            raise RunError(f"an evaluation worker ended with code {code}") from error
        if not worked:
            raise RuntimeError(f"an evaluation worker failed:\n{result}")
        return result

    def close(self) -> None:
        self._connection.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(file_number: int) -> None:
    """A worker's life: answer until the other end is closed, on purpose or by its death."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(each, signal.SIG_IGN)  # schedulers send them to every process of a job
    connection, group = Connection(file_number), None
    try:
        group = _Group(*connection.recv())
        while True:
            method, arguments = connection.recv()
            connection.send((True, getattr(group, method)(*arguments)))
    except (EOFError, ConnectionError):
        pass
    except Exception:  # noqa: BLE001
        connection.send((False, traceback.format_exc()))
    finally:
        if group is not None:
            group.close()
