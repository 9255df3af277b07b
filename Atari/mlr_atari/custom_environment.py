"""Own games: any Gymnasium environment that shows pixels and takes numbered actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import gymnasium
import numpy as np

from .errors import ConfigError
from .game_env import MAX_STEPS, EnvironmentSettings, GameEnv, Played


class CustomEnv(GameEnv):
    """A Gymnasium environment behind the interface of `GameEnv`.

    Its observations are uint8 pixels, (H, W), (H, W, C) or (C, H, W) with 1 or 3 channels, and are
    made grey and square. A step holds its action for `frame_skip` of its steps and adds their
    rewards up. If its info counts `lives`, losing one is treated as in an Atari game.
    """

    def __init__(
        self,
        game: str,
        settings: EnvironmentSettings,
        *,
        training: bool,
        episode_seed: Callable[[int], int] | None = None,
        max_steps: int = MAX_STEPS,
    ) -> None:
        """Make the environment of Gymnasium id `game`; `package:Id-v0` imports `package` first.

        Raises:
            ConfigError: it cannot be made, or its spaces are none of the above.
        """
        self._game_env = _made(game)
        space = self._game_env.action_space
        if not isinstance(space, gymnasium.spaces.Discrete):
            raise ConfigError(f"game={game}: acts in {space}; actions must be Discrete")
        self._first_action = int(space.start)
        self._channels = _channel_axis(game, self._game_env.observation_space)
        super().__init__(
            game,
            settings,
            training=training,
            num_actions=int(space.n),
            episode_seed=episode_seed,
            max_steps=max_steps,
        )
        frames = float(self._game_env.metadata.get("render_fps", 15))
        self.frame_rate = frames / settings.frame_skip
        self._pixels = np.zeros((1, 1), np.uint8)  # as the game showed them last

    def render(self) -> np.ndarray:  # type: ignore[override]
        """What the game shows, uint8 (rows, columns, 3)."""
        pixels = self._pixels
        if pixels.ndim == 2:
            return np.repeat(pixels[..., None], 3, axis=2)
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()

    def close(self) -> None:
        """Close the game."""
        self._game_env.close()

    def _begin(self, seed: int) -> np.ndarray:
        self._pixels, info = self._game_env.reset(seed=seed)
        self._lives = int(info.get("lives", 0))
        return self._frame()

    def _play(self, action: int) -> Played:
        reward, game_over, truncated = 0.0, False, False
        for _ in range(self.settings.frame_skip):
            number = action + self._first_action
            self._pixels, gain, game_over, truncated, info = self._game_env.step(number)
            reward += float(gain)
            if game_over or truncated:
                break
        lives = int(info.get("lives", 0))
        life_lost = 0 < lives < self._lives and not game_over
        self._lives = lives
        return Played(reward, self._frame(), life_lost, bool(game_over), bool(truncated))

    def _frame(self) -> np.ndarray:
        """What the game shows, grey and square; uint8 (H, W)."""
        if self._channels == 0:
            self._pixels = np.ascontiguousarray(self._pixels.transpose(1, 2, 0))
        grey: Any = self._pixels
        if grey.ndim == 3:
            grey = cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY) if grey.shape[2] == 3 else grey[..., 0]
        side = self.settings.image_size
        # Small pictures stay sharp, large ones are averaged.
        how = cv2.INTER_AREA if min(grey.shape) > side else cv2.INTER_NEAREST
        return np.asarray(cv2.resize(grey, (side, side), interpolation=how), np.uint8)


def _made(game: str) -> gymnasium.Env:
    try:
        return gymnasium.make(game, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError) as error:
        raise ConfigError(f"game={game}: Gymnasium cannot make it ({error})") from error


def _channel_axis(game: str, space: gymnasium.Space) -> int | None:
    """Where the channels are, 0 or 2; None without."""
    if isinstance(space, gymnasium.spaces.Box) and space.dtype == np.uint8:
        if len(space.shape) == 2:
            return None
        if len(space.shape) == 3 and space.shape[2] in (1, 3):
            return 2
        if len(space.shape) == 3 and space.shape[0] in (1, 3):
            return 0
    raise ConfigError(
        f"game={game}: shows {space}; observations must be a uint8 Box (H, W), (H, W, C) or "
        "(C, H, W) with 1 or 3 channels (gymnasium.wrappers.AddRenderObservation makes one)"
    )
