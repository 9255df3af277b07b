"""The run that whole-run tests are made on: every kind of event within 100 agent steps."""

from collections.abc import Mapping
from typing import Any

# Q*bert loses lives early, and with 16 frames a step a game is over soon.
GAME = ("preset=smoke", "game=qbert", "environment.frame_skip=16", "device=cpu")
SIZES = ("budget=100", "agent.learning_starts=25", "evaluation.every=50", "logging.every=20")
TRAIN = (*GAME, *SIZES, "checkpoint.every_minutes=0")
FOLDER = "qbert/mlr/seed_1"  # in runs_dir
AGENT_STEPS = 100
LEARNING_STARTS = 25
LOG_EVERY = 20
EVALUATION_AT = 50
BUDGET = AGENT_STEPS

IMPORTS = ("ale_py", "cv2")  # what a run imports late

# The same with half the budget, such that twice of it leaves no trace of the stop in between.
HALF = (f"budget={BUDGET // 2}", "evaluation.final_episodes=1")
WHOLE = (f"budget={BUDGET}", "evaluation.final_episodes=1")

# A game in which probe.py knows the objects, and these.
PROBED = (*GAME[:1], "game=boxing", *GAME[2:], "budget=100", "evaluation.final_episodes=1")
VARIABLES = {"player x", "player y", "enemy x", "enemy y"}

LONG = ("budget=1000",)  # 1,000 agent steps

# Of an own game, 12 steps long, whose simulator fails in every second one.
OWN = (
    "game=odd_environments:Odd-v0",
    "environment.kwargs={fault: some crash}",
    "environment.frame_skip=1",
)
OWN_FOLDER = "odd_environments-Odd-v0/mlr/seed_1"

ACTOR_EVERY = 1  # every update trains the whole network and moves the targets


def episode_ends(replay: Mapping[str, Any]) -> list[int]:
    """Agent steps after which an episode was over, from the replay's saved state."""
    return [step for step, end in enumerate(replay["_end"].tolist(), 1) if end]


def other_pixel(environment: dict[str, Any]) -> None:
    """Change a saved game as if another emulator had drawn what was seen last."""
    seen = bytearray(environment["reached"]["stack"])
    seen[-len(seen) // 8] ^= 1
    environment["reached"]["stack"] = bytes(seen)
