"""What test_probe_command.py needs to know of this benchmark: a run, and its variables."""

from __future__ import annotations

RUN = (
    "preset=smoke",
    "task=cartpole_swingup",
    "device=cpu",
    "budget=1500",
    "evaluation.final_episodes=1",
)
VARIABLES = {
    *("slider", "hinge_1 sine", "hinge_1 cosine", "slider velocity", "hinge_1 velocity"),
}
