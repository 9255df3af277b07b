"""Scoring a policy by whole episodes, here or in processes of their own, and films of it.

A worker is a plain subprocess, not one of `multiprocessing`: that would import the training
script, and with it PyTorch, into each of them. Nor does this module import it.
"""

import importlib
import itertools
import json
import logging
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ..errors import ConfigError, NonFiniteError, RunError, SimulatorError
from .disk import essential, names, own_folder
from .process import SIGNALS

# Observations uint8 (n, ...) and the generators of their episodes, for a policy that now and then
# acts at random, to n actions.
Policy = Callable[[np.ndarray, Sequence[np.random.Generator]], np.ndarray]
Make = Callable[[], Any]  # an environment, whose rewards are the score
# What the environment at one place is to do: place, seed of the episode to begin, or else action.
Order = tuple[int, int | None, Any]
# Observation, reward, whether the episode is over, and what the simulator raised, if it did.
Seen = tuple[np.ndarray, float, bool, str]

MOST_FAILURES = 10  # episodes in a row that the simulator may fail in
MOST_PLACES = 100  # environments, of up to 30 MB each
_SIDE = 320  # pixels, up to which pictures are enlarged, and of a GIF at most about twice
_GIF_RATE, _GIF_SECONDS = 10.0, 60.0
_USUAL_RATE = 15.0  # pictures a second, of an environment that does not say
_PATIENCE = 0.5  # seconds between two looks at something else while a worker is awaited

log = logging.getLogger(__name__)


@dataclass
class EvaluationResult:
    """What each episode brought, in the order of their numbers; so far, while it goes on."""

    scores: list[float]  # sums of rewards
    lengths: list[int]  # agent steps
    ended: list[int]  # numbers of the episodes that are over, as they ended
    seconds: float = 0.0  # that it took

    def add(self, number: int, reward: float, steps: int) -> None:
        """An episode went on by so much. Raises: NonFiniteError: its score is no number."""
        self.lengths[number] += steps
        self.scores[number] += reward
        if not math.isfinite(self.scores[number]):
            where = f"evaluation episode {number}, step {self.lengths[number]}"
            raise NonFiniteError(f"score={self.scores[number]} of {where}")

    def __str__(self) -> str:
        done, steps = len(self.ended), sum(self.lengths)
        return f"{done} of {len(self.scores)} episodes, {steps:,} agent steps"


class EvaluationEnvs:
    """Places for N episodes at a time, each with an environment that is made when first used.

    What is seen does not depend on the number of processes.

    Args:
        make: is pickled for workers.
        processes: worker processes, at most N; 0 plays all episodes in this one.
        full_batches: the policy always acts on N observations, blank where nobody plays. The last
            bits of its actions depend on how many there are, and with actions that are real
            numbers so does the score: then N, unlike `processes`, is part of what defines it.
    """

    def __init__(
        self, make: Make, num_envs: int, processes: int = 0, *, full_batches: bool = False
    ) -> None:
        self.num_envs, self.full_batches = min(num_envs, MOST_PLACES), full_batches
        self._make, self._envs = make, dict[int, Any]()  # of this process, by place
        self._workers = [_start(make) for _ in range(min(processes, self.num_envs))]
        self.processes = len(self._workers)

    def advance(self, orders: Sequence[Order], waiting: Callable[[], None]) -> list[Seen]:
        """Carry out one order for each of some places, all at the same time.

        `waiting` is called now and then until a worker answers; after what it raises, close.
        Raises: RunError: a worker is dead.
        """
        if not self._workers:
            return [self.follow(order) for order in orders]
        asked = [self._workers[place % len(self._workers)] for place, *_ in orders]
        for (connection, _), order in zip(asked, orders, strict=True):
            with suppress(ConnectionError):  # its answer will tell why
                connection.send(order)
        return [_answer(connection, process, waiting) for connection, process in asked]

    def follow(self, order: Order) -> Seen:
        """Carry out an order in this process."""
        place, seed, action = order
        env = self._envs[place] = self._envs.get(place) or self._make()
        try:
            if seed is not None:
                return env.reset(seed=seed)[0], 0.0, False, ""
            obs, reward, terminated, truncated, _ = env.step(action)
        except SimulatorError as error:
            return np.empty(0), 0.0, True, str(error)
        return obs, float(reward), terminated or truncated, ""

    def close(self) -> None:
        """End the workers, by force if they do not; close the environments here."""
        for env in self._envs.values():
            env.close()
        for connection, _ in self._workers:
            connection.close()
        for process in psutil.wait_procs([process for _, process in self._workers], timeout=10)[1]:
            process.kill()
            process.wait()


