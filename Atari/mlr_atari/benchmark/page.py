"""README.md's table and figure of speed, made from `results/benchmark/`, never by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import ConfigError
from ..report import plots
from .table import RESULTS, read

Row = dict[str, Any]

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
HOW = "*Made from `results/benchmark/` by `python benchmark.py --readme`.*"
NO_GPU = "No GPU was at hand: the CUDA path (TF32, graphs) has **not been run yet**."
FIGURE = "scaling"

_SETTING = ("hardware", "preset", "agent", "precision", "mode")
_PRESETS = ("paper", "laptop", "smoke")
_GIB = 2**30


def refresh(folder: Path) -> None:
    """Write the block in README.md and the figure anew.

    Raises:
        ConfigError: README.md lacks the markers.
    """
    readme = folder / "README.md"
    text = updated(readme.read_text(encoding="utf-8"), folder / RESULTS)
    scaling = read(folder / RESULTS / "scaling.csv")
    if scaling:
        plots.save(figure(scaling), folder / RESULTS / FIGURE)
    readme.write_text(text, encoding="utf-8")


def updated(text: str, results: Path) -> str:
    """`text` with a fresh block.

    Raises:
        ConfigError: the markers are not there, once each and in order.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in tail or END in tail:
        raise ConfigError(f"README.md: needs one {BEGIN} and, below it, one {END}")
    return f"{head}{BEGIN}\n{block(results)}\n{END}{tail}"


def block(results: Path) -> str:
    """Markdown of everything that was measured last, of each setting."""
    rows = latest(read(results / "updates.csv"), _SETTING)
    parts = [HOW]
    if rows:
        parts += [_update_table(rows), _part_table(rows)]
    if not any(row["device"] == "cuda" for row in rows):
        parts.append(NO_GPU)
    together = latest(read(results / "processes.csv"), (*_SETTING, "processes"))
    if together:
        parts.append(_process_table(together))
    if (results / "scaling.csv").exists():
        link = (RESULTS / f"{FIGURE}.png").as_posix()
        parts.append(f"![cost of an update against its sizes]({link})")
    return "\n\n".join(parts)


def latest(rows: Iterable[Row], keys: Sequence[str]) -> list[Row]:
    """The last row of each combination of `keys`, published sizes first."""
    chosen = {tuple(row.get(key) for key in keys): row for row in rows}
    order = {name: place for place, name in enumerate(_PRESETS)}
    return sorted(chosen.values(), key=lambda row: order.get(row["preset"], len(order)))


def figure(rows: Sequence[Row]) -> Figure:
    """A panel for each size: seconds of an update, with quartiles; a line per setting."""
    sweeps = list(dict.fromkeys(row["sweep"] for row in rows))
    with plots.styled:
        drawn = Figure(figsize=(2.2 * len(sweeps), 2.2), layout="constrained")
        panels: Sequence[Axes] = drawn.subplots(1, len(sweeps), squeeze=False)[0]
        for axes, sweep in zip(panels, sweeps, strict=True):
            _panel(axes, [row for row in rows if row["sweep"] == sweep])
            axes.set_xlabel(sweep)
        panels[0].set_ylabel("seconds")
        handles, labels = panels[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=2)
    return drawn


def _panel(axes: Axes, rows: Sequence[Row]) -> None:
    groups: dict[str, dict[float, Row]] = {}
    for row in rows:
        groups.setdefault(_label(row), {})[row["value"]] = row
    for colour, (label, points) in zip(plots.COLOURS, sorted(groups.items()), strict=False):
        values = sorted(points)
        middle, low, high = (
            [points[value][name] for value in values]
            for name in ("seconds_per_update", "seconds_low", "seconds_high")
        )
        axes.plot(values, middle, marker=".", color=colour, label=label)
        axes.fill_between(values, low, high, color=colour, alpha=0.2, lw=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")


def _label(row: Row) -> str:
    return f"{row['hardware']}, {row['preset']}, {row['precision']}, {row['mode']}"


def _update_table(rows: Sequence[Row]) -> str:
    header = (
        "on",
        "preset",
        "agent",
        "how",
        "s/update (quartiles)",
        "updates/s",
        "× plain",
        "of the limit",
        "peak memory",
    )
    lines = [
        (
            row["hardware"],
            row["preset"],
            row["agent"],
            f"{row['precision']}, {row['mode']}",
            f"{row['seconds_per_update']:.3g} ({row['seconds_low']:.3g}–{row['seconds_high']:.3g})",
            f"{row['updates_per_second']:.3g}",
            f"{row['cpu_speedup']:.1f}" if "cpu_speedup" in row else "",
            f"{100 * row['share_of_limit']:.0f} %",
            f"{row['peak_memory'] / _GIB:.1f} GiB",
        )
        for row in rows
    ]
    note = (
        "*× plain*: CPU time of the plain fp32 update (`--reference`) over ours, both in turn in "
        "one process. *Of the limit*: time of a large matrix product's speed on the same "
        "operations, and of Adam's memory traffic, over the time taken."
    )
    return f"{_table(header, lines)}\n\n{note}"


def _part_table(rows: Sequence[Row]) -> str:
    names = sorted({name for row in rows for name in row if name.startswith("part ")})
    timed = [row for row in rows if any(name in row for name in names)]
    lines = []
    for row in timed:
        whole = sum(row.get(name, 0.0) for name in names)
        shares = (f"{100 * row.get(name, 0.0) / whole:.0f} %" for name in names)
        lines.append((f"{row['preset']}, {row['agent']}, {row['precision']}", *shares))
    titles = [name.removeprefix("part ") for name in names]
    return _table(("share of an update", *titles), lines)


def _process_table(rows: Sequence[Row]) -> str:
    header = ("on", "how", "runs at once", "updates/s, all", "slowest")
    lines = [
        (
            row["hardware"],
            f"{row['preset']}, {row['precision']}, {row['mode']}",
            f"{row['processes']:.0f}",
            f"{row['updates_per_second']:.3g}",
            f"{row['slowest_updates_per_second']:.3g}",
        )
        for row in rows
    ]
    return _table(header, lines)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
