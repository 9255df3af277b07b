"""A hundred updates on random frames give the losses that were once recorded.

    PYTHONPATH=. python tests/test_trace.py      records them anew; the commit says why

The same file in both trees.
"""

from pathlib import Path

import pandas as pd
import torch
from test_learner import make_learner, updated

RECORDED = Path(__file__).with_name("trace.csv")
UPDATES, EVERY = 100, 5
TOLERANCE = 1e-4  # relative: processors round differently


def trace() -> pd.DataFrame:
    """All metrics of every fifth update of MLR."""
    learner, rows = make_learner("mlr"), []
    for step in range(UPDATES):
        metrics = updated(learner, step)
        if (step + 1) % EVERY == 0:
            values = {name: float(value) for name, value in sorted(metrics.items())}
            rows.append({"update": step + 1, **values})
    return pd.DataFrame(rows)


def test_losses_are_those_that_were_recorded() -> None:
    recorded = pd.read_csv(RECORDED)
    assert len(recorded) == UPDATES // EVERY
    pd.testing.assert_frame_equal(trace(), recorded, rtol=TOLERANCE, atol=1e-6, check_dtype=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    trace().to_csv(RECORDED, index=False)
