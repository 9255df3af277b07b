"""How fast an update and a step of training are, and what share of the machine's limit that is.

    python benchmark.py preset=laptop
    python benchmark.py preset=paper precision=bf16 --updates 2
    python benchmark.py preset=paper device=cuda cuda_graph=true --profile

All keys of train.py; --json for JSON.
"""

from __future__ import annotations

import sys

from mlr_dmcontrol.benchmark import main
from mlr_dmcontrol.settings import load
from train import train

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], load, train))
