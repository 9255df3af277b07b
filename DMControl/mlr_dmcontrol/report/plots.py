"""Figures from the rows of `rows.py`: colour-blind-safe, vector fonts, no date inside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import protocol
from .rows import (
    CURVE_METRICS,
    OURS,
    PUBLISHED,
    AggregateRow,
    CurveRow,
    ImprovementRow,
    ProfileRow,
    ScoreRow,
    TaskRow,
)
from .tables import METRIC_NAMES, label

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
}
styled = matplotlib.rc_context(STYLE)
_PANELS = {1: (4.8, 2.8), 2: (3.2, 2.3)}  # inches, by how many stand side by side
_SMALL_PANEL = (2.3, 1.8)
_LEGEND_LINE = 0.18  # inches
STEP_LABEL = f"{protocol.STEP_NAME} (thousands)"


@styled
def save(figure: Figure, stem: Path, warning: str = "") -> None:
    """Write `<stem>.png` and `<stem>.pdf`; `warning` is printed on the figure itself."""
    if warning:
        figure.suptitle(warning, color="#B00000", weight="bold")
    # No dates or versions inside, so that only changed results change the files.
    figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})
    metadata = {"CreationDate": None, "Creator": None, "Producer": None}
    figure.savefig(stem.with_suffix(".pdf"), metadata=metadata)


@styled
def learning_curves(rows: Sequence[CurveRow], published: Sequence[TaskRow]) -> Figure:
    """A panel per task: mean over runs with its 95 % band, published means as lines."""
    tasks = list(dict.fromkeys(row.what for row in rows))
    figure, panels = _grid(len(tasks))
    for axes, task in zip(panels, tasks, strict=True):
        _curves(axes, [row for row in rows if row.what == task], _methods(rows))
        for row in (row for row in published if row.task == task):
            _reference(axes, row.method, row.mean, "published, mean only")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_title(task)
    _outer_labels(panels, STEP_LABEL, protocol.VALUE_NAME)
    _legend(figure, panels)
    return figure


@styled
def sample_efficiency(rows: Sequence[CurveRow], published: Sequence[AggregateRow]) -> Figure:
    """Aggregates of the normalised score against steps, published final values as lines."""
    figure, panels = _grid(len(CURVE_METRICS), width=3.2, height=2.5)
    for axes, metric in zip(panels, CURVE_METRICS, strict=True):
        _curves(axes, [row for row in rows if row.what == metric], _methods(rows))
        for row in (row for row in published if row.metric == metric):
            _reference(axes, row.method, row.value, "published")
            if not math.isnan(row.low):
                axes.axhspan(row.low, row.high, color="black", alpha=0.1, lw=0)
        axes.set_title(METRIC_NAMES[metric])
        axes.set_xlabel(STEP_LABEL)
        axes.set_ylabel(protocol.NORMALIZED_NAME)
    _legend(figure, panels)
    return figure


@styled
def interval_estimates(rows: Sequence[AggregateRow]) -> Figure:
    """A panel per metric, a line per method: ours as bars, published as diamonds."""
    names = list(dict.fromkeys((row.method, row.source) for row in rows))
    height = 0.8 + 0.22 * len(names)
    figure, panels = _grid(len(METRIC_NAMES), columns=4, width=2.2, height=height)
    methods = _methods(row for row in rows if row.source == OURS)
    for axes, metric in zip(panels, METRIC_NAMES, strict=True):
        axes.use_sticky_edges = False  # room beside the outermost bar
        for row in (row for row in rows if row.metric == metric):
            at = names.index((row.method, row.source))
            _estimate(axes, at, row, _colour(methods, row.method))
        axes.set_title(METRIC_NAMES[metric])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), [label(*name) for name in names])
        axes.tick_params(axis="y", length=0, labelleft=axes is panels[0])
        axes.set_xlabel(protocol.NORMALIZED_NAME)
    return figure


@styled
def performance_profiles(rows: Sequence[ProfileRow]) -> Figure:
    """Share of runs above each normalised score, with its 95 % band."""
    figure, (axes,) = _grid(1, width=4.2, height=2.8)
    methods = _methods(rows)
    for method in methods:
        own = [row for row in rows if row.method == method]
        x = [row.threshold for row in own]
        style = _style(methods, method)
        axes.step(x, [row.share for row in own], where="post", label=method, **style)
        low, high = [row.low for row in own], [row.high for row in own]
        axes.fill_between(x, low, high, step="post", color=style["color"], alpha=0.18, lw=0)
    axes.set_xlim(*protocol.PROFILE_RANGE)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"τ: {protocol.NORMALIZED_NAME}")
    axes.set_ylabel("share of runs with score > τ")
    _legend(figure, [axes])
    return figure


@styled
def probability_of_improvement(rows: Sequence[ImprovementRow]) -> Figure:
    """P(X > Y) for every pair, with its 95 % interval; 0.5 is no difference."""
    figure, (axes,) = _grid(1, width=4.2, height=0.8 + 0.25 * len(rows))
    for at, row in enumerate(rows):
        _bar(axes, at, row.probability, row.low, row.high, COLOURS[0])
    axes.axvline(0.5, color="black", lw=0.8, ls="--")
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [f"{row.method}  >  {row.other}" for row in rows])
    axes.set_xlabel("P(X > Y)")
    return figure


@styled
def final_scores(runs: Sequence[ScoreRow], rows: Sequence[TaskRow]) -> Figure:
    """A panel per task: every run a dot, the mean with its interval, published means as lines."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    ours = [row for row in rows if row.source == OURS]
    methods = _methods(ours)
    figure, panels = _grid(len(tasks))
    for axes, task in zip(panels, tasks, strict=True):
        for row in (row for row in ours if row.task == task):
            at, colour = methods.index(row.method), _colour(methods, row.method)
            dots = [r.score for r in runs if (r.task, r.method) == (task, row.method)]
            axes.plot([at - 0.2] * len(dots), dots, "o", ms=3, mfc="none", color=colour)
            edges = [[row.mean - row.low], [row.high - row.mean]]
            bar = None if math.isnan(row.low) else edges
            axes.errorbar(at + 0.1, row.mean, bar, fmt="s", ms=4, capsize=2, color=colour)
        for row in (row for row in rows if row.source == PUBLISHED and row.task == task):
            if row.method in protocol.REFERENCES:
                _reference(axes, row.method, row.mean, "published, mean only")
        axes.set_title(task)
        axes.set_xlim(-0.6, len(methods) - 0.4)
        axes.set_xticks(range(len(methods)), methods, rotation=30, ha="right")
    _outer_labels(panels, "", protocol.VALUE_NAME)
    _legend(figure, panels)
    return figure


