"""What test_probe_command.py needs to know of this benchmark: a run, and its variables."""

from __future__ import annotations

RUN = (
    "preset=smoke",
    "game=boxing",
    "device=cpu",
    "budget=100",
    "environment.frame_skip=16",
    "evaluation.final_episodes=1",
)
VARIABLES = {"player x", "player y", "enemy x", "enemy y"}
