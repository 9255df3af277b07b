"""Games as Atari-100k plays them, and own ones. Imports no torch: worker processes use it."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, NamedTuple

import cv2
import gymnasium
import numpy as np

from .emulator import EMULATORS
from .errors import ConfigError, SimulatorError
from .games import canonical
from .names import is_own
from .own_environment import Answer, OwnEnvironment
from .run.schema import bounded, choice

MAX_NO_OPS = 30  # frames without an action before a game, drawn from 1 to this
STICKINESS = 0.25  # chance per frame that a sticky game repeats the frame before's action
NO_OP = 0  # the emulators' number of no action

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


class Played(NamedTuple):
    """What one agent step did to the game."""

    reward: float  # raw
    life_lost: bool  # and the game goes on
    game_over: bool
    truncated: bool  # the game was stopped before its end


class GameEnv(gymnasium.Env[np.ndarray, np.int64]):
    """An Atari game, or the user's own, whose observations are stacks of grey frames.

    Observations are uint8 (S, H, W), oldest first; at an episode's start S - 1 frames are blank.
    Actions are numbers in [0, A). In training the reward is the sign of the raw one, and losing a
    life ends the episode: `step` then returns terminated, info["life_lost"], and the first
    observation of the next life, with which `reset` goes on in the same game. In evaluation the
    reward is raw, an episode a game. An error of an own game, SimulatorError from `step` or
    `reset`, ends it. `score` and `game_steps` of an info are the game's so far.

    Attributes:
        obs_shape: (S, H, W). num_actions: A. frame_rate: agent steps in a second of the game.
        episode_over: whether `reset` must come next. game_over: whether it will begin a new game.
        emulator: of an Atari game, to be looked at only; None for an own one.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (an attribute of gymnasium's)
    render_mode = "rgb_array"

    def __init__(
        self,
        game: str,
        settings: EnvironmentSettings,
        *,
        training: bool,
        seed: int,
        episode_seed: Callable[[int], int] | None = None,
    ) -> None:
        """Load the game; an own one to train in is tried out first.

        Args: `seed`: the emulator's own. `episode_seed`: of the k-th game, for `reset()` without.
        Raises: ConfigError: unknown game, no ROM or emulator, an own game that cannot be played.
        """
        self.game, self.settings, self.training = canonical(game), settings, training
        self._ends_at_life_loss = training and settings.protocol == "atari100k"
        self._episode_seed = episode_seed
        self.simulator: AtariGame | OwnGame
        if is_own(self.game):
            self.simulator = OwnGame(self.game, settings, tried_out=training)
        else:
            self.simulator = AtariGame(self.game, settings, seed, self._ends_at_life_loss)
        self.emulator: Any = getattr(self.simulator, "emulator", None)
        self.num_actions = self.simulator.num_actions
        self.frame_rate = self.simulator.frame_rate / settings.frame_skip
        self._games = 0  # begun by a reset without a seed
        self._game_steps, self._score = 0, 0.0
        self.episode_over = self.game_over = True
        self._pristine = self._before = self._snapshot()  # before: what the open game began from
        self._seed: int | None = None  # of the open game, as are:
        self._actions: list[int] = []
        self.obs_shape = (settings.frame_stack, settings.image_size, settings.image_size)
        self._stack = np.zeros(self.obs_shape, np.uint8)
        self.observation_space = gymnasium.spaces.Box(0, 255, self.obs_shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(self.num_actions)

    @property
    def observation(self) -> np.ndarray:
        """The latest observation, uint8 (S, H, W)."""
        return self._stack.copy()

    @property
    def frame(self) -> np.ndarray:
        """The newest frame of the observation, uint8 (H, W): what a replay stores."""
        return self._stack[-1].copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, Info]:
        """Go on after a lost life, or begin the next game; with a seed, begin the seed's game.

        That depends on nothing else, the next one also on what the game before left in the
        console's memory. Raises: ValueError: the next game has no seed.
        """
        if seed is not None:
            self._restore(self._pristine)
            self._new_game(seed)
        elif self.episode_over and not self.game_over:
            self.episode_over = False
        elif self._episode_seed is None:
            raise ValueError("reset needs a seed, or the environment an `episode_seed`")
        else:
            self._games += 1
            self._new_game(self._episode_seed(self._games - 1))
        return self.observation, self._info()

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, Info]:
        """Play one agent step.

        Returns: observation, reward, terminated (game over, or a life lost where that ends an
        episode), truncated (stopped at the cap), info.
        Raises: gymnasium.error.ResetNeeded: the episode is over. ValueError: no such action.
        """
        if self.episode_over:
            raise gymnasium.error.ResetNeeded("the episode is over; call reset first")
        if not 0 <= action < self.num_actions:
            raise ValueError(f"action {action} is not in [0, {self.num_actions})")
        self._actions.append(int(action))
        try:
            played = self.simulator.play(int(action))
            life_ended = played.life_lost and self._ends_at_life_loss
            self._show(first=life_ended)
        except SimulatorError:
            self._abandon()
            raise
        self._game_steps += 1
        self._score += played.reward
        terminated = life_ended or played.game_over
        capped = self._game_steps >= self.settings.max_steps or played.truncated
        truncated = capped and not played.game_over
        self.game_over = played.game_over or capped
        self.episode_over = terminated or truncated
        reward = float(np.sign(played.reward)) if self.training else played.reward
        info = self._info(played.reward, played.life_lost)
        return self.observation, reward, terminated, truncated, info

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The screen in colour, uint8 (rows, columns, 3)."""
        return self.simulator.picture()

    def close(self) -> None:
        """Close an own game."""
        if isinstance(self.simulator, OwnGame):
            self.simulator.close()

    def identity(self) -> dict[str, str]:
        """What the game runs on, by name, for the run's records."""
        facts = {"game": self.game, "protocol": self.settings.protocol}
        on = self.emulator
        return facts if on is None else facts | {"emulator": on.package, "rom_md5": on.rom_md5}

    def state_dict(self) -> dict[str, Any]:
        """The open game as its beginning and its actions, and what they led to.

        An emulator's state alone leaves the screen out, parts of which Q*bert never draws again.
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

        Returns: whether it led to the same, bit for bit. If not (another emulator, a game that is
        not reproducible), which is logged, the next `reset` begins a new game, and the caller
        should mark the last transition that it stored as truncated.
        """
        self._abandon()
        self._games = state["games"]
        if state["seed"] is None:  # no game was begun
            return True
        same = False
        with suppress(ValueError, SimulatorError, gymnasium.error.ResetNeeded):
            self._restore(state["before"])
            self._new_game(state["seed"])
            for action in state["actions"]:
                self.episode_over = self.game_over  # a life may have been lost
                self.step(action)
            same = self._reached() == state["reached"]
        if same:
            self.episode_over = state["ended"]
        else:
            log.warning("%s cannot be restored as it was saved; a new game begins", self.game)
            self._abandon()
        return same

    def _new_game(self, seed: int) -> None:
        self._abandon()
        self._before, self._game_steps, self._score = self._snapshot(), 0, 0.0
        self._actions.clear()
        self.simulator.begin(seed)
        self._show(first=True)
        self._seed, self.episode_over, self.game_over = seed, False, False

    def _abandon(self) -> None:
        """There is no game any more."""
        self._seed, self.episode_over, self.game_over = None, True, True

    def _show(self, *, first: bool) -> None:
        """Put the frame on the stack; before an episode's first one there are blanks."""
        self._stack[:-1] = 0 if first else self._stack[1:]
        self._stack[-1] = self.simulator.frame()

    def _info(self, raw_reward: float = 0.0, life_lost: bool = False) -> Info:
        return {
            "raw_reward": raw_reward,
            "score": self._score,
            "game_steps": self._game_steps,
            "lives": self.simulator.lives,
            "life_lost": life_lost,
            "game_over": self.game_over,
        }

    def _reached(self) -> dict[str, Any]:
        reached = {"snapshot": self._snapshot(), "stack": self._stack.tobytes()}
        return reached | {key: self._info()[key] for key in ("score", "lives", "game_over")}

    def _snapshot(self) -> bytes | None:
        """What a new game depends on beside its seed: nothing in an own one."""
        return None if self.emulator is None else self.emulator.save()

    def _restore(self, snapshot: bytes | None) -> None:
        if self.emulator is not None:
            self.emulator.load(snapshot)


