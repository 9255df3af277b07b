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

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from mlr_dmcontrol.benchmark import methods
from mlr_dmcontrol.benchmark.command import run
from mlr_dmcontrol.build import objective_settings
from mlr_dmcontrol.errors import RunError
from mlr_dmcontrol.renderer import choose_renderer
from mlr_dmcontrol.run.config import load
from mlr_dmcontrol.sac import SACSettings


def configuration(overrides: Sequence[str]) -> DictConfig:
    """As train.py reads it; the simulator can draw from then on."""
    cfg = load(overrides, objective_settings(), SACSettings)
    if "MUJOCO_GL" not in os.environ:
        choose_renderer(0 if torch.cuda.is_available() else None)
    return cfg


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
