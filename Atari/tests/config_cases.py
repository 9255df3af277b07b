"""What test_config.py and its like (the same in both trees) need to know of this benchmark."""

from __future__ import annotations

from mlr_atari import settings as config
from mlr_atari.errors import ConfigError
from mlr_atari.objectives import available
from mlr_atari.rainbow import RainbowSettings as AgentSettings
from mlr_atari.run import command, help, schema

__all__ = ["AgentSettings", "ConfigError", "command", "config", "help", "schema"]

OBJECTIVES = {name: kind.settings_type for name, kind in available().items()}

SUBJECT = "game"
PLAIN_AGENT = "rainbow"  # has no objective

# Any spelling -> the one name. The last two have no YAML file; the last is the user's own.
SPELLINGS = {
    "Pong": "pong",
    "ALE/Pong-v5": "pong",
    "up-n-down": "up_n_down",
    "KungFuMaster": "kung_fu_master",
    "some_package.games:Own/Catch-v0": "some_package.games:Own/Catch-v0",
}
WITHOUT_FILE = "seaquest"
TYPO = ("pnog", "pong")

# Two that end soon, and their folders: what whole sweeps are tried on.
SWEPT = ("qbert", "pixel_game:SmallCatch-v0")
SWEPT_FOLDERS = ("qbert", "pixel_game-SmallCatch-v0")

# What the published setting is.
PUBLISHED = {
    "budget": 100_000,
    "environment.protocol": "atari100k",
    "environment.image_size": 84,
    "environment.frame_stack": 4,
    "environment.frame_skip": 4,
    "agent.learning_starts": 2000,
    "agent.updates_per_step": 2,
    "agent.batch_size": 32,
    "agent.n_step": 10,
    "agent.num_atoms": 51,
    "agent.noisy_sigma": 0.1,
    "agent.learning_rate": 1e-4,
    "agent.sequence_length": 16,
    "agent.patch_size": 12,
    "agent.cube_depth": 8,
    "agent.mask_ratio": 0.5,
    "agent.decoder_depth": 2,
    "agent.target_ema_tau": 1.0,
    "evaluation.every": 10_000,
    "evaluation.final_episodes": 100,
}
# What differs for one game.
FOR_ONE = {
    "pong": {"agent.mlr_weight": 5.0},
    "up_n_down": {"agent.mlr_weight": 5.0},
    "boxing": {"agent.mlr_weight": 1.0},
}

# Rules that tie keys together: overrides, and the key that the error begins with.
TOGETHER = [
    (["agent.patch_size=10"], "agent.patch_size=10"),
    (["agent.decoder_width=10", "agent.decoder_heads=4"], "agent.decoder_heads=4"),
    (["budget=2000"], "agent.learning_starts=2000"),
    (["agent.learning_starts=20"], "agent.learning_starts=20"),
    (["replay.capacity=20"], "replay.capacity=20"),
]