def _grid(
    count: int, columns: int | None = None, width: float | None = None, height: float | None = None
) -> tuple[Figure, list[Axes]]:
    """Sizes in inches of a panel; without them the fewer panels, the larger they are."""
    columns = min(count, columns or (3 if count <= 9 else 5))
    free_width, free_height = _PANELS.get(columns, _SMALL_PANEL)
    width, height = width or free_width, height or free_height
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[count:]:
        axes.remove()
    return figure, list(grid.flat[:count])


def _curves(axes: Axes, rows: Sequence[CurveRow], methods: Sequence[str]) -> None:
    for method in methods:
        own = [row for row in rows if row.method == method]
        x = [row.step / 1000 for row in own]
        style = _style(methods, method)
        axes.plot(x, [row.value for row in own], label=method, **style)
        low, high = [row.low for row in own], [row.high for row in own]
        axes.fill_between(x, low, high, color=style["color"], alpha=0.18, lw=0)
    axes.set_xlim(left=0)


def _reference(axes: Axes, method: str, value: float, note: str) -> None:
    dashes = REFERENCE_DASHES[protocol.REFERENCES.index(method) % len(REFERENCE_DASHES)]
    axes.axhline(value, color="black", lw=0.8, ls=dashes, label=f"{method} ({note})")


def _estimate(axes: Axes, at: int, row: AggregateRow, colour: str) -> None:
    if row.source == OURS:
        _bar(axes, at, row.value, row.low, row.high, colour)
    else:
        if not math.isnan(row.low):
            axes.plot([row.low, row.high], [at, at], color="black", lw=1)
        axes.plot([row.value], [at], "D", ms=3.5, mfc="white", color="black")


def _bar(axes: Axes, at: float, value: float, low: float, high: float, colour: str) -> None:
    if not math.isnan(low):
        axes.barh(at, high - low, left=low, height=0.6, color=colour, alpha=0.5, lw=0)
    axes.plot([value, value], [at - 0.3, at + 0.3], color="black", lw=1.5)


def _legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """One for all panels, below them in a figure made higher by as much."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        artists, names = axes.get_legend_handles_labels()
        entries |= dict(zip(map(str, names), artists, strict=True))
    if entries:
        inches = 0.55 + 0.065 * max(len(name) for name in entries)
        columns = min(len(entries), max(1, int(figure.get_figwidth() / inches)))
        order = [name for first in range(columns) for name in list(entries)[first::columns]]
        handles = [entries[name] for name in order]
        figure.legend(handles, order, loc="outside lower center", ncols=columns)
        # Below the panels, not at their cost.
        lines = math.ceil(len(entries) / columns)
        figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * lines)


def _outer_labels(panels: Sequence[Axes], x: str, y: str) -> None:
    for axes in panels:
        place = axes.get_subplotspec()
        if place is not None and place.is_first_col():
            axes.set_ylabel(y)
        if x:
            axes.set_xlabel(x)


def _methods(rows: Iterable[CurveRow | AggregateRow | ProfileRow | TaskRow]) -> list[str]:
    return list(dict.fromkeys(row.method for row in rows))


def _colour(methods: Sequence[str], method: str) -> str:
    return COLOURS[methods.index(method) % len(COLOURS)] if method in methods else "black"


def _style(methods: Sequence[str], method: str) -> dict[str, Any]:
    # The eighth method has the colour of the first again, but other dashes.
    dashes = DASHES[methods.index(method) // len(COLOURS) % len(DASHES)]
    return {"color": _colour(methods, method), "ls": dashes}
