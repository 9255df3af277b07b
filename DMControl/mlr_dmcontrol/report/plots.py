"""Figures from the tables of `tables.py`: colour-blind-safe, vector fonts, no date inside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import protocol
from .tables import METRIC_NAMES, OURS, PUBLISHED, label

# Okabe and Ito's palette without yellow; black is kept for published lines.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#7F7F7F")
DASHES = ("-", "--", "-.", ":")
REFERENCE_DASHES = ("--", ":", "-.", (0, (1, 3)))
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 150,
    "text.parse_math": False,  # a method may be called $x_2$
}
styled = matplotlib.rc_context(STYLE)


@styled
def save(
    figure: Figure, stem: Path, warning: str = "", kinds: Sequence[str] = ("png", "pdf")
) -> None:
    """Write `<stem>.png` and `<stem>.pdf`; `warning` is printed on the figure itself."""
    if warning:
        figure.suptitle(warning, color="#B00000", weight="bold")
    for kind in kinds:
        # No dates or versions inside, so that only changed results change the files.
        names = ("Software",) if kind == "png" else ("CreationDate", "Creator", "Producer")
        figure.savefig(f"{stem}.{kind}", metadata=dict.fromkeys(names))
        figure.set_layout_engine("none")  # found once, it holds for the next kind too


@styled
def learning_curves(curves: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """A panel per task: mean over runs with its 95 % band, published means as lines."""
    known = scores.rename(columns={"task": "what", "mean": "value"})
    return _curves(curves, known, protocol.VALUE_NAME, "published, mean only")


@styled
def sample_efficiency(curves: pd.DataFrame, aggregates: pd.DataFrame) -> Figure:
    """Aggregates of the normalised score against steps, published final values as lines."""
    known = aggregates.rename(columns={"metric": "what"})
    return _curves(curves, known, protocol.NORMALIZED_NAME, "published")


@styled
def interval_estimates(aggregates: pd.DataFrame) -> Figure:
    """A panel per metric, a line per method: ours as bars, published as diamonds."""
    names = list(dict.fromkeys(zip(aggregates["method"], aggregates["source"], strict=True)))
    looks = _looks(aggregates.loc[aggregates["source"] == OURS, "method"])
    height = 0.8 + 0.22 * len(names)
    figure, panels = _grid(len(METRIC_NAMES), columns=4, width=2.2, height=height)
    for axes, metric in zip(panels, METRIC_NAMES, strict=True):
        _lines(axes, [label(*name) for name in names], axes is panels[0])
        for row in aggregates[aggregates["metric"] == metric].itertuples():
            at = names.index((row.method, row.source))
            if row.source == OURS:
                _bar(axes, at, row.value, row.low, row.high, looks[row.method]["color"])
            else:
                axes.plot([row.low, row.high], [at, at], color="black", lw=1)
                axes.plot([row.value], [at], "D", ms=3.5, mfc="white", color="black")
        axes.set_title(METRIC_NAMES[metric])
        axes.set_xlabel(protocol.NORMALIZED_NAME)
    return figure


@styled
def performance_profiles(profiles: pd.DataFrame) -> Figure:
    """Share of runs above each normalised score, with its 95 % band."""
    figure, (axes,) = _grid(1, width=4.2, height=2.8)
    for method, look in _looks(profiles["method"]).items():
        own = profiles[profiles["method"] == method]
        axes.step(own["threshold"], own["share"], where="post", label=method, **look)
        band: dict[str, Any] = {"color": look["color"], "alpha": 0.18, "lw": 0}
        axes.fill_between(own["threshold"], own["low"], own["high"], step="post", **band)
    axes.set(xlim=protocol.PROFILE_RANGE, xlabel=f"τ: {protocol.NORMALIZED_NAME}")
    axes.set(ylim=(0, 1.02), ylabel="share of runs with score > τ")
    return _legend(figure)


@styled
def comparisons(pairs: pd.DataFrame) -> Figure:
    """For every pair P(X > Y) and the difference of means, with their 95 % intervals."""
    figure, panels = _grid(2, width=3.4, height=0.8 + 0.25 * len(pairs))
    names = [f"{row.method}  >  {row.other}" for row in pairs.itertuples()]
    for axes, name, none in zip(panels, ("probability", "difference"), (0.5, 0.0), strict=True):
        _lines(axes, names, axes is panels[0])
        rows = pairs[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False)
        for at, (value, low, high) in enumerate(rows):
            _bar(axes, at, value, low, high, COLOURS[0])
        axes.axvline(none, color="black", lw=0.8, ls="--")
    panels[0].set(xlim=(0, 1), xlabel="P(X > Y)")
    panels[1].set_xlabel(f"X − Y, mean {protocol.NORMALIZED_NAME}")
    return figure


@styled
def final_scores(runs: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """A panel per task: every run a dot, the mean with its interval, published means as lines."""
    tasks, ours = list(scores["task"].unique()), scores[scores["source"] == OURS]
    looks = _looks(ours["method"])
    figure, panels = _grid(len(tasks), height=1.8 + 0.06 * max(map(len, looks)))
    for axes, task in zip(panels, tasks, strict=True):
        for row in ours[ours["task"] == task].itertuples():
            at, colour = list(looks).index(row.method), looks[row.method]["color"]
            dots = runs.loc[(runs["task"] == task) & (runs["method"] == row.method), "mean"]
            axes.plot([at - 0.2] * len(dots), dots, "o", ms=3, mfc="none", color=colour)
            edges = None if math.isnan(row.low) else [[row.mean - row.low], [row.high - row.mean]]
            axes.errorbar(at + 0.1, row.mean, edges, fmt="s", ms=4, capsize=2, color=colour)
        known = scores[scores["task"] == task].rename(columns={"mean": "value"})
        _references(axes, known, "published, mean only")
        axes.set(title=task, xlim=(-0.6, len(looks) - 0.4), ylabel=_beside(axes))
        axes.set_xticks(range(len(looks)), looks, rotation=90)
    return _legend(figure)


def _grid(
    count: int, columns: int | None = None, width: float | None = None, height: float | None = None
) -> tuple[Figure, list[Axes]]:
    """Panels; their size is in inches, and without one the fewer there are, the larger."""
    columns = min(count, columns or (3 if count <= 9 else 5))
    width = width or min(4.8, max(2.3, 6.4 / columns))
    height = height or 0.4 * width + 0.9
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[count:]:
        axes.remove()
    return figure, list(grid.flat[:count])


def _curves(curves: pd.DataFrame, known: pd.DataFrame, y: str, note: str) -> Figure:
    """A panel for each `what`: the curve and the band of every method, and what is published."""
    names = list(curves["what"].unique())
    figure, panels = _grid(len(names))
    looks = _looks(curves["method"])
    for axes, name in zip(panels, names, strict=True):
        for method, own in curves[curves["what"] == name].groupby("method", sort=False):
            x, look = own["step"] / 1000, looks[method]
            axes.plot(x, own["value"], label=method, **look)
            axes.fill_between(x, own["low"], own["high"], color=look["color"], alpha=0.18, lw=0)
        _references(axes, known[known["what"] == name], note)
        axes.set(title=METRIC_NAMES.get(name, name), ylabel=_beside(axes, y))
        axes.set(xlim=(0, None), xlabel=f"{protocol.STEP_NAME} (thousands)")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    return _legend(figure)


def _references(axes: Axes, rows: pd.DataFrame, note: str) -> None:
    """Published values as lines, with a grey band where an interval is known."""
    for method, dashes in zip(protocol.REFERENCES, REFERENCE_DASHES, strict=False):
        known = rows[(rows["source"] == PUBLISHED) & (rows["method"] == method)]
        for row in known.itertuples():
            axes.axhline(row.value, color="black", lw=0.8, ls=dashes, label=f"{method} ({note})")
            if not math.isnan(row.low):
                axes.axhspan(row.low, row.high, color="black", alpha=0.1, lw=0)


def _bar(axes: Axes, at: float, value: float, low: float, high: float, colour: str) -> None:
    if not math.isnan(low):
        axes.barh(at, high - low, left=low, height=0.6, color=colour, alpha=0.5, lw=0)
    axes.plot([value, value], [at - 0.3, at + 0.3], color="black", lw=1.5)


def _lines(axes: Axes, names: Sequence[str], named: bool) -> None:
    """Make room for a line of each name, before anything is drawn."""
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelleft=named)
    axes.use_sticky_edges = False  # room beside the outermost bar


def _beside(axes: Axes, y: str = protocol.VALUE_NAME) -> str:
    """`y` for the first panel of a line, nothing for the others."""
    place = axes.get_subplotspec()
    return y if place is not None and place.is_first_col() else ""


def _legend(figure: Figure) -> Figure:
    """One for all panels, below them in a figure made higher by as much."""
    entries: dict[str, Artist] = {}
    for axes in figure.axes:
        artists, names = axes.get_legend_handles_labels()
        entries |= dict(zip(map(str, names), artists, strict=True))
    if entries:
        inches = 0.55 + 0.065 * max(len(name) for name in entries)
        columns = min(len(entries), max(1, int(figure.get_figwidth() / inches)))
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns)
        figure.set_figheight(figure.get_figheight() + 0.18 * math.ceil(len(entries) / columns))
    return figure


def _looks(methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and dashes of each method; the eighth has the first's colour, but other dashes."""
    return {
        method: {
            "color": COLOURS[place % len(COLOURS)],
            "ls": DASHES[place // len(COLOURS) % len(DASHES)],
        }
        for place, method in enumerate(dict.fromkeys(methods))
    }