make_environment = GameEnv  # as parity is checked from outside


class AtariGame:
    """An Atari game.

    It begins with 2 to 31 frames without an action. A step holds its action for `frame_skip`
    frames; what it shows is the brighter of the last two, pixel by pixel, shrunk bilinearly. Losing
    a life costs one more frame without an action, in evaluation too (published code). Sticky
    actions are made here, from the game's own seed: the action that the emulator would repeat is
    missing from its saved state.
    """

    frame_rate = 60.0

    def __init__(
        self, game: str, settings: EnvironmentSettings, seed: int, blank_at_life_loss: bool
    ) -> None:
        if settings.kwargs:
            raise ConfigError(f"environment.kwargs={settings.kwargs}: {game} takes none; leave out")
        self.emulator = EMULATORS[settings.emulator](game, seed)
        self._console = self.emulator.console
        self.num_actions = len(self.emulator.actions)
        self._skip, self._side = settings.frame_skip, settings.image_size
        self._blank_at_life_loss = blank_at_life_loss
        self._stickiness = STICKINESS if settings.protocol == "atari100k_sticky" else 0.0
        self._random = np.random.default_rng(0)  # a new one in every game
        self._held = NO_OP  # what the frame before was played with
        self._lives_counted = 0  # when the game began or a life was lost last
        self._screens = np.zeros((2, *self.picture().shape[:2]), np.uint8)  # last but one, last

    @property
    def lives(self) -> int:
        """Lives left; 0 all along in a game that has none."""
        return int(self._console.lives())

    def begin(self, seed: int) -> None:
        """Begin the game of `seed`."""
        self._random = np.random.default_rng(seed)
        while not self._started():
            pass  # a life was lost before the game began: again, with another number of no-ops
        self._screens[0] = 0
        self.emulator.read_grey(self._screens[1])

    def play(self, action: int) -> Played:
        """Play one agent step."""
        number = self.emulator.actions[action]
        reward = sum(self._act(number) for _ in range(self._skip - 1))
        self._screens[0] = 0
        if self._skip > 1:
            self.emulator.read_grey(self._screens[0])
        reward += self._act(number)
        life_lost = self._life_lost()
        if life_lost and self._blank_at_life_loss:
            self._screens[0] = 0  # the next life begins with what is seen after the no-op
        self.emulator.read_grey(self._screens[1])
        return Played(reward, life_lost, bool(self._console.game_over()), False)

    def frame(self) -> np.ndarray:
        """Brighter of the two screens, shrunk; uint8 (H, W)."""
        brighter = np.maximum(*self._screens)
        return cv2.resize(brighter, (self._side, self._side), interpolation=cv2.INTER_LINEAR)

    def picture(self) -> np.ndarray:
        """The console's screen, uint8 (rows, columns, 3)."""
        return self.emulator.rgb()

    def _started(self) -> bool:
        """Begin a game and let some frames pass; whether no life was lost on the way."""
        self._console.reset_game()
        self._held = NO_OP
        self._act(NO_OP)
        self._lives_counted = self.lives
        for _ in range(self._random.integers(1, MAX_NO_OPS, endpoint=True)):
            self._act(NO_OP)
            if self._life_lost():
                return False
        return not self._console.game_over()

    def _life_lost(self) -> bool:
        """Whether a life is gone and others are left; then plays the no-op that it costs.

        Published: a life that was won is not counted, so the next loss goes unnoticed.
        """
        if not 0 < self.lives < self._lives_counted:
            return False
        self._act(NO_OP)
        self._lives_counted = self.lives
        return True

    def _act(self, action: int) -> float:
        """Play one frame, perhaps with the action of the frame before."""
        if self._stickiness and self._random.random() < self._stickiness:
            action = self._held
        self._held = action
        return float(self._console.act(action))


