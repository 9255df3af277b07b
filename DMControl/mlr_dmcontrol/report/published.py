"""Published numbers to stand beside ours: aggregates over tasks, and what is known of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .. import protocol

KINDS = (
    "printed", "recomputed_from_runs", "digitised_figure", "recomputed_from_game_means",
)  # fmt: skip
"""Kinds of published aggregates, the most trusted first."""
MEAN_ONLY = "mean only, no interval"


def aggregates(name: str, method: str, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Published aggregates of a method over `tasks`, normalised, a row a metric.

    Over the whole benchmark they are what its sources say: the value as printed if it is, with
    another source's interval if that has one. Over part of it, mean and median are computed from
    the published task means, and the metrics of single runs are not known.

    Args:
        name: one of `protocol.PUBLISHED_BENCHMARKS`.

    Returns:
        Rows of metric, value, low and high (NaN where no interval is known), tasks, runs, note.
    """
    means = protocol.published_scores(name).get(method, {})
    known = [task for task in tasks if task in means]
    rows = {}
    if known and known == list(tasks):
        scaled = [protocol.normalize(task, means[task][0]) for task in known]
        row = {"low": math.nan, "high": math.nan, "tasks": len(known), "runs": ""}
        row["note"] = f"from the published means of {len(known)} tasks; {MEAN_ONLY}"
        for metric, value in (("median", np.median(scaled)), ("mean", np.mean(scaled))):
            rows[metric] = {"metric": metric, "value": float(value), **row}
    if set(tasks) == set(protocol.TASKS):
        table = pd.read_csv(protocol.PUBLISHED_FOLDER / "aggregates.csv", dtype={"n_runs": str})
        table = table[(table["benchmark"] == name) & (table["method"] == method)]
        table = table[~table["metric"].str.endswith("_of_game_means")]
        table["bounds"] = table["kind"].where(table["ci_low"].notna())
        table = table.sort_values("kind", key=lambda kinds: kinds.map(KINDS.index), kind="stable")
        # The first that is known, column by column.
        for best in table.groupby("metric").first().fillna({"n_runs": ""}).itertuples():
            sources = list(dict.fromkeys([best.kind, f"interval {best.bounds}"]))
            if pd.isna(best.bounds):
                sources[1] = MEAN_ONLY
            rows[best.Index] = {
                "metric": best.Index,
                "value": best.value / protocol.SCALE,
                "low": best.ci_low / protocol.SCALE,
                "high": best.ci_high / protocol.SCALE,
                "tasks": len(known),
                "runs": best.n_runs,
                "note": "; ".join(sources[: 1 + (best.bounds != best.kind)]).replace("_", " "),
            }
    return list(rows.values())
