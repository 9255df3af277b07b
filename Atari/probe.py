"""What frozen latents hold of the state, the reward and the best policy's action; and collapses.

    python probe.py runs/*/*/seed_* --out results/probe

Ridge regression from the latents, scored by R² on held-out episodes that are the same for every
encoder, beside the untrained encoder and the pixels' principal components; and whether methods
rank by it as by their scores. Results of several commands gather in one folder.
"""

from __future__ import annotations

import sys

from mlr_atari.probe.probe import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
