"""What the encoder's latents hold of the simulator's state, and whether an objective collapses.

    python probe.py runs/cheetah_run/*/seed_* --out results/probe
    python probe.py --objective-alone task=cheetah_run agent=spr,mlr seed=1,2,3 preset=laptop

Ridge regression from frozen latents to positions and velocities, scored by R² on held-out
episodes that are the same for every encoder, beside the untrained encoder and the pixels'
principal components. The second command trains the objective without RL on frames of a random
policy, and then probes it. Results of several commands gather in one folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import torch
from omegaconf import DictConfig

from mlr_dmcontrol.errors import RunError
from mlr_dmcontrol.probe.command import run
from mlr_dmcontrol.renderer import choose_renderer
from mlr_dmcontrol.settings import compose


def configuration(overrides: Sequence[str]) -> DictConfig:
    """As train.py checks it."""
    return compose(overrides)


def main(argv: Sequence[str]) -> int:
    """Exit code 0, or 2 where something cannot be probed."""
    try:
        if "MUJOCO_GL" not in os.environ:
            choose_renderer(0 if torch.cuda.is_available() else None)
        run(argv, configuration)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
