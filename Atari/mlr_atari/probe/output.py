"""The probe's files: rows of earlier commands are kept, equal ones replaced; table and figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import markdown
from ..errors import ConfigError
from ..report import plots, statistics
from ..report.statistics import Interval
from ..run.folder import write_atomically
from .alone import SIGNS
from .world import BASELINE

Row = dict[str, Any]

PLACE = ("subject", "preset")  # encoders that are compared: the same task or game, and sizes
NUMBERS = ("r2", "untrained", "pca", *SIGNS)
ALONE = " alone"  # behind the name of a method that was trained without RL
_RUN = (*PLACE, "method", "seed")


@dataclass(frozen=True)
class Summary:
    """A method at a place, over its seeds; each number is a mean over the variables."""

    place: str
    method: str
    seeds: int
    r2: Interval
    over_untrained: Interval
    over_pixels: Interval
    over_baseline: Interval | None


def merge(path: Path, rows: Sequence[Row]) -> list[Row]:
    """Add `rows` to the file in place of those of the same runs; everything that is then in it.

    Raises:
        ConfigError: the file holds scores on other episodes.
    """
    new = {_identity(row) for row in rows}
    whole = [row for row in read(path) if _identity(row) not in new] + list(rows)
    data: dict[str, set[str]] = {}
    for row in whole:
        if "data" in row:
            data.setdefault(_place(row), set()).add(row["data"])
    mixed = [place for place, keys in data.items() if len(keys) > 1]
    if mixed:
        raise ConfigError(
            f"{path}: holds scores of {mixed[0]} on other episodes; choose another --out"
        )
    whole.sort(key=lambda row: (*map(str, _identity(row)), row.get("update", 0)))
    names = list(dict.fromkeys(name for row in whole for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_shown(row[name]) for name in names] for row in whole)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue())
    return whole


def read(path: Path) -> list[Row]:
    """The rows of a file; none without one."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: _value(name, text) for name, text in row.items()} for row in csv.DictReader(file)
        ]


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """Every method at every place, with 95 % bootstrap intervals over seeds.

    Differences are taken within a seed, whose encoders start from the same weights.
    """
    found = []
    for place, own in _grouped(rows, _place).items():
        methods = {
            method: _by_seed(each) for method, each in _grouped(own, lambda r: r["method"]).items()
        }
        baseline = methods.get(BASELINE, {})
        for method, seeds in methods.items():
            paired = [seed for seed in seeds if seed in baseline and method != BASELINE]
            r2 = {seed: means["r2"] for seed, means in seeds.items()}
            found.append(
                Summary(
                    place,
                    method,
                    len(seeds),
                    _interval(r2.values()),
                    _interval(means["r2"] - means["untrained"] for means in seeds.values()),
                    _interval(means["r2"] - means["pca"] for means in seeds.values()),
                    _interval(r2[seed] - baseline[seed]["r2"] for seed in paired)
                    if paired
                    else None,
                )
            )
    return found


def table(found: Iterable[Summary]) -> str:
    """Markdown."""
    header = ("", "method", "seeds", "R²", "− untrained", "− pixels' PCA", f"− {BASELINE}")
    lines = []
    for each in found:
        gains = (each.over_untrained, each.over_pixels, each.over_baseline)
        shown = (_text(each.r2), *("" if gain is None else _text(gain, "+") for gain in gains))
        lines.append((each.place, each.method, str(each.seeds), *shown))
    return markdown.table(header, lines)


@plots.styled
def figure(rows: Sequence[Row]) -> Figure:
    """For each place: mean R² with intervals and seeds, and beside it R² of each variable."""
    places, found = _grouped(rows, _place), summaries(rows)
    heights = [1.2 + 0.22 * sum(each.place == place for each in found) for place in places]
    drawn = Figure(figsize=(8.0, sum(heights) + 0.6 * len(heights)), layout="constrained")
    grid = drawn.subplots(len(places), 2, squeeze=False, height_ratios=heights, width_ratios=(2, 3))
    for (left, right), (place, own) in zip(grid, places.items(), strict=True):
        _means(left, [each for each in found if each.place == place], own)
        left.set_title(place)
        _variables(right, own)
    return drawn


