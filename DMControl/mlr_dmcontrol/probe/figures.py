"""What the probe's rows say: tables of methods and of rank correlations, and two figures.

Rows are those of `probe.csv` (a variable of a run's encoder) and `collapse.csv` (an update of it).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from ..report import plots, statistics
from .world import BASELINE

PLACE = ("subject", "preset")  # encoders that are compared: the same task or game, and sizes
TARGETS = ("state", "reward", "action")  # what is read out of latents; `action`: the best policy's
SIGNS = ("loss", "projection_std", "effective_rank")  # of a collapse
ALONE = " alone"  # behind the name of a method that was trained without RL
_REFERENCES = {"untrained": "− untrained", "pca": "− pixels' PCA", "baseline": f"− {BASELINE}"}


def by_run(rows: pd.DataFrame, target: str = "state") -> pd.DataFrame:
    """`score`, and means over a target's variables that change: `r2`, `untrained`, `pca`.

    `baseline` is the r2 of the baseline's run of the same seed, whose encoder starts from the same
    weights; NaN where there is none.
    """
    keys, values = [*PLACE, "method", "seed"], ["r2", "untrained", "pca", "score"]
    own = rows[rows["target"] == target]
    runs = own.groupby(keys, sort=False)[values].mean().reset_index()
    baseline = runs[runs["method"] == BASELINE].set_index([*PLACE, "seed"])["r2"]
    runs = runs.join(baseline.rename("baseline"), on=[*PLACE, "seed"])
    runs.loc[runs["method"] == BASELINE, "baseline"] = np.nan
    return runs


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each method, with 95 % intervals over seeds; differences are within a seed."""
    r2 = {target: by_run(rows, target) for target in TARGETS}
    lines = []
    for (*place, method), runs in r2["state"].groupby([*PLACE, "method"], sort=False):
        line = {"": ", ".join(place), "method": method, "seeds": len(runs)}
        line["R²"] = _text(runs["r2"], most=1.0)
        for name, title in _REFERENCES.items():
            line[title] = _text(runs["r2"] - runs[name], "+")
        for target in TARGETS[1:]:
            same = (r2[target][[*PLACE, "method"]] == [*place, method]).all(axis=1)
            line[f"R² of {target}"] = _text(r2[target]["r2"][same], most=1.0)
        lines.append(line)
    return pd.DataFrame(lines)


def correlations(rows: pd.DataFrame) -> pd.DataFrame:
    """Spearman's ρ of R² with the final score, over methods: does a probe rank as training does?

    Its 95 % interval is over seeds, of which a single one allows none; p is the share of all
    orders of the methods that agree at least as well or as badly.
    """
    lines = []
    for target in TARGETS:
        known = by_run(rows, target).dropna(subset=["r2", "score"])
        for place, runs in known.groupby([*PLACE], sort=False):
            methods = dict(list(runs.groupby("method")))
            if len(methods) < 3:
                continue
            pairs = {(column, name): methods[name][column] for column in _PAIR for name in methods}
            shown = _text_of(_rank_correlation, pairs, (-1.0, 1.0), "+.2f")
            ranks = (runs.groupby("method")[column].mean().rank() for column in _PAIR)
            orders = stats.PermutationMethod(n_resamples=5040, rng=np.random.default_rng(0))
            p = f"{stats.pearsonr(*ranks, method=orders).pvalue:.3f}"
            lines.append([", ".join(place), target, len(methods), shown, p])
    return pd.DataFrame(lines, columns=["", "target", "methods", "ρ with the score", "p"])


_PAIR = ("r2", "score")


def _rank_correlation(*methods: np.ndarray) -> np.ndarray:
    """Of the means over runs: arrays (..., runs), R² of all methods, then their scores."""
    means = np.stack([runs.mean(-1) for runs in methods])
    x, y = (stats.rankdata(half, axis=0) for half in np.split(means, 2))
    x, y = (ranks - ranks.mean(axis=0) for ranks in (x, y))
    scale = np.sqrt((x**2).sum(0) * (y**2).sum(0))  # 0 where all are tied
    return np.divide((x * y).sum(0), scale, out=np.zeros_like(scale), where=scale > 0)


@plots.styled
def scores(rows: pd.DataFrame) -> Figure:
    """For each place: mean R² of the state with intervals and seeds; R² of each variable."""
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
        colour = plots.COLOURS[at % len(plots.COLOURS)]
        interval = statistics.interval(statistics.mean, {"": values}, limits=(-np.inf, 1.0))
        axes.plot([interval.low, interval.high], [at, at], color=colour, lw=5, alpha=0.4)
        axes.plot(values, [at] * len(values), "o", ms=3, color=colour)
    for style, name in ((":", "untrained"), ("--", "pca")):
        axes.axvline(runs[name].mean(), color="black", ls=style, lw=1, label=name)
    axes.set_yticks(range(len(methods)), [method for method, _ in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xlabel("R² on held-out episodes, mean of the state's variables")
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


def _text(values: pd.Series, sign: str = "", most: float = np.inf) -> str:
    """Mean with its interval over seeds; nothing of no value. `most`: none can be larger."""
    values = values.dropna()
    limits = (-np.inf, most)
    return _text_of(statistics.mean, {"": values}, limits, f"{sign}.3f") if len(values) else ""


def _text_of(
    metric: statistics.Metric, values: Any, limits: tuple[float, float], style: str
) -> str:
    value, low, high = statistics.interval(metric, values, limits=limits)
    interval = "" if np.isnan(low) else f" [{low:{style}}, {high:{style}}]"
    return f"{value:{style}}{interval}"
