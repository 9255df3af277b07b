"""Games as Atari-100k plays them, and own ones. Imports no torch: worker processes use it."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, NamedTuple

import cv2
import gymnasium
import numpy as np

from .emulator import EMULATORS, NO_OP
from .errors import SimulatorError
from .games import canonical
from .names import is_own
from .own_environment import OwnEnvironment
from .protocol import TASK_KEY
from .run.schema import bounded, choice

MAX_NO_OPS = 30  # frames without an action before a game, drawn from 1 to this
STICKINESS = 0.25  # chance per frame that a sticky game repeats the frame before's action

Info = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EnvironmentSettings:
    """Keys of the section `environment`."""

    protocol: str = choice("atari100k", "atari100k_sticky")
    emulator: str = choice("ale_py", "atari_py")
    image_size: int = bounded(8, 1024)  # pixels, height = width
    frame_stack: int = bounded(1, 64)  # frames in an observation
    frame_skip: int = bounded(1, 1000)  # emulator frames per agent step
    max_steps: int = bounded(1, default=27_000)  # agent steps of a game, at most
    kwargs: dict[str, Any] = field(default_factory=dict)  # of an own game's constructor


def make_environment(
    game: str,
    settings: EnvironmentSettings,
    *,
    training: bool,
    seed: int,
    episode_seed: Callable[[int], int] | None = None,
) -> GameEnv:
    """The environment of any game: an Atari game in any spelling, or a Gymnasium id.

    Args:
        training: rewards clipped and episodes ended by a lost life; else raw and whole games.
        seed: the run's seed, for the emulator itself.
        episode_seed: seed of the k-th game, for `reset()` without a seed.

    Raises:
        ConfigError: unknown game, missing ROM or emulator, an own game that cannot be played.
    """
    game, common = canonical(game), {"training": training, "episode_seed": episode_seed}
    if is_own(game):
        return OwnGame(game, settings, **common)
    return AtariEnv(game, settings, seed=seed, **common)


class Played(NamedTuple):
    """What one agent step did to the game."""

    reward: float  # raw
    frame: np.ndarray  # uint8 (H, W), the newest one
    life_lost: bool  # and the game goes on
    game_over: bool
    truncated: bool  # the game was stopped before its end


class GameEnv(gymnasium.Env[np.ndarray, np.int64]):
    """A game whose observations are stacks of grey frames.

    Observations are uint8 (S, H, W), oldest first; at an episode's start S - 1 frames are blank.
    Actions are numbers in [0, A).

    In training (`training=True`) the reward is the sign of the raw one, and losing a life ends the
    episode: `step` then returns terminated, info["life_lost"], and the first observation of the
    next life, with which `reset` goes on in the same game. In evaluation the reward is raw and an
    episode is a whole game.

    Every step's info holds `raw_reward`; `score` and `game_steps`, the raw score and agent steps of
    the game so far; `lives`; `life_lost`; and `game_over`, whether `reset` will begin a new game.

    An error of an own game, SimulatorError from `step` or `reset`, ends it.

    Attributes:
        obs_shape: (S, H, W). num_actions: A.
        frame_rate: agent steps in a second of the game.
        episode_over: whether `reset` must come next. game_over: whether it will begin a new game.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (an attribute of gymnasium's)
    render_mode = "rgb_array"

    def __init__(
        self,
        game: str,
        settings: EnvironmentSettings,
        num_actions: int,
        frames_a_second: float,
        *,
        training: bool,
        episode_seed: Callable[[int], int] | None = None,
    ) -> None:
        self.game, self.settings, self.training = game, settings, training
        self.num_actions, self.frame_rate = num_actions, frames_a_second / settings.frame_skip
        self._episode_seed = episode_seed
        self._games = 0  # begun by a reset without a seed
        self._lives, self._game_steps, self._score = 0, 0, 0.0
        self.episode_over = self.game_over = True
        self._pristine = self._snapshot()
        self._before = self._pristine  # what the open game began from, beside its seed
        self._seed: int | None = None  # of the open game
        self._actions: list[int] = []  # of the open game
        self.obs_shape = (settings.frame_stack, settings.image_size, settings.image_size)
        self._stack = np.zeros(self.obs_shape, np.uint8)
        self.observation_space = gymnasium.spaces.Box(0, 255, self.obs_shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(num_actions)

    @property
    def observation(self) -> np.ndarray:
        """The latest observation, uint8 (S, H, W)."""
        return self._stack.copy()

    @property
    def frame(self) -> np.ndarray:
        """The newest frame of the observation, uint8 (H, W): what a replay stores."""
        return self._stack[-1].copy()

    @property
    def ends_at_life_loss(self) -> bool:
        """Whether losing a life ends an episode here."""
        return self.training and self.settings.protocol == "atari100k"

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, Info]:
        """Go on after a lost life, or begin the next game; with a seed, begin the seed's game.

        A seed's game depends on nothing else. The next game also depends on what the game before
        left in the console's memory, where some Atari games take their chance from.

        Raises:
            ValueError: a new game needs a seed and neither it nor `episode_seed` is there.
        """
        if seed is None and self.episode_over and not self.game_over:
            self.episode_over = False
            return self.observation, self._info()
        if seed is None:
            if self._episode_seed is None:
                raise ValueError("reset needs a seed, or the environment an `episode_seed`")
            seed = self._episode_seed(self._games)
            self._games += 1
        else:
            self._restore(self._pristine)
        self._new_game(seed)
        return self.observation, self._info()

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, Info]:
        """Play one agent step; see the class.

        Returns:
            Observation, reward, terminated (game over, or a life lost where that ends an
            episode), truncated (stopped at the cap), info.

        Raises:
            gymnasium.error.ResetNeeded: the episode is over. ValueError: no such action.
            SimulatorError: see the class.
        """
        if self.episode_over:
            raise gymnasium.error.ResetNeeded("the episode is over; call reset first")
        if not 0 <= action < self.num_actions:
            raise ValueError(f"action {action} is not in [0, {self.num_actions})")
        self._actions.append(int(action))
        try:
            played = self._play(int(action))
        except SimulatorError:
            self._abandon()
            raise
        self._game_steps += 1
        self._score += played.reward
        life_ended = played.life_lost and self.ends_at_life_loss
        self._show(played.frame, first=life_ended)
        terminated = life_ended or played.game_over
        capped = self._game_steps >= self.settings.max_steps or played.truncated
        truncated = capped and not played.game_over
        self.game_over = played.game_over or capped
        self.episode_over = terminated or truncated
        reward = float(np.sign(played.reward)) if self.training else played.reward
        info = self._info(played.reward, played.life_lost)
        return self.observation, reward, terminated, truncated, info

    def identity(self) -> dict[str, str]:
        """What the game runs on, by name, for the run's records."""
        return {"game": self.game, "protocol": self.settings.protocol}

    @abstractmethod
    def render(self) -> np.ndarray:  # type: ignore[override]
        """The screen in colour, uint8 (rows, columns, 3)."""

    def state_dict(self) -> dict[str, Any]:
        """The open game as its beginning and its actions, and what they led to.

        An emulator's own state is not enough in the middle of a game: it leaves the screen out,
        and Q*bert never draws some of its pixels again. Only a new game begins with a clear one.
        """
        return {
            "games": self._games,
            "before": self._before,
            "seed": self._seed,
            "actions": list(self._actions),
            "ended": self.episode_over,
            "reached": self._reached(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Play the saved game again up to where it was, 0.3 ms a step.

        Returns:
            Whether it led to the same, bit for bit. If not (another version of the emulator, a
            game that is not reproducible), the next `reset` begins a new game, and the caller
            should mark the last transition that it stored as truncated.
        """
        self._abandon()
        self._games = state["games"]
        if state["seed"] is None:  # no game was begun
            return True
        try:
            same = self._replayed(state)
        except (ValueError, SimulatorError):
            same = False
        if same:
            self.episode_over = state["ended"]
        else:
            log.warning("%s cannot be restored as it was saved; a new game begins", self.game)
            self._abandon()
        return same

    @abstractmethod
    def _begin(self, seed: int) -> np.ndarray:
        """Begin a new game and set `_lives`; the first frame, uint8 (H, W)."""

    @abstractmethod
    def _play(self, action: int) -> Played:
        """Play one agent step and keep `_lives` up to date."""

    def _new_game(self, seed: int) -> None:
        self._before = self._snapshot()
        self._abandon()
        self._actions.clear()
        self._game_steps, self._score = 0, 0.0
        self._show(self._begin(seed), first=True)
        self._seed, self.episode_over, self.game_over = seed, False, False

    def _abandon(self) -> None:
        """There is no game any more."""
        self._seed, self.episode_over, self.game_over = None, True, True

    def _show(self, frame: np.ndarray, *, first: bool) -> None:
        """Put the frame on the stack; before an episode's first one there are blanks."""
        self._stack[:-1] = 0 if first else self._stack[1:]
        self._stack[-1] = frame

    def _info(self, raw_reward: float = 0.0, life_lost: bool = False) -> Info:
        return {
            "raw_reward": raw_reward,
            "score": self._score,
            "game_steps": self._game_steps,
            "lives": self._lives,
            "life_lost": life_lost,
            "game_over": self.game_over,
        }

    def _replayed(self, state: Mapping[str, Any]) -> bool:
        """Play the saved game again; whether it is the same."""
        self._restore(state["before"])
        self._new_game(state["seed"])
        for action in state["actions"]:
            if self.game_over:
                return False
            self.episode_over = False  # a life may have been lost
            self.step(action)
        return bool(self._reached() == state["reached"])

    def _reached(self) -> dict[str, Any]:
        return {
            "snapshot": self._snapshot(),
            "stack": self._stack.tobytes(),
            "score": self._score,
            "lives": self._lives,
            "game_over": self.game_over,
        }

    def _snapshot(self) -> bytes | None:
        """What a new game depends on beside its seed, if anything."""
        return None

    def _restore(self, snapshot: bytes | None) -> None:
        """Go back to `snapshot`, for a new game. Raises: ValueError: it is not one."""


class AtariEnv(GameEnv):
    """A console behind the interface of `GameEnv`.

    A game begins with a frame without an action, then one to 30 more. A step holds its action for
    `frame_skip` frames; its frame is the brighter of the last two (of a single one: itself), pixel
    by pixel, shrunk bilinearly. Losing a life costs one more frame without an action, in
    evaluation too (published code).

    Sticky actions are made here, from the game's own seed, and not by the emulator: the action
    that it would repeat is missing from its saved state.
    """

    def __init__(
        self, game: str, settings: EnvironmentSettings, *, seed: int, **common: Any
    ) -> None:
        """Args: as `make_environment`. Raises: ConfigError: missing ROM or emulator."""
        self._emulator = EMULATORS[settings.emulator](game, seed)
        super().__init__(game, settings, len(self._emulator.actions), 60, **common)
        self._stickiness = STICKINESS if settings.protocol == "atari100k_sticky" else 0.0
        self._random = np.random.default_rng(0)  # a new one in every game
        self._held = NO_OP  # what the frame before was played with
        self._lives_counted = 0  # when the game began or a life was lost last
        self._screens = np.zeros((2, *self._emulator.screen_shape), np.uint8)  # last but one, last

    def identity(self) -> dict[str, str]:
        """What the game runs on, by name, for the run's records."""
        own = {"emulator": self._emulator.package, "rom_md5": self._emulator.rom_md5}
        return super().identity() | own

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The console's screen, uint8 (rows, columns, 3)."""
        return self._emulator.rgb()

    @property
    def memory(self) -> np.ndarray:
        """The console's 128 bytes of RAM now, uint8 (128,)."""
        return self._emulator.ram()

    def _snapshot(self) -> bytes:
        return self._emulator.save()

    def _restore(self, snapshot: bytes | None) -> None:
        if snapshot is None:
            raise ValueError("an Atari game has a snapshot")
        self._emulator.load(snapshot)

    def _begin(self, seed: int) -> np.ndarray:
        self._random = np.random.default_rng(seed)
        while not self._started():
            pass  # a life was lost before the game began: again, with another number of no-ops
        self._lives = self._emulator.lives()
        self._screens[0] = 0
        self._emulator.read_grey(self._screens[1])
        return self._frame()

    def _started(self) -> bool:
        """Begin a game and let some frames pass; whether no life was lost on the way."""
        self._emulator.restart()
        self._held = NO_OP
        self._act(NO_OP)
        self._lives_counted = self._emulator.lives()
        for _ in range(self._random.integers(1, MAX_NO_OPS, endpoint=True)):
            self._act(NO_OP)
            if self._life_lost():
                return False
        return not self._emulator.game_over()

    def _play(self, action: int) -> Played:
        number = self._emulator.actions[action]
        reward = sum(self._act(number) for _ in range(self.settings.frame_skip - 1))
        if self.settings.frame_skip > 1:
            self._emulator.read_grey(self._screens[0])
        else:
            self._screens[0] = 0
        reward += self._act(number)
        life_lost = self._life_lost()
        if life_lost and self.ends_at_life_loss:
            self._screens[0] = 0  # the next life begins with what is seen after the no-op
        self._lives = self._emulator.lives()
        self._emulator.read_grey(self._screens[1])
        return Played(reward, self._frame(), life_lost, self._emulator.game_over(), False)

    def _life_lost(self) -> bool:
        """Whether a life is gone and others are left; then plays the no-op that it costs.

        Published: a life that was won is not counted, so the next loss goes unnoticed.
        """
        if not 0 < self._emulator.lives() < self._lives_counted:
            return False
        self._act(NO_OP)
        self._lives_counted = self._emulator.lives()
        return True

    def _act(self, action: int) -> float:
        """Play one frame, perhaps with the action of the frame before."""
        if self._stickiness and self._random.random() < self._stickiness:
            action = self._held
        self._held = action
        return self._emulator.act(action)

    def _frame(self) -> np.ndarray:
        """Brighter of the two screens, shrunk; uint8 (H, W)."""
        np.maximum(self._screens[0], self._screens[1], out=self._screens[0])
        side = self.settings.image_size
        return cv2.resize(self._screens[0], (side, side), interpolation=cv2.INTER_LINEAR)


class OwnGame(GameEnv):
    """An own environment behind the interface of `GameEnv`.

    Its pictures are made grey and square. A step holds its action for `frame_skip` of its steps and
    adds their rewards up. If its info counts `lives`, losing one is treated as in an Atari game.
    """

    def __init__(self, game: str, settings: EnvironmentSettings, **common: Any) -> None:
        """Args: as `make_environment`. Raises: ConfigError: as OwnEnvironment, or in a trial."""
        self._own = OwnEnvironment(TASK_KEY, game, settings.kwargs, gymnasium.spaces.Discrete)
        if common["training"]:
            self._own.try_out()
        space = self._own.action_space
        self._first_action = int(space.start)
        super().__init__(game, settings, int(space.n), self._own.frame_rate, **common)

    def render(self) -> np.ndarray:  # type: ignore[override]
        """What the game shows, uint8 (rows, columns, 3)."""
        return self._own.picture()

    def close(self) -> None:
        """Close the game."""
        self._own.close()

    def _begin(self, seed: int) -> np.ndarray:
        self._lives = self._counted(self._own.reset(seed))
        return self._frame()

    def _play(self, action: int) -> Played:
        reward = 0.0
        for _ in range(self.settings.frame_skip):
            answer = self._own.step(action + self._first_action)
            reward += answer.reward
            if answer.terminated or answer.truncated:
                break
        lives = self._counted(answer.info)
        life_lost = 0 < lives < self._lives and not answer.terminated
        self._lives = lives
        return Played(reward, self._frame(), life_lost, answer.terminated, answer.truncated)

    def _counted(self, info: Mapping[str, Any]) -> int:
        """Lives left; 0 in a game that counts none."""
        lives = info.get("lives", 0)
        if not isinstance(lives, Integral) or lives < 0:
            raise self._own.fault(f"gives info[lives]={lives!r}", "a whole number from 0")
        return int(lives)

    def _frame(self) -> np.ndarray:
        """What it shows in grey, uint8 (H, W): a longer side averaged, a shorter one repeated."""
        grey = cv2.cvtColor(self._own.picture(), cv2.COLOR_RGB2GRAY)
        side = self.settings.image_size
        rows, columns = (min(length, side) for length in grey.shape)
        shrunk = cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_AREA)
        return cv2.resize(shrunk, (side, side), interpolation=cv2.INTER_NEAREST)
