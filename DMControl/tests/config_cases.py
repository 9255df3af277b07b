"""What the twin tests of configuration and sweeps need to know of this benchmark."""

SUBJECT = "task"
PLAIN_AGENT = "sac"  # has no objective

WITHOUT_FILE = "hopper_hop"  # as most tasks have none
TYPO = ("cartpol_swingup", "cartpole_swingup")

# Two that end soon, and their folders: what whole sweeps are tried on.
SWEPT = ("cartpole_swingup", "cheetah_run")
SWEPT_FOLDERS = SWEPT

# What a configuration cannot know to be wrong.
SEEN_LATE = (
    "environment.camera_id=99",
    "environment.kwargs={level:3}",
    "task=odd_environments:Odd-v0 environment.kwargs={fault: constant, actions: [-1, 1]}",
    "agent.hidden_dim=1000000",
    "agent=spr agent.sequence_length=20 agent.sequence_batch_size=65536 "
    "scale.image_size=480 scale.crop_size=480",
)

# What the published setting is.
PUBLISHED = {
    "budget": 100_000,
    "environment.image_size": 100,
    "environment.frame_stack": 3,
    "environment.camera_id": 0,
    "environment.fast_render": False,
    "agent.learning_starts": 1000,
    "agent.crop_size": 84,
    "agent.batch_size": 512,
    "agent.sequence_batch_size": 128,
    "agent.num_filters": 64,
    "agent.conv_strides": [2, 1, 1, 1],
    "agent.latent_dim": 50,
    "agent.hidden_dim": 1024,
    "agent.critic_tau": 0.01,
    "agent.sequence_length": 16,
    "agent.patch_size": 10,
    "agent.mask_ratio": 0.5,
    "agent.mlr_weight": 1.0,
    "agent.decoder_depth": 2,
    "agent.warmup_updates": 6000,
    "evaluation.final_episodes": 10,
}


# What differs for one task.
_KEYS = ["environment.action_repeat", "agent.cube_depth"]
_KEYS += ["agent.critic_learning_rate", "agent.actor_learning_rate", "agent.target_ema_tau"]
_ROWS = {
    "cartpole_swingup": (8, 4, 1e-3, 1e-3, 0.05),
    "reacher_easy": (4, 4, 1e-3, 1e-3, 0.05),
    "ball_in_cup_catch": (4, 8, 1e-3, 1e-3, 0.05),
    "cheetah_run": (4, 8, 2e-4, 2e-4, 0.05),
    "finger_spin": (2, 8, 1e-3, 1e-3, 0.05),
    "walker_walk": (2, 8, 1e-3, 1e-3, 0.1),
    "hopper_hop": (4, 8, 1e-3, 1e-3, 0.05),
}
FOR_ONE = {task: dict(zip(_KEYS, row, strict=True)) for task, row in _ROWS.items()}

# Rules that tie keys together: a command line, and what its refusal names besides the first word.
TOGETHER = {
    "task=reach_site_features": "suite",
    "task=cmu_humanoid_run_walls": "suite",
    "task=dm_control/reach_site_vision-v0": "suite",
    "task=dm_control/manipulation-reach_site-v0": "suite",
    "agent.patch_size=7": "10",
    "agent.crop_size=101": "100",
    "agent.decoder_heads=3": "25",
    "agent.crop_size=84 agent.augmentation=[shift]": "crop",
    "agent.conv_strides=[9,9,9]": "strides",
    "agent.conv_strides=[]": "number",
    "agent.log_std_min=3.0": "log_std_max",
    "budget=100001": "100000",
    "evaluation.every=1 budget=2000000000": "evaluations",
    "agent.learning_starts=1000 budget=8000": "budget",
    "agent.learning_starts=16": "17",
    "agent.sequence_length=125": "less",
    "replay.capacity=20": "38",
}
