"""How fast an update and a step of training are, and what share of the machine's limit that is.

    python benchmark.py preset=laptop
    python benchmark.py preset=paper precision=bf16 --updates 2
    python benchmark.py preset=paper device=cuda cuda_graph=true --profile

All keys of train.py; --json for JSON.
"""

from __future__ import annotations

import sys
from functools import partial

from mlr_atari.benchmark import main
from mlr_atari.build import objective_settings
from mlr_atari.rainbow import RainbowSettings
from mlr_atari.run.config import load
from train import train

if __name__ == "__main__":
    read = partial(load, objective_settings=objective_settings(), agent_settings=RainbowSettings)
    sys.exit(main(sys.argv[1:], read, train))
