"""What test_probe_command.py needs to know of this benchmark."""

from __future__ import annotations

from torch import Tensor

from mlr_atari.parts import build_parts
from mlr_atari.probe import alone, output, world
from mlr_atari.rainbow import Rainbow

__all__ = ["alone", "build_parts", "output", "world"]

METHOD = "curl"
_SMALL = ("preset=smoke", "game=boxing", "device=cpu")
RUN = (*_SMALL, "budget=100", "environment.frame_skip=16", "evaluation.final_episodes=1")
ALONE = (*_SMALL, f"agent={METHOD}", "environment.frame_skip=16", "seed=1")
VARIABLES = {"player x", "player y", "enemy x", "enemy y"}


def rl_weights(agent: Rainbow) -> list[Tensor]:
    """Copies of what RL alone trains."""
    return [each.detach().clone() for each in agent.network.head.parameters()]
