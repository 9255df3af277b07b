"""The run that whole-run tests are made on: every kind of event within 100 agent steps."""

from collections.abc import Mapping
from typing import Any

TRAIN = ("preset=smoke", "task=cartpole_swingup", "device=cpu", "checkpoint.every_minutes=0")
FOLDER = "cartpole_swingup/mlr/seed_1"  # in runs_dir
ACTION_REPEAT = 30
AGENT_STEPS = 100
LEARNING_STARTS = 25
LOG_EVERY = 20
EVALUATION_AT = 50
BUDGET = ACTION_REPEAT * AGENT_STEPS

IMPORTS = ("scipy.ndimage",)  # what a run imports late

# The same with half the budget, such that twice of it leaves no trace of the stop in between.
HALF = (f"budget={BUDGET // 2}", "evaluation.final_episodes=1")
WHOLE = (f"budget={BUDGET}", "evaluation.final_episodes=1")

PROBED = (*TRAIN[:3], *HALF)  # probe.py knows what its state is
VARIABLES = {"slider", "hinge_1 sine", "hinge_1 cosine", "slider velocity", "hinge_1 velocity"}

LONG = ("budget=3000", "environment.action_repeat=3", "evaluation.every=900")  # 1,000 agent steps

# Of an own environment, 12 steps an episode, whose simulator fails in every second one.
OWN = (
    "task=odd_environments:Odd-v0",
    "environment.kwargs={fault: some crash, actions: [-1, 1]}",
    "environment.action_repeat=1",
    "agent.sequence_length=4",
    "budget=100",
    "evaluation.every=50",
)
OWN_FOLDER = "odd_environments-Odd-v0/mlr/seed_1"

ACTOR_EVERY = 2  # updates at agent steps that are a multiple of this train actor and targets too


def episode_ends(replay: Mapping[str, Any]) -> list[int]:
    """Agent steps after which an episode was over, from the replay's saved state."""
    first = replay["first_frame"].tolist()
    return [step for step in range(1, len(first)) if first[step] != first[step - 1]]


def other_pixel(environment: dict[str, Any]) -> None:
    """Change a saved environment as if another renderer had drawn what was seen last."""
    seen = bytearray(environment["observation"])
    seen[len(seen) // 2] ^= 1
    environment["observation"] = bytes(seen)
