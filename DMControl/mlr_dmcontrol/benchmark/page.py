"""README.md's table and figure of speed, made from `results/benchmark/`, never by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import markdown
from ..report import plots
from .printed import PART, duration, size
from .table import RESULTS, read

Row = dict[str, Any]

BLOCK = "benchmark"
HOW = "*Made from `results/benchmark/` by `python benchmark.py --readme`.*"
NO_GPU = "No GPU was at hand: the CUDA path (TF32, graphs) has **not been run yet**, only written."
FIGURE = "scaling"
_UPDATE_NOTE = (
    "*Quartiles*: of the timed updates, counted in blocks that hold one of each kind. *× plain*: "
    "time of the plain fp32 update (`--reference`), on the same machine, over ours. *Of the "
    "limit*: the time in which a large matrix product's speed allows for the same operations, and "
    "a copy's for Adam's memory traffic, over the time taken."
)
_FULL = "with all parts"
_FULL_NOTE = "*With all parts*: times plain, for those updates that leave no part out (the actor)."
_SCALING_NOTE = (
    "Sizes with the time of an update, one size at a time, all others those of the preset; for the "
    "replay's length, time to draw a batch and read its images, which must not grow."
)

_SETTING = ("hardware", "preset", "agent", "precision", "mode")
_PRESETS = ("paper", "laptop", "smoke")


def refresh(folder: Path) -> None:
    """Write the block in README.md and the figure anew.

    Raises:
        ConfigError: README.md lacks the markers.
    """
    readme = folder / "README.md"
    new = block(folder / RESULTS)
    text = markdown.replaced(readme.read_text(encoding="utf-8"), BLOCK, new)
    scaling = _sweeps(folder / RESULTS)
    if scaling:
        plots.save(figure(scaling), folder / RESULTS / FIGURE)
    readme.write_text(text, encoding="utf-8")


def block(results: Path) -> str:
    """Markdown of everything that was measured last, of each setting."""
    rows = latest(read(results / "updates.csv"), _SETTING)
    parts = [HOW]
    if rows:
        plain = {
            _work(row): row["reference_seconds_per_update"]
            for row in rows
            if "reference_seconds_per_update" in row
        }
        parts.append(_update_table(rows, plain))
    timed = [row for row in rows if any(name.startswith(PART) for name in row)]
    if timed:
        parts.append(_part_table(timed))
    if not any(row["device"] == "cuda" for row in rows):
        parts.append(NO_GPU)
    together = latest(read(results / "processes.csv"), (*_SETTING, "processes"))
    if together:
        parts.append(_process_table(together))
    sweeps = _sweeps(results)
    if sweeps:
        link = (RESULTS / f"{FIGURE}.png").as_posix()
        parts += [_scaling_table(sweeps), f"![Cost of an update against its sizes]({link})"]
    return "\n\n".join(parts)


def latest(rows: Iterable[Row], keys: Sequence[str]) -> list[Row]:
    """The last row of each combination of `keys`, published sizes first."""
    chosen = {tuple(row.get(key) for key in keys): row for row in rows}
    order = {name: place for place, name in enumerate(_PRESETS)}
    return sorted(chosen.values(), key=lambda row: order.get(row["preset"], len(order)))


@plots.styled
def figure(rows: Sequence[Row]) -> Figure:
    """A panel for each size: time of an update, with quartiles; a line per setting."""
    sweeps = list(dict.fromkeys(row["sweep"] for row in rows))
    drawn = Figure(figsize=(2.2 * len(sweeps), 2.2), layout="constrained")
    panels: Sequence[Axes] = drawn.subplots(1, len(sweeps), squeeze=False)[0]
    for axes, sweep in zip(panels, sweeps, strict=True):
        _panel(axes, [row for row in rows if row["sweep"] == sweep])
        axes.set_xlabel(sweep)
    panels[0].set_ylabel("milliseconds")
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=2)
    return drawn


def _panel(axes: Axes, rows: Sequence[Row]) -> None:
    for colour, (label, points) in zip(plots.COLOURS, _grouped(rows, _label).items(), strict=False):
        points = sorted(points, key=lambda row: row["value"])
        values = [row["value"] for row in points]
        middle, low, high = (
            [1000 * row[name] for row in points]
            for name in ("seconds_per_update", "seconds_low", "seconds_high")
        )
        axes.plot(values, middle, marker=".", color=colour, label=label)
        axes.fill_between(values, low, high, color=colour, alpha=0.2, lw=0)
    ticks = sorted({row["value"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" if tick % 1000 else f"{tick / 1000:g}k" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)


def _sweeps(results: Path) -> list[Row]:
    return latest(read(results / "scaling.csv"), (*_SETTING, "sweep", "value"))


def _grouped(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _label(row: Row) -> str:
    return f"{row['hardware']}, {row['preset']}, {row['precision']}, {row['mode']}"


def _update_table(rows: Sequence[Row], plain: Mapping[str, float]) -> str:
    header = (
        "on",
        "preset",
        "agent",
        "how",
        "time of an update (quartiles)",
        "CPU time",
        "× plain",
        _FULL,
        "of the limit",
        "peak memory",
        "whole steps/s",
    )
    lines = []
    for row in rows:
        low, high = duration(row["seconds_low"]), duration(row["seconds_high"])
        ratio = row.get("speedup")
        if ratio is None and _work(row) in plain:
            ratio = plain[_work(row)] / row["seconds_per_update"]
        cells = (
            row["hardware"],
            row["preset"],
            row["agent"],
            f"{row['precision']}, {row['mode']}",
            f"{duration(row['seconds_per_update'])} ({low} to {high})",
            duration(row["cpu_seconds_per_update"]),
            "" if ratio is None else f"{ratio:.1f}",
            f"{row['full_update_speedup']:.1f}" if "full_update_speedup" in row else "",
            f"{100 * row['share_of_limit']:.0f} %",
            size(row["peak_memory"]),
            f"{row['steps_per_second']:.3g}" if "steps_per_second" in row else "",
        )
        lines.append(cells)
    said = [column for column in zip(header, *lines, strict=True) if any(column[1:])]
    header, *lines = zip(*said, strict=True)
    note = f"{_UPDATE_NOTE} {_FULL_NOTE}" if _FULL in header else _UPDATE_NOTE
    return f"{markdown.table(header, lines)}\n\n{note}"


def _work(row: Row) -> str:
    """What two rows have in common that compute the same on the same machine."""
    return ", ".join((row["hardware"], row["preset"], row["agent"]))


def _part_table(rows: Sequence[Row]) -> str:
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(PART))
    # Costliest first, in the first row, which has the published sizes if any has.
    order = sorted(names, key=lambda name: -rows[0].get(name, 0.0))
    lines = []
    for row in rows:
        whole = sum(row.get(name, 0.0) for name in order)
        shares = (f"{100 * row.get(name, 0.0) / whole:.0f} %" for name in order)
        lines.append((f"{row['preset']}, {row['agent']}, {row['precision']}", *shares))
    titles = [name.removeprefix(PART) for name in order]
    return markdown.table(("share of an update", *titles), lines)


def _scaling_table(rows: Sequence[Row]) -> str:
    lines = []
    for label, group in _grouped(rows, _label).items():
        for sweep, points in _grouped(group, lambda row: row["sweep"]).items():
            points = sorted(points, key=lambda row: row["value"])
            cells = (f"{row['value']:g}: {duration(row['seconds_per_update'])}" for row in points)
            lines.append((label, sweep, ", ".join(cells)))
    return f"{markdown.table(('on', 'against', 'time'), lines)}\n\n{_SCALING_NOTE}"


def _process_table(rows: Sequence[Row]) -> str:
    header = ("on", "how", "runs at once", "updates/s, all", "slowest", "peak memory, all")
    lines = [
        (
            row["hardware"],
            f"{row['preset']}, {row['precision']}, {row['mode']}",
            f"{row['processes']:.0f}",
            f"{row['updates_per_second']:.3g}",
            f"{row['slowest_updates_per_second']:.3g}",
            size(row["peak_memory"]),
        )
        for row in rows
    ]
    return markdown.table(header, lines)
