"""Published numbers to stand beside ours: task means and aggregates, and what is known of each."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .. import protocol

VALUE_KINDS = (
    "printed", "recomputed_from_runs", "digitised_figure", "recomputed_from_game_means",
)  # fmt: skip
"""Kinds of published aggregates, the most trusted first."""
MEAN_ONLY = "mean only, no interval"


@dataclass(frozen=True)
class Aggregate:
    """A published aggregate, normalised; `low` and `high` are NaN where no interval is known."""

    value: float
    low: float
    high: float
    tasks: int
    runs: str
    note: str


def aggregates(name: str, method: str, tasks: Sequence[str]) -> dict[str, Aggregate]:
    """Published aggregates of a method over `tasks`, by metric.

    Over the whole benchmark they are what its sources say. Over part of it, mean and median are
    computed from the published task means, and the metrics of single runs are not known.
    """
    means = protocol.published_scores(name).get(method, {})
    known = [task for task in tasks if task in means]
    found = {}
    if known == list(tasks) and known:
        scaled = [protocol.normalize(task, means[task][0]) for task in known]
        note = f"from the published means of {len(known)} tasks; {MEAN_ONLY}"
        for metric, value in (("median", np.median(scaled)), ("mean", np.mean(scaled))):
            found[metric] = Aggregate(float(value), math.nan, math.nan, len(known), "", note)
    if set(tasks) == set(protocol.TASKS):
        sources = _rows(name, method)
        found |= {metric: _choose(rows, len(known)) for metric, rows in sources.items()}
    return found


def _rows(name: str, method: str) -> dict[str, list[Mapping[str, str]]]:
    rows: dict[str, list[Mapping[str, str]]] = {}
    with (protocol.PUBLISHED_FOLDER / "aggregates.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            comparable = not row["metric"].endswith("_of_game_means")
            if row["benchmark"] == name and row["method"] == method and comparable:
                rows.setdefault(row["metric"], []).append(row)
    return rows


def _choose(rows: Sequence[Mapping[str, str]], tasks: int) -> Aggregate:
    """The value as printed if it is, with another source's interval if that has one."""
    ordered = sorted(rows, key=lambda row: VALUE_KINDS.index(row["kind"]))
    value = float(ordered[0]["value"]) / protocol.SCALE
    runs = next((row["n_runs"] for row in ordered if row["n_runs"]), "")
    note = ordered[0]["kind"].replace("_", " ")
    for row in ordered:
        if row["ci_low"] and row["ci_high"]:
            low, high = (float(row[edge]) / protocol.SCALE for edge in ("ci_low", "ci_high"))
            other = "" if row is ordered[0] else f"; interval {row['kind'].replace('_', ' ')}"
            return Aggregate(value, low, high, tasks, runs, note + other)
    return Aggregate(value, math.nan, math.nan, tasks, runs, f"{note}; {MEAN_ONLY}")
