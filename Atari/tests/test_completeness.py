"""Nothing that a checkpoint holds could be left out without a trace (see `completeness.py`)."""

from __future__ import annotations

import completeness
import pytest


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_nothing_that_is_saved_could_be_left_out() -> None:
    rows = list(completeness.rows())
    assert len(rows) > 30
    unnoticed = [row.item for row in rows if not row.noticed]
    assert not unnoticed, f"saved, but nothing depends on it: {unnoticed}"
