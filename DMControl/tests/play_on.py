"""Restores an environment in this new process, plays on, and prints a digest of all it returns.

Arguments: file with {"task", "settings", "state"}, number of steps.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from mlr_dmcontrol.environment import EnvironmentSettings, PixelControlEnv


def digest(env: PixelControlEnv, steps: int) -> str:
    """SHA-256 of observations, rewards and flags; actions are a function of the step alone."""
    sha = hashlib.sha256()
    rng = np.random.default_rng(7)
    for _ in range(steps):
        if env.episode_over:
            sha.update(env.reset()[0].tobytes())
        obs, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, env.action_space.shape))
        sha.update(obs.tobytes() + np.float64(reward).tobytes() + bytes([terminated, truncated]))
    return sha.hexdigest()


if __name__ == "__main__":
    saved = json.loads(Path(sys.argv[1]).read_text())
    saved["state"]["observation"] = bytes.fromhex(saved["state"]["observation"])
    environment = PixelControlEnv(
        saved["task"], EnvironmentSettings(**saved["settings"]), lambda k: 100 + k
    )
    assert environment.load_state_dict(saved["state"]), "the observation differs"
    print(digest(environment, int(sys.argv[2])))
    environment.close()