@plots.styled
def collapse_figure(rows: Sequence[Row]) -> Figure:
    """Signs of a collapse along training, a row of panels for each place; dashed without RL."""
    places = _grouped(rows, _place)
    names = sorted({row["method"].removesuffix(ALONE) for row in rows})
    size = (2.7 * len(SIGNS), 2.2 * len(places) + 0.4)
    drawn = Figure(figsize=size, layout="constrained")
    grid = drawn.subplots(len(places), len(SIGNS), squeeze=False)
    for panels, (place, own) in zip(grid, places.items(), strict=True):
        for axes, sign in zip(panels, SIGNS, strict=True):
            _signs(axes, own, sign, names)
            axes.set_title(f"{place}: {sign.replace('_', ' ')}")
            axes.set_xlabel("update")
    handles: dict[str, Any] = {}
    for axes in grid.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    drawn.legend(handles.values(), handles, loc="outside lower center", ncols=4)
    return drawn


def _means(axes: Axes, found: Sequence[Summary], rows: Sequence[Row]) -> None:
    methods = [each.method for each in found]
    seeds = [_by_seed([row for row in rows if row["method"] == each]) for each in methods]
    for at, (each, own) in enumerate(zip(found, seeds, strict=True)):
        colour = plots.COLOURS[at % len(plots.COLOURS)]
        axes.plot([each.r2.low, each.r2.high], [at, at], color=colour, lw=5, alpha=0.4)
        axes.plot([means["r2"] for means in own.values()], [at] * len(own), "o", ms=3, color=colour)
    for style, name in ((":", "untrained"), ("--", "pca")):
        values = [means[name] for own in seeds for means in own.values()]
        axes.axvline(float(np.mean(values)), color="black", ls=style, lw=1, label=name)
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xlabel("R² on held-out episodes, mean of the variables")
    axes.legend(fontsize=6)


def _variables(axes: Axes, rows: Sequence[Row]) -> None:
    methods = list(_grouped(rows, lambda row: row["method"]))
    variables = list(_grouped(rows, lambda row: row["variable"]))
    lines = [*methods, "untrained", "pca"]
    cells = np.full((len(lines), len(variables)), np.nan)
    for i, line in enumerate(lines):
        own = [row for row in rows if line not in methods or row["method"] == line]
        for j, variable in enumerate(variables):
            column = line if line not in methods else "r2"
            cells[i, j] = np.mean([row[column] for row in own if row["variable"] == variable])
    image = axes.imshow(cells, vmin=0, vmax=1, aspect="auto", cmap="viridis")
    axes.grid(False)
    axes.set_yticks(range(len(lines)), lines)
    axes.set_xticks(range(len(variables)), variables, rotation=90, fontsize=6)
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, label="R²")


def _signs(axes: Axes, rows: Sequence[Row], sign: str, names: Sequence[str]) -> None:
    for (method, _), own in _grouped(rows, lambda row: (row["method"], row["seed"])).items():
        name = method.removesuffix(ALONE)
        axes.plot(
            [row["update"] for row in own],
            [row[sign] for row in own],
            ls="--" if method.endswith(ALONE) else "-",
            color=plots.COLOURS[names.index(name) % len(plots.COLOURS)],
            lw=0.9,
            label=method,
        )
    if sign == "loss":
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _by_seed(rows: Sequence[Row]) -> dict[int, dict[str, float]]:
    """Mean over the variables that change, of each number, by seed."""
    return {
        seed: {
            key: float(np.nanmean([row[key] for row in own])) for key in ("r2", "untrained", "pca")
        }
        for seed, own in _grouped(rows, lambda row: row["seed"]).items()
    }


def _interval(values: Iterable[float]) -> Interval:
    return statistics.interval(statistics.mean, {"": list(values)}, np.random.default_rng(0))


def _grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _place(row: Row) -> str:
    return ", ".join(row[name] for name in PLACE)


def _identity(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in _RUN)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _value(name: str, text: str) -> Any:
    if name in NUMBERS:
        return float(text)
    return int(text) if name in ("seed", "update", "updates", "dimensions") else text


def _text(found: Interval, sign: str = "") -> str:
    value = f"{found.value:{sign}.3f}"
    return (
        value if np.isnan(found.low) else f"{value} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"
    )
