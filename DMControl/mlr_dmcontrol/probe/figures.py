"""What the probe's rows say: a table of methods, and two figures.

Rows are those of `probe.csv` (a variable of a run's encoder) and `collapse.csv` (an update of it).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..report import plots, statistics
from ..report.statistics import Interval
from .world import BASELINE

PLACE = ("subject", "preset")  # encoders that are compared: the same task or game, and sizes
SIGNS = ("loss", "projection_std", "effective_rank")  # of a collapse
ALONE = " alone"  # behind the name of a method that was trained without RL
_REFERENCES = {"untrained": "− untrained", "pca": "− pixels' PCA", "baseline": f"− {BASELINE}"}


def by_run(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over the variables that change: `r2`, `untrained`, `pca` of each run.

    `baseline` is the r2 of the baseline's run of the same seed, whose encoder starts from the same
    weights; NaN where there is none.
    """
    keys = [*PLACE, "method", "seed"]
    runs = scores.groupby(keys, sort=False)[["r2", "untrained", "pca"]].mean().reset_index()
    baseline = runs[runs["method"] == BASELINE].set_index([*PLACE, "seed"])["r2"]
    runs = runs.join(baseline.rename("baseline"), on=[*PLACE, "seed"])
    runs.loc[runs["method"] == BASELINE, "baseline"] = np.nan
    return runs


def table(scores: pd.DataFrame) -> pd.DataFrame:
    """A line for each method, with 95 % intervals over seeds; differences are within a seed."""
    lines = []
    for (*place, method), runs in by_run(scores).groupby([*PLACE, "method"], sort=False):
        line = {"": ", ".join(place), "method": method, "seeds": len(runs)}
        line["R²"] = _text(runs["r2"], most=1.0)
        for name, title in _REFERENCES.items():
            line[title] = _text(runs["r2"] - runs[name], "+")
        lines.append(line)
    return pd.DataFrame(lines)


@plots.styled
def scores(rows: pd.DataFrame) -> Figure:
    """For each place: mean R² with intervals and seeds, and beside it R² of each variable."""
    places = list(rows.groupby([*PLACE], sort=False))
    heights = [1.2 + 0.22 * own["method"].nunique() for _, own in places]
    figure = Figure(figsize=(8.0, sum(heights) + 0.6 * len(heights)), layout="constrained")
    grid = figure.subplots(
        len(places), 2, squeeze=False, height_ratios=heights, width_ratios=(2, 3)
    )
    for (left, right), (place, own) in zip(grid, places, strict=True):
        _means(left, by_run(own))
        left.set_title(", ".join(place))
        _variables(right, own)
    return figure


@plots.styled
def collapse(rows: pd.DataFrame) -> Figure:
    """Signs of a collapse along training, a row of panels for each place; dashed without RL."""
    places = list(rows.groupby([*PLACE], sort=False))
    names = sorted(rows["method"].str.removesuffix(ALONE).unique())
    colours = {name: plots.COLOURS[i % len(plots.COLOURS)] for i, name in enumerate(names)}
    size = (2.7 * len(SIGNS), 2.2 * len(places) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(places), len(SIGNS), squeeze=False)
    handles: dict[str, Any] = {}
    for panels, (place, own) in zip(grid, places, strict=True):
        for axes, sign in zip(panels, SIGNS, strict=True):
            for (method, _), run in own.groupby(["method", "seed"], sort=False):
                style = "--" if method.endswith(ALONE) else "-"
                colour = colours[method.removesuffix(ALONE)]
                (handles[method],) = axes.plot(
                    run["update"], run[sign], style, color=colour, lw=0.9
                )
            axes.set_title(f"{', '.join(place)}: {sign.replace('_', ' ')}")
            axes.set_xlabel("update")
            if sign == "loss":
                axes.set_yscale("log")
            else:
                axes.set_ylim(bottom=0)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)
    return figure


def _means(axes: Axes, runs: pd.DataFrame) -> None:
    methods = list(runs.groupby("method", sort=False)["r2"])
    for at, (_, values) in enumerate(methods):
        colour, interval = plots.COLOURS[at % len(plots.COLOURS)], _interval(values, 1.0)
        axes.plot([interval.low, interval.high], [at, at], color=colour, lw=5, alpha=0.4)
        axes.plot(values, [at] * len(values), "o", ms=3, color=colour)
    for style, name in ((":", "untrained"), ("--", "pca")):
        axes.axvline(runs[name].mean(), color="black", ls=style, lw=1, label=name)
    axes.set_yticks(range(len(methods)), [method for method, _ in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xlabel("R² on held-out episodes, mean of the variables")
    axes.legend(fontsize=6)


def _variables(axes: Axes, rows: pd.DataFrame) -> None:
    """Methods, then what they are compared with, by variables."""
    cells = rows.pivot_table("r2", "method", "variable", dropna=False, sort=False)
    for name in ("untrained", "pca"):
        cells.loc[name] = rows.groupby("variable")[name].mean()
    image = axes.imshow(cells, vmin=0, vmax=1, aspect="auto", cmap="viridis")
    axes.grid(False)
    axes.set_yticks(range(len(cells)), cells.index)
    axes.set_xticks(range(cells.shape[1]), cells.columns, rotation=90, fontsize=6)
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, label="R²")


def _interval(values: pd.Series, most: float = np.inf) -> Interval:
    """Over seeds. Args: `most`: no value can be larger, such as 1 for R²."""
    return statistics.interval(statistics.mean, {"": values}, limits=(-np.inf, most))


def _text(values: pd.Series, sign: str = "", most: float = np.inf) -> str:
    """Mean with its interval over seeds; nothing of no value."""
    values = values.dropna()
    if not len(values):
        return ""
    found = _interval(values, most)
    text = f"{found.value:{sign}.3f}"
    interval = f" [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"
    return text if np.isnan(found.low) else text + interval
