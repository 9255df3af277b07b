"""Atari games as the 100k benchmark plays them. Imports no torch: worker processes use it."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .custom_environment import CustomEnv
from .emulator import EMULATORS, NO_OP
from .game_env import MAX_STEPS, EnvironmentSettings, GameEnv, Info, Played
from .games import canonical, is_custom

__all__ = ["MAX_STEPS", "AtariEnv", "EnvironmentSettings", "GameEnv", "Info", "make_environment"]

MAX_NO_OPS = 30  # frames without an action before a game, drawn from 1 to this
STICKINESS = 0.25  # chance per frame that a sticky game repeats the frame before's action


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
        ConfigError: unknown game, missing ROM or emulator, observations that are no pixels.
    """
    game = canonical(game)
    if is_custom(game):
        return CustomEnv(game, settings, training=training, episode_seed=episode_seed)
    return AtariEnv(game, settings, training=training, seed=seed, episode_seed=episode_seed)


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
        self,
        game: str,
        settings: EnvironmentSettings,
        *,
        training: bool,
        seed: int,
        episode_seed: Callable[[int], int] | None = None,
        max_steps: int = MAX_STEPS,
    ) -> None:
        """Args: as `make_environment`.

        Raises:
            ConfigError: missing ROM or emulator.
        """
        self._emulator = EMULATORS[settings.emulator](game, seed)
        super().__init__(
            game,
            settings,
            training=training,
            num_actions=len(self._emulator.actions),
            episode_seed=episode_seed,
            max_steps=max_steps,
        )
        self.frame_rate = 60 / settings.frame_skip
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
