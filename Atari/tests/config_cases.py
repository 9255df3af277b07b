"""What the twin tests of configuration and sweeps need to know of this benchmark."""

SUBJECT = "game"
PLAIN_AGENT = "rainbow"  # has no objective

WITHOUT_FILE = "seaquest"  # as most games have none
TYPO = ("pnog", "pong")

# Two that end soon, and their folders: what whole sweeps are tried on.
SWEPT = ("qbert", "pixel_game:SmallCatch-v0")
SWEPT_FOLDERS = ("qbert", "pixel_game-SmallCatch-v0")

# What a configuration cannot know to be wrong.
SEEN_LATE = (
    "game=no_such_module:Game-v0",
    "environment.kwargs={level:3}",
    "game=odd_environments:Odd-v0 environment.kwargs={fault: strange lives}",
    "agent.hidden_dim=1000000000",
)

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

# Rules that tie keys together: a command line, and what its refusal names besides the first word.
TOGETHER = {
    "agent.patch_size=10": "12",
    "agent.decoder_heads=5": "49",
    "agent.num_filters=[32,64]": "3",
    "environment.image_size=16 agent.patch_size=8": "larger",
    "agent.v_min=11.0": "v_max",
    "agent.virtual_per_action=65 agent=playvirtual": "64",
    "agent.learning_starts=2000 budget=2000": "budget",
    "evaluation.every=1 budget=2000000000": "evaluations",
    "agent.learning_starts=20": "31",
    "replay.capacity=20": "31",
    "agent.crop_margin=84 agent=curl": "84",
}
