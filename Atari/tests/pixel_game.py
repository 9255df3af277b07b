"""A small game of pixels: catch the ball. Registered as `pixel_game:Catch-v0`.

A ball falls one row per step, and drifts one column left or right or not at all; it bounces off
the walls. The paddle at the bottom moves one column per step. One picture does not tell where the
ball drifts to, so that an agent has to put several together, and the reward comes only when the
ball has fallen all the way, so that it has to look ahead.
"""

from typing import Any

import gymnasium
import numpy as np


class Catch(gymnasium.Env[np.ndarray, np.int64]):
    """Each ball caught gives 1, each missed -1 and costs a life (info["lives"]).

    A game ends with its last ball or its last life. Observations are uint8 (size, size): the ball
    is white, the paddle grey.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (an attribute of gymnasium's)

    def __init__(self, size: int = 10, paddle: int = 2, balls: int = 10, lives: int = 3) -> None:
        self.size, self.paddle, self.balls, self.lives = size, paddle, balls, lives
        self.observation_space = gymnasium.spaces.Box(0, 255, (size, size), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = (self.size - self.paddle) // 2
        self.balls_left, self.lives_left = self.balls, self.lives
        self._drop()
        return self._picture(), {"lives": self.lives_left}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        move = (0, -1, 1)[int(action)]  # stay, left, right
        self.position = int(np.clip(self.position + move, 0, self.size - self.paddle))
        self.row += 1
        if not 0 <= self.column + self.drift < self.size:
            self.drift = -self.drift
        self.column += self.drift
        reward, landed = 0.0, self.row == self.size - 1
        if landed:
            caught = self.position <= self.column < self.position + self.paddle
            reward = 1.0 if caught else -1.0
            self.balls_left -= 1
            self.lives_left -= not caught
        over = self.balls_left == 0 or self.lives_left == 0
        if landed and not over:
            self._drop()
        return self._picture(), reward, over, False, {"lives": self.lives_left}

    def _drop(self) -> None:
        self.row = 0
        self.column = int(self.np_random.integers(self.size))
        self.drift = int(self.np_random.integers(-1, 2))

    def _picture(self) -> np.ndarray:
        picture = np.zeros((self.size, self.size), np.uint8)
        picture[-1, self.position : self.position + self.paddle] = 128
        picture[self.row, self.column] = 255
        return picture


gymnasium.register("Catch-v0", entry_point=Catch)
gymnasium.register("SmallCatch-v0", entry_point=Catch, kwargs={"size": 5})  # learned in a minute
