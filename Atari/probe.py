"""What the encoder's latents hold of the game's objects, and whether an objective collapses.

    python probe.py runs/pong/*/seed_* --out results/probe

Ridge regression from frozen latents to positions in the console's memory, scored by R² on held-out
games that are the same for every encoder, beside the untrained encoder and the pixels'
principal components. Results of several commands gather in one folder.
"""

from __future__ import annotations

import sys

from mlr_atari.probe.probe import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