def _start(make: Make) -> tuple[Connection, psutil.Popen]:
    """A process that plays, and ends when this one does."""
    ours, theirs = Pipe()
    # The user's own environments must be importable there as they are here.
    paths = [str(Path(__file__).resolve().parents[2]), *sys.path]
    process = psutil.Popen(
        [sys.executable, "-c", f"from {__name__} import serve; serve({theirs.fileno()})"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        pass_fds=[theirs.fileno()],
        start_new_session=True,  # Ctrl-C is for the training process to handle
    )
    theirs.close()
    ours.send(make)
    return ours, process


def _answer(connection: Connection, process: Any, waiting: Callable[[], None]) -> Seen:
    """What came of the oldest order that was not answered yet."""
    try:
        while not connection.poll(_PATIENCE):
            waiting()
        answer: Seen | Exception = connection.recv()
    except (EOFError, ConnectionError) as error:
        code, what = process.wait(), "an evaluation worker ended"
        if code < 0:
            remedy = "evaluation.processes: take fewer where memory is short"
            raise ConfigError(f"{what} by {signal.Signals(-code).name}; {remedy}") from error
        raise RunError(f"{what} with code {code}") from error
    if isinstance(answer, Exception):
        raise answer
    return answer


def serve(file_number: int) -> None:
    """A worker's life: answer until the other end is closed, on purpose or by its death."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # schedulers send them to every process of a job
    connection = Connection(file_number)
    try:
        with closing(EvaluationEnvs(connection.recv(), num_envs=1)) as envs:
            while True:
                connection.send(envs.follow(connection.recv()))
    except (EOFError, ConnectionError):
        pass
    except Exception as error:  # noqa: BLE001 (whatever it is, the other end raises it)
        fault = RuntimeError(f"an evaluation worker failed:\n{traceback.format_exc()}")
        connection.send(error if isinstance(error, RunError) else fault)


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
    watch: Callable[[EvaluationResult], None] = lambda result: None,
) -> EvaluationResult:
    """Play episodes 0, 1, ... and sum their rewards; every call plays the same ones.

    As many as `envs` has places are under way; where one ends the next one begins. An episode in
    which the simulator fails is over by that.

    `episode_seed` gives the seed of the k-th episode; `watch` is shown what there is before every
    step and while it waits, and raises to end it.

    Raises: NonFiniteError: an action or a score is no number. SimulatorError: the simulator fails
    in every one of many. RunError: a worker is dead.
    """
    start, failed = time.perf_counter(), 0
    result = EvaluationResult([0.0] * episodes, [0] * episodes, [])
    waiting, playing = iter(range(episodes)), dict[int, _Episode]()  # by place

    def look() -> None:
        result.seconds = time.perf_counter() - start
        watch(result)

    while len(result.ended) < episodes:
        look()
        orders = _decide(policy, envs, playing) if playing else []
        free = (place for place in range(envs.num_envs) if place not in playing)
        for place, number in zip(free, waiting, strict=False):
            seed = episode_seed(number)
            playing[place] = _Episode(number, _generator(seed), np.empty(0))
            orders.append((place, seed, None))
        seen = envs.advance(orders, look)
        for (place, begun, _), (obs, reward, over, error) in zip(orders, seen, strict=True):
            episode = playing[place]
            number, episode.obs = episode.number, obs
            result.add(number, reward, steps=0 if begun is not None else 1)
            if error:
                failed += 1
                log.warning("evaluation: the simulator ends episode %d: %s", number, error)
            if over:
                del playing[place]
                result.ended.append(number)
    if failed == episodes >= MOST_FAILURES:
        raise SimulatorError(f"{error}; so it went in every episode of an evaluation")
    look()
    return result


def _decide(policy: Policy, envs: EvaluationEnvs, playing: dict[int, _Episode]) -> list[Order]:
    """One batch through the policy: the next action of every episode."""
    places = list(range(envs.num_envs)) if envs.full_batches else list(playing)
    nobody = _Episode(-1, _generator(0), np.zeros_like(next(iter(playing.values())).obs))
    batch = [playing.get(place, nobody) for place in places]
    obs = np.stack([episode.obs for episode in batch])
    actions = policy(obs, [episode.generator for episode in batch])
    if not np.isfinite(actions).all():
        raise NonFiniteError("an action of the evaluated policy is no number")
    moves = zip(places, actions, strict=True)
    return [(place, None, action) for place, action in moves if place in playing]


def _generator(seed: int) -> np.random.Generator:
    """What a policy draws from: it depends on the episode alone, whoever plays beside it."""
    return np.random.default_rng([seed, 1])  # another stream than the environment's own


def play(policy: Policy, env: Any, seed: int) -> Iterator[tuple[np.ndarray, float]]:
    """The episode of `seed`, picture by picture, enlarged if small, and the score so far."""
    generator, (obs, _) = _generator(seed), env.reset(seed=seed)
    score, over = 0.0, False
    while True:
        picture: np.ndarray = env.render()
        factor = max(1, _SIDE // max(picture.shape[:2]))
        yield picture.repeat(factor, axis=0).repeat(factor, axis=1), score
        if over:
            return
        (action,) = policy(obs[None], [generator])
        try:
            obs, reward, terminated, truncated, _ = env.step(action)
        except SimulatorError as error:
            log.warning("the simulator ends the episode: %s", error)
            return
        score, over = score + reward, terminated or truncated


def _frame_rate(env: Any) -> float:
    """Agent steps in a second, where the environment knows it; else a usual rate."""
    rate = float(env.frame_rate)
    return rate if 0.1 <= rate <= 1000 else _USUAL_RATE  # also where it is not a number


def watch_episode(policy: Policy, env: Any, seed: int) -> None:
    """Play the episode of `seed` in a window, as fast as it is meant to be, until it is closed."""
    try:
        tkinter: Any = importlib.import_module("tkinter")
        window = tkinter.Tk()
    except ImportError as error:
        raise ConfigError(f"--watch: {error}; install it, or film with --video") from error
    except tkinter.TclError as error:
        raise ConfigError(f"--watch: {error}; film with --video where there is none") from error
    place, due = tkinter.Label(window), time.perf_counter()
    place.pack()
    with suppress(tkinter.TclError):  # it was closed
        for picture, _ in play(policy, env, seed):
            header = b"P6 %d %d 255 " % picture.shape[1::-1]
            image = tkinter.PhotoImage(data=header + picture.tobytes())
            place.configure(image=image)
            window.update()
            due += 1 / _frame_rate(env)
            time.sleep(max(0.0, due - time.perf_counter()))
        window.destroy()


def record_video(policy: Policy, env: Any, seed: int, path: Path) -> float:
    """Film the episode of `seed`: `path`.mp4, and of its first minute `path`.gif; its score.

    Without a working ffmpeg there is a warning instead of the first.
    """
    imageio: Any = importlib.import_module("imageio.v2")  # workers do without
    rate, score, loop = _frame_rate(env), 0.0, []
    every = max(1, round(rate / _GIF_RATE))  # steps between two pictures of the GIF

    def episode() -> Iterator[np.ndarray]:
        nonlocal score
        for step, (picture, score) in enumerate(play(policy, env, seed)):  # noqa: B007
            if step % every == 0 and step < _GIF_SECONDS * rate:
                coarse = max(1, max(picture.shape[:2]) // _SIDE)
                loop.append(picture[::coarse, ::coarse])
            yield picture

    pictures = episode()
    try:
        # The codec wants even sides; without macro_block_size it would be multiples of 16.
        with imageio.get_writer(f"{path}.mp4", fps=rate, macro_block_size=2) as film:
            for picture in pictures:
                film.append_data(picture)
    except (ImportError, OSError) as error:
        log.warning("%s.mp4 cannot be made: %s", path, str(error).partition("\n")[0])
    for _ in pictures:  # what is left of it
        pass
    with essential(f"{path}.gif cannot be written"):
        imageio.mimsave(f"{path}.gif", loop, duration=1000 * every / rate, loop=0)
    return score


def teller(metric: str) -> Callable[[EvaluationResult], None]:
    """For `evaluate`: prints each score as it comes, and once a minute how far it is."""
    told = minutes = 0

    def watch(result: EvaluationResult) -> None:
        nonlocal told, minutes
        for number in result.ended[told:]:
            score, length = result.scores[number], result.lengths[number]
            print(f"episode {number}: {metric} {score:.1f} in {length:,} agent steps", flush=True)
        told = len(result.ended)
        if result.seconds >= 60 * (minutes + 1):
            minutes = int(result.seconds // 60)
            print(result, flush=True)

    return watch


@contextmanager
def kept(folder: Path, name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A new file `folder`/`name`.json, or with a number behind it, for what the mapping will hold.

    Nothing there has its name, whatever its ending.

    Raises: ConfigError: nothing can be kept there, which shows at once. StorageError: nor now.
    """
    report: dict[str, Any] = {}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        own_folder(folder)
        taken = {Path(other).stem for other in names(folder)}  # of films too, and of links
        for number in itertools.count(1):
            path = folder / (f"{name}.json" if number == 1 else f"{name}_{number}.json")
            with suppress(FileExistsError):
                if path.stem not in taken:
                    path.open("x").close()
                    break
    except OSError as error:
        raise ConfigError(f"--out={folder}: nothing can be kept there ({error})") from error
    try:
        yield path, report
        with essential(f"{path} cannot be written"):
            path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
