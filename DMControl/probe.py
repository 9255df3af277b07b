"""What the encoder's latents hold of the simulator's state, and whether an objective collapses.

    python probe.py runs/cheetah_run/*/seed_* --out results/probe

Ridge regression from frozen latents to positions and velocities, scored by R² on held-out
episodes that are the same for every encoder, beside the untrained encoder and the pixels'
principal components. Results of several commands gather in one folder.
"""

from __future__ import annotations

import sys

from mlr_dmcontrol.probe.probe import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
