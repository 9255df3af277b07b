"""Figures from the tables of `tables.py`: colour-blind-safe, vector fonts, no date inside."""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import protocol
from .tables import METRIC_NAMES, OURS, PUBLISHED, label

# Okabe and Ito's palette without yellow; black is kept for published lines.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#7F7F7F")
DASHES = ("-", "--", "-.", ":")
REFERENCE_DASHES = ("--", ":")
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
def save(figure: Figure, stem: Path, kinds: Sequence[str] = ("png", "pdf")) -> None:
    """Write `<stem>.png` and `<stem>.pdf`."""
    for kind in kinds:
        # No dates or versions inside, so that only changed results change the files.
        names = ("Software",) if kind == "png" else ("CreationDate", "Creator", "Producer")
        figure.savefig(f"{stem}.{kind}", metadata=dict.fromkeys(names))
        figure.set_layout_engine("none")  # found once, it holds for the next kind too


@styled
def curves(rows: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """A panel for each `what`: a curve and its band for every method, published scores as lines.

    Args: `scores`: those of the tasks, or aggregates of the normalised ones, as are the rows.
    """
    y = protocol.NORMALIZED_NAME if "metric" in scores else protocol.VALUE_NAME
    known = scores.rename(columns={"task": "what", "metric": "what", "mean": "value"})
    names, looks = list(rows["what"].unique()), _looks(rows["method"])
    figure, panels = _grid(len(names), y)
    for axes, name in zip(panels, names, strict=True):
        for method, own in rows[rows["what"] == name].groupby("method", sort=False):
            x, look = own["step"] / 1000, looks[method]
            axes.plot(x, own["value"], label=method, **look)
            axes.fill_between(x, own["low"], own["high"], color=look["color"], alpha=0.18, lw=0)
        _references(axes, known[known["what"] == name])
        axes.set(title=METRIC_NAMES.get(name, name), xlabel=f"{protocol.STEP_NAME} (thousands)")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    return _legend(figure)


@styled
def final_scores(runs: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """A panel per task: every run a dot, the mean with its interval, published means as lines."""
    tasks, ours = list(scores["task"].unique()), scores[scores["source"] == OURS]
    looks = _looks(ours["method"])
    height = 1.8 + 0.06 * max(map(len, looks))
    figure, panels = _grid(len(tasks), protocol.VALUE_NAME, height)
    for axes, task in zip(panels, tasks, strict=True):
        for row in ours[ours["task"] == task].itertuples():
            at, colour = list(looks).index(row.method), looks[row.method]["color"]
            dots = runs.loc[(runs["task"] == task) & (runs["method"] == row.method), "mean"]
            axes.plot([at - 0.2] * len(dots), dots, "o", ms=3, mfc="none", color=colour)
            axes.plot([at + 0.1, at + 0.1], [row.low, row.high], color=colour)
            axes.plot(at + 0.1, row.mean, "s", ms=4, color=colour)
        _references(axes, scores[scores["task"] == task].rename(columns={"mean": "value"}))
        axes.set(title=task, xlim=(-0.6, len(looks) - 0.4))
        axes.set_xticks(range(len(looks)), looks, rotation=90)
    return _legend(figure)


def _grid(count: int, y: str, height: float | None = None) -> tuple[Figure, list[Axes]]:
    """Panels, the larger the fewer there are, `y` beside each line; `height` is in inches."""
    columns = min(count, 3 if count <= 9 else 5)
    width = min(4.8, max(2.3, 6.4 / columns))
    lines = math.ceil(count / columns)
    size = (width * columns, (height or 0.4 * width + 0.9) * lines)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[count:]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel(y)
    return figure, list(grid.flat[:count])


def _references(axes: Axes, rows: pd.DataFrame) -> None:
    """Published values as lines, with a grey band where an interval is known."""
    for method, dashes in zip(protocol.REFERENCES, REFERENCE_DASHES, strict=True):
        name = label(method, PUBLISHED)
        for row in rows[(rows["source"] == PUBLISHED) & (rows["method"] == method)].itertuples():
            axes.axhline(row.value, color="black", lw=0.8, ls=dashes, label=name)
            if not math.isnan(row.low):
                axes.axhspan(row.low, row.high, color="black", alpha=0.1, lw=0)


def _legend(figure: Figure) -> Figure:
    """One for all panels, below them in a figure made higher by as much."""
    labelled = (axes.get_legend_handles_labels() for axes in figure.axes)
    entries = {str(name): artist for pair in labelled for artist, name in zip(*pair, strict=True)}
    if entries:
        inches = 0.55 + 0.065 * max(len(name) for name in entries)
        columns = min(len(entries), max(1, int(figure.get_figwidth() / inches)))
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns)
        figure.set_figheight(figure.get_figheight() + 0.18 * math.ceil(len(entries) / columns))
    return figure


def _looks(methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and dashes of each method; the eighth has the first's colour, but other dashes."""
    looks = [{"color": colour, "ls": dashes} for dashes in DASHES for colour in COLOURS]
    return dict(zip(dict.fromkeys(methods), itertools.cycle(looks), strict=False))
