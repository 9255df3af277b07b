"""What the rows of `probe.csv` say: tables of methods and of rank correlations, and a figure."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from ..protocol import BASELINE
from ..report import plots, statistics
from ..report.tables import bracketed

PLACE = ["subject", "preset"]  # encoders that are compared: the same task or game, and sizes
_REFERENCES = {"untrained": "− untrained", "pca": "− pixels' PCA", "baseline": f"− {BASELINE}"}


def by_run(rows: pd.DataFrame) -> pd.DataFrame:
    """`score`, and means over a target's variables that change: `r2`, `untrained`, `pca`.

    `baseline` is the r2 of the baseline's run of the same seed, whose encoder starts from the same
    weights; NaN where there is none.
    """
    keys, values = ["target", *PLACE, "seed"], ["r2", "untrained", "pca", "score"]
    runs = rows.groupby([*keys, "method"], sort=False)[values].mean().reset_index()
    is_baseline = runs["method"] == BASELINE
    known = runs[is_baseline].set_index(keys)["r2"].rename("baseline")
    runs = runs.join(known, on=keys)
    runs.loc[is_baseline, "baseline"] = np.nan
    return runs


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each method, with 95 % intervals over seeds; differences are within a seed."""
    lines = []
    for (*place, method), runs in by_run(rows).groupby([*PLACE, "method"], sort=False):
        state = runs[runs["target"] == "state"]
        line = {"": ", ".join(place), "method": method, "seeds": len(state)}
        line["R²"] = _mean(state["r2"], most=1.0)
        for name, title in _REFERENCES.items():
            line[title] = _mean(state["r2"] - state[name], "+")
        for target in ("reward", "action"):
            line[f"R² of {target}"] = _mean(runs["r2"][runs["target"] == target], most=1.0)
        lines.append(line)
    return pd.DataFrame(lines)


def correlations(rows: pd.DataFrame) -> pd.DataFrame:
    """Spearman's ρ of R² with the final score, over methods: does a probe rank as training does?

    Its 95 % interval is over seeds, of which a single one allows none; p is the share of all
    orders of the methods that agree at least as well or as badly.
    """
    lines, pair = [], ["r2", "score"]
    known = by_run(rows).dropna(subset=pair)
    for (target, *place), runs in known.groupby(["target", *PLACE], sort=False):
        methods = dict(list(runs.groupby("method")))
        if len(methods) < 3:
            continue
        pairs = [own[column] for column in pair for own in methods.values()]
        interval = statistics.interval(_rank_correlation, pairs, limits=(-1.0, 1.0))
        shown = bracketed(*interval, "+.2f")
        ranks = (runs.groupby("method")[column].mean().rank() for column in pair)
        orders = stats.PermutationMethod(n_resamples=5040, rng=np.random.default_rng(0))
        p = f"{stats.pearsonr(*ranks, method=orders).pvalue:.3f}"
        lines.append([", ".join(place), target, len(methods), shown, p])
    return pd.DataFrame(lines, columns=["", "target", "methods", "ρ with the score", "p"])


def _rank_correlation(*methods: np.ndarray) -> np.ndarray:
    """Of the means over runs: arrays (..., runs), R² of all methods, then their scores."""
    means = np.stack([runs.mean(-1) for runs in methods])
    x, y = (stats.rankdata(half, axis=0) for half in np.split(means, 2))
    x, y = (ranks - ranks.mean(axis=0) for ranks in (x, y))
    scale = np.sqrt((x**2).sum(0) * (y**2).sum(0))
    return (x * y).sum(0) / np.maximum(scale, 1e-30)  # 0 where all are tied


@plots.styled
def scores(rows: pd.DataFrame) -> Figure:
    """For each place: mean R² of the state with intervals and seeds; R² of each variable."""
    places = list(rows.groupby(PLACE, sort=False))
    heights = [1.2 + 0.22 * own["method"].nunique() for _, own in places]
    figure = Figure(figsize=(8.0, sum(heights) + 0.6 * len(heights)), layout="constrained")
    grid = figure.subplots(
        len(places), 2, squeeze=False, height_ratios=heights, width_ratios=(2, 3)
    )
    for (left, right), (place, own) in zip(grid, places, strict=True):
        runs = by_run(own[own["target"] == "state"])
        methods = list(runs.dropna(subset="r2").groupby("method", sort=False)["r2"])
        for at, (_, values) in enumerate(methods):
            colour = plots.COLOURS[at % len(plots.COLOURS)]
            interval = statistics.interval(statistics.mean, [values], limits=(-np.inf, 1.0))
            left.plot([interval.low, interval.high], [at, at], color=colour, lw=5, alpha=0.4)
            left.plot(values, [at] * len(values), "o", ms=3, color=colour)
        left.set(title=", ".join(place), ylim=(len(methods) - 0.5, -0.5))
        left.set_yticks(range(len(methods)), [method for method, _ in methods])
        left.set_xlabel("R² on held-out episodes, mean of the state's variables")
        cells = own.pivot_table("r2", "method", "variable", dropna=False, sort=False)
        for style, name in ((":", "untrained"), ("--", "pca")):
            left.axvline(runs[name].mean(), color="black", ls=style, lw=1, label=name)
            cells.loc[name] = own.groupby("variable")[name].mean()
        left.legend(fontsize=6)
        image = right.imshow(cells, vmin=0, vmax=1, aspect="auto", cmap="viridis")
        right.grid(False)
        right.set_yticks(range(len(cells)), cells.index)
        right.set_xticks(range(cells.shape[1]), cells.columns, rotation=90, fontsize=6)
        figure.colorbar(image, ax=right, label="R²")
    return figure


def _mean(values: pd.Series, sign: str = "", most: float = np.inf) -> str:
    """Mean with its interval over seeds; nothing of no value. `most`: none can be larger."""
    known = values.dropna()
    if not len(known):
        return ""
    interval = statistics.interval(statistics.mean, [known], limits=(-np.inf, most))
    return bracketed(*interval, f"{sign}.3f")
