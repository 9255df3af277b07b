"""What Atari games and own games have in common: stacks, episodes, rewards, the cap on steps."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from .run.schema import bounded, choice

MAX_STEPS = 27_000  # agent steps of a game: 30 minutes at 60 frames a second, frame skip 4

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

    Attributes:
        obs_shape: (S, H, W). num_actions: A.
        frame_rate: agent steps in a second of the game; a subclass says it.
        episode_over: whether `reset` must come next. game_over: whether it will begin a new game.
    """

    frame_rate: float
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (an attribute of gymnasium's)
    render_mode = "rgb_array"

    def __init__(
        self,
        game: str,
        settings: EnvironmentSettings,
        *,
        training: bool,
        num_actions: int,
        episode_seed: Callable[[int], int] | None,
        max_steps: int = MAX_STEPS,
    ) -> None:
        self.game, self.settings, self.training = game, settings, training
        self.num_actions = num_actions
        self._max_steps = max_steps
        self._episode_seed = episode_seed
        self._games = 0  # begun by a reset without a seed
        self._lives = 0
        self._game_steps = 0
        self._score = 0.0
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
            return self._stack.copy(), self._info(0.0, life_lost=False)
        if seed is None:
            if self._episode_seed is None:
                raise ValueError("reset needs a seed, or the environment an `episode_seed`")
            seed = self._episode_seed(self._games)
            self._games += 1
        else:
            self._restore(self._pristine)
        self._new_game(seed)
        return self._stack.copy(), self._info(0.0, life_lost=False)

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, Info]:
        """Play one agent step; see the class.

        Returns:
            Observation, reward, terminated (game over, or a life lost where that ends an
            episode), truncated (stopped at the cap), info.

        Raises:
            gymnasium.error.ResetNeeded: the episode is over. ValueError: no such action.
        """
        if self.episode_over:
            raise gymnasium.error.ResetNeeded("the episode is over; call reset first")
        if not 0 <= action < self.num_actions:
            raise ValueError(f"action {action} is not in [0, {self.num_actions})")
        self._actions.append(int(action))
        played = self._play(int(action))
        self._game_steps += 1
        self._score += played.reward
        if played.life_lost and self.ends_at_life_loss:
            self._restart_stack(played.frame)
            terminated = True
        else:
            self._push(played.frame)
            terminated = played.game_over
        capped = self._game_steps >= self._max_steps or played.truncated
        truncated = capped and not played.game_over
        self.game_over = played.game_over or capped
        self.episode_over = terminated or truncated
        reward = float(np.sign(played.reward)) if self.training else played.reward
        info = self._info(played.reward, played.life_lost)
        return self._stack.copy(), reward, terminated, truncated, info

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
            "reached": self._reached(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Play the saved game again up to where it was, 0.3 ms a step.

        Returns:
            Whether it led to the same, bit for bit. If not (another version of the emulator, a
            game that is not reproducible), the next `reset` begins a new game, and the caller
            should mark the last transition that it stored as truncated.
        """
        same = self._replayed(state)
        if same:
            self.episode_over = state["reached"]["ended"]
        else:
            log.warning("%s cannot be restored as it was saved; a new game begins", self.game)
            self.episode_over = self.game_over = True
        self._games = state["games"]
        return same

    @abstractmethod
    def _begin(self, seed: int) -> np.ndarray:
        """Begin a new game and set `_lives`; the first frame, uint8 (H, W)."""

    @abstractmethod
    def _play(self, action: int) -> Played:
        """Play one agent step and keep `_lives` up to date."""

    def _new_game(self, seed: int) -> None:
        self._before, self._seed = self._snapshot(), seed
        self._actions.clear()
        self._game_steps, self._score = 0, 0.0
        self.episode_over = self.game_over = False
        self._restart_stack(self._begin(seed))

    def _restart_stack(self, frame: np.ndarray) -> None:
        self._stack[:] = 0
        self._stack[-1] = frame

    def _push(self, frame: np.ndarray) -> None:
        self._stack[:-1] = self._stack[1:]
        self._stack[-1] = frame

    def _info(self, raw_reward: float, life_lost: bool) -> Info:
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
        if state["seed"] is None:  # no game was begun
            self._seed, self.episode_over, self.game_over = None, True, True
            return True
        try:
            self._restore(state["before"])
        except ValueError:
            return False
        self._new_game(state["seed"])
        for action in state["actions"]:
            if self.game_over:
                return False
            self.episode_over = False  # a life may have been lost
            self.step(action)
        reached = self._reached() | {"ended": state["reached"]["ended"]}
        return bool(reached == state["reached"])

    def _reached(self) -> dict[str, Any]:
        return {
            "snapshot": self._snapshot(),
            "stack": self._stack.tobytes(),
            "score": self._score,
            "lives": self._lives,
            "ended": self.episode_over,
            "game_over": self.game_over,
        }

    def _snapshot(self) -> bytes | None:
        """What a new game depends on beside its seed, if anything."""
        return None

    def _restore(self, snapshot: bytes | None) -> None:
        """Go back to `snapshot`, for a new game. Raises: ValueError: it is not one."""