class OwnGame(OwnEnvironment):
    """An own environment behind the interface of `AtariGame`; its info may count `lives`."""

    def __init__(self, game: str, settings: EnvironmentSettings, tried_out: bool) -> None:
        super().__init__(game, settings.kwargs, gymnasium.spaces.Discrete)
        self.lives = 0
        if tried_out:
            self.try_out()
        self.num_actions = int(self.action_space.n)
        self._skip, self._side = settings.frame_skip, settings.image_size

    def begin(self, seed: int) -> None:
        """Begin the game of `seed`."""
        self.reset(seed)

    def reset(self, seed: int) -> Mapping[str, Any]:
        """Begin the game of `seed`; its info, whose lives are counted."""
        info = super().reset(seed)
        self.lives = self._counted(info)
        return info

    def step(self, action: Any) -> Answer:
        """Play one step of its own, and count the lives."""
        answer = super().step(action)
        self.lives = self._counted(answer[-1])
        return answer

    def play(self, action: int) -> Played:
        """Play one agent step."""
        total, before = 0.0, self.lives
        for _ in range(self._skip):
            reward, terminated, truncated, _ = self.step(action + int(self.action_space.start))
            total += reward
            if terminated or truncated:
                break
        return Played(total, 0 < self.lives < before and not terminated, terminated, truncated)

    def frame(self) -> np.ndarray:
        """What it shows in grey, uint8 (H, W): a longer side averaged, a shorter one repeated."""
        grey, side = cv2.cvtColor(self.picture(), cv2.COLOR_RGB2GRAY), self._side
        rows, columns = (min(length, side) for length in grey.shape)
        shrunk = cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_AREA)
        return cv2.resize(shrunk, (side, side), interpolation=cv2.INTER_NEAREST)

    def _counted(self, info: Mapping[str, Any]) -> int:
        lives = info.get("lives", 0)  # of a game that counts none
        if not isinstance(lives, Integral) or lives < 0:
            raise self.fault(f"gives info[lives]={lives!r}", "give a whole number from 0")
        return int(lives)
