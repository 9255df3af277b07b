"""Environments for evaluation: several in lockstep, here or in processes of their own.

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
from itertools import pairwise
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from ..environment import EnvironmentSettings, PixelControlEnv
from ..errors import RunError

Observed = tuple[np.ndarray, np.ndarray, np.ndarray]  # of n environments: obs, rewards, over


class EvaluationEnvs:
    """N environments that are reset and stepped together; the results are the same for any
    number of processes.
    """

    def __init__(
        self, task: str, settings: EnvironmentSettings, num_envs: int, processes: int = 0
    ) -> None:
        """Load the simulators.

        Args:
            num_envs: N. It is the policy's batch size, on which the last bits of its actions
                depend; so N, unlike `processes`, is part of what defines a score.
            processes: worker processes, at most N; 0 plays all environments in this one.
        """
        self.num_envs = num_envs
        shares = np.array_split(np.arange(num_envs), min(processes, num_envs) or 1)
        sizes = [len(share) for share in shares]
        self._bounds = np.cumsum(sizes)[:-1]
        member = _Worker if processes else _Here
        self._members: list[_Member] = [member(task, settings, size) for size in sizes]

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        """Begin an episode for each seed, of which there are at most N.

        Returns:
            Observations, uint8 (N, S*3, H, W); all zero for environments without a seed.
        """
        padded = [*seeds, *[None] * (self.num_envs - len(seeds))]
        for member, share in zip(self._members, self._shares(padded), strict=True):
            member.ask("reset", share)
        return np.concatenate([member.answer() for member in self._members])

    def step(self, actions: np.ndarray, active: np.ndarray) -> Observed:
        """Step the environments that are `active`, bool (N,), with float32 (N, A) in [-1, 1].

        Returns:
            Observations uint8 (N, S*3, H, W), rewards float64 (N,), over bool (N,); zero and
            false for the others.
        """
        shares = zip(self._members, self._shares(actions), self._shares(active), strict=True)
        for member, *share in shares:
            member.ask("step", *share)
        parts = zip(*(member.answer() for member in self._members), strict=True)
        obs, rewards, over = (np.concatenate(part) for part in parts)
        return obs, rewards, over

    def close(self) -> None:
        """End the workers, or free the simulators here."""
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

    def _shares(self, values: Any) -> list[Any]:
        """`values` of all environments, split up among the members."""
        ends = [0, *self._bounds, self.num_envs]
        return [values[low:high] for low, high in pairwise(ends)]


class _Group:
    """Some of the environments, in whichever process they live."""

    def __init__(self, task: str, settings: EnvironmentSettings, size: int) -> None:
        self._envs = [PixelControlEnv(task, settings) for _ in range(size)]
        shape = self._envs[0].observation_space.shape or ()
        self._blank = np.zeros(shape, np.uint8)

    def reset(self, seeds: Sequence[int | None]) -> np.ndarray:
        return np.stack(
            [
                self._blank if seed is None else env.reset(seed=seed)[0]
                for env, seed in zip(self._envs, seeds, strict=True)
            ]
        )

    def step(self, actions: np.ndarray, active: np.ndarray) -> Observed:
        obs, rewards, over = [], [], []
        for env, action, plays in zip(self._envs, actions, active, strict=True):
            seen, reward, ended = self._blank, 0.0, False
            if plays:
                seen, reward, terminated, truncated, _ = env.step(action)
                ended = terminated or truncated
            obs.append(seen)
            rewards.append(reward)
            over.append(ended)
        return np.stack(obs), np.array(rewards), np.array(over)

    def close(self) -> None:
        for env in self._envs:
            env.close()


class _Member(Protocol):
    """Asks a group and fetches its answer, so that all groups can work at the same time."""

    def ask(self, method: str, *arguments: Any) -> None: ...

    def answer(self) -> Any: ...

    def close(self) -> None: ...


class _Here:
    """A group in this process."""

    def __init__(self, task: str, settings: EnvironmentSettings, size: int) -> None:
        self._group = _Group(task, settings, size)
        self._answer: Any = None

    def ask(self, method: str, *arguments: Any) -> None:
        self._answer = getattr(self._group, method)(*arguments)

    def answer(self) -> Any:
        return self._answer

    def close(self) -> None:
        self._group.close()


class _Worker:
    """A group in a process of its own, which ends when this one does."""

    def __init__(self, task: str, settings: EnvironmentSettings, size: int) -> None:
        self._connection, theirs = Pipe()
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(theirs.fileno())],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for the training process to handle
        )
        theirs.close()
        self._connection.send((task, settings, size))

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


def _serve(connection: Connection) -> None:
    """Answer until the other end is closed, be it on purpose or by the death of its process."""
    group = None
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


if __name__ == "__main__":
    for _signal in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(_signal, signal.SIG_IGN)  # schedulers send them to every process of a job
    _serve(Connection(int(sys.argv[1])))
