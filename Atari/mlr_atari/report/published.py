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

    Over the whole benchmark they are what its sources say. Over part of it, mean and median are
    computed from the published task means, and the metrics of single runs are not known.

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
        note = f"from the published means of {len(known)} tasks; {MEAN_ONLY}"
        values = {"median": float(np.median(scaled)), "mean": float(np.mean(scaled))}
        rows = {metric: _row(metric, value, len(known), note) for metric, value in values.items()}
    if set(tasks) == set(protocol.TASKS):
        table = pd.read_csv(protocol.PUBLISHED_FOLDER / "aggregates.csv", dtype={"n_runs": str})
        table = table[(table["benchmark"] == name) & (table["method"] == method)]
        table = table[~table["metric"].str.endswith("_of_game_means")]
        rows |= {metric: _best(metric, own, len(known)) for metric, own in table.groupby("metric")}
    return list(rows.values())


def _best(metric: str, sources: pd.DataFrame, tasks: int) -> dict[str, Any]:
    """The value as printed if it is, with another source's interval if that has one."""
    ordered = sources.sort_values("kind", key=lambda kinds: kinds.map(KINDS.index), kind="stable")
    first = ordered.iloc[0]
    row = _row(metric, first["value"] / protocol.SCALE, tasks, first["kind"].replace("_", " "))
    row["runs"] = next(iter(ordered["n_runs"].dropna()), "")
    intervals = ordered.dropna(subset=["ci_low", "ci_high"])
    if intervals.empty:
        return row | {"note": f"{row['note']}; {MEAN_ONLY}"}
    source = intervals.iloc[0]
    row |= {"low": source["ci_low"] / protocol.SCALE, "high": source["ci_high"] / protocol.SCALE}
    if source["kind"] != first["kind"]:
        row["note"] += f"; interval {source['kind'].replace('_', ' ')}"
    return row


def _row(metric: str, value: float, tasks: int, note: str) -> dict[str, Any]:
    row = {"metric": metric, "value": value, "low": math.nan, "high": math.nan}
    return row | {"tasks": tasks, "runs": "", "note": note}
