"""How fast an update and a step of training are, and what share of the machine's limit that is.

    python benchmark.py preset=paper precision=bf16 --updates 5 --steps 20
    python benchmark.py preset=paper --reference          against the same update computed plainly
    python benchmark.py preset=laptop --scaling           against its sizes
    python benchmark.py device=cuda --processes 2,4,8     several runs on one GPU
    python benchmark.py --readme                          table and figure of README.md anew
    python benchmark.py --methods                         README.md's table of all methods anew

All keys of train.py; add --json for JSON, --save to append to results/benchmark/.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from mlr_atari.benchmark import methods
from mlr_atari.benchmark.command import run
from mlr_atari.build import objective_settings
from mlr_atari.errors import RunError
from mlr_atari.rainbow import RainbowSettings
from mlr_atari.run.config import load


def configuration(overrides: Sequence[str]) -> DictConfig:
    """As train.py reads it."""
    return load(overrides, objective_settings(), RainbowSettings)


def main(argv: Sequence[str]) -> int:
    """Exit code 0, or 2 where something cannot be measured."""
    try:
        if methods.FLAG in argv:
            methods.refresh(argv, configuration, Path(__file__).parent)
        else:
            run(argv, configuration, Path(__file__).parent)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
