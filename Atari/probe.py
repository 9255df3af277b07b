"""What the encoder's latents hold of the game's objects, and whether an objective collapses.

    python probe.py runs/pong/*/seed_* --out results/probe
    python probe.py --objective-alone game=pong agent=spr,mlr seed=1,2,3 preset=laptop

Ridge regression from frozen latents to positions in the console's memory, scored by R² on held-out
games that are the same for every encoder, beside the untrained encoder and the pixels'
principal components. The second command trains the objective without RL on frames of a random
policy, and then probes it. Results of several commands gather in one folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from mlr_atari.errors import RunError
from mlr_atari.probe.command import run
from mlr_atari.settings import compose


def configuration(overrides: Sequence[str]) -> DictConfig:
    """As train.py checks it."""
    return compose(overrides)


def main(argv: Sequence[str]) -> int:
    """Exit code 0, or 2 where something cannot be probed."""
    try:
        run(argv, configuration)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
