"""Tables in CSV, Markdown, LaTeX and HTML, from the rows of `rows.py`."""

from __future__ import annotations

import csv
import dataclasses
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from .. import markdown, protocol
from .rows import (
    OURS,
    AggregateRow,
    CurveRow,
    ImprovementRow,
    ProfileRow,
    ScoreRow,
    TaskRow,
)  # fmt: skip

Row: TypeAlias = AggregateRow | CurveRow | ImprovementRow | ProfileRow | ScoreRow | TaskRow

METRIC_NAMES = {
    "iqm": "IQM",
    "median": "Median",
    "mean": "Mean",
    "optimality_gap": "Optimality gap",
}
_LATEX = {
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "±": r"$\pm$", "–": "--", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Text cells under a header; the first column is left-aligned, the others right-aligned."""

    name: str
    caption: str
    header: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """A Markdown table, without its caption."""
        return markdown.table(self.header, self.cells, numbers=True)

    def latex(self) -> str:
        """A LaTeX table; needs the package booktabs."""
        columns = "l" + "r" * (len(self.header) - 1)
        lines = [" & ".join(_escape(cell) for cell in row) + r" \\" for row in self.cells]
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{_escape(self.caption)}}}",
                rf"\label{{tab:{self.name}}}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                " & ".join(_escape(cell) for cell in self.header) + r" \\",
                r"\midrule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )

    def html(self) -> str:
        """An HTML table with its caption."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.header)
        rows = (
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.cells
        )
        caption = html.escape(self.caption)
        body = "\n".join(rows)
        return (
            f"<table><caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n"
            f"<tbody>\n{body}\n</tbody></table>\n"
        )


def aggregate_table(rows: Sequence[AggregateRow]) -> Table:
    """One line per method, one column per metric: value [95 % interval]."""
    cells = []
    for key in dict.fromkeys((row.method, row.source) for row in rows):
        own = {row.metric: row for row in rows if (row.method, row.source) == key}
        first = next(iter(own.values()))
        metrics = [_aggregate_cell(own[m]) if m in own else "–" for m in METRIC_NAMES]
        runs = next((row.runs_per_task for row in own.values() if row.runs_per_task), "–")
        cells.append((label(*key), *metrics, str(first.tasks), runs))
    header = ("method", *METRIC_NAMES.values(), f"{protocol.TASK_KEY}s", "seeds")
    caption = (
        f"{protocol.NAME}: aggregates of the final {protocol.NORMALIZED_NAME} with 95 %"
        " stratified bootstrap intervals over runs. Published values without brackets: no interval"
        " is known."
    )
    return Table("aggregates", caption, header, tuple(cells))


def task_table(rows: Sequence[TaskRow]) -> Table:
    """One line per task, one column per method: raw final score."""
    columns = list(dict.fromkeys((row.method, row.source) for row in rows))
    tasks = list(dict.fromkeys(row.task for row in rows))
    cell = {(row.task, row.method, row.source): row for row in rows}
    seeds = {key: {row.runs for row in rows if (row.method, row.source) == key} for key in columns}
    header = [protocol.TASK_KEY]
    for key in columns:
        same = key[1] == OURS and len(seeds[key]) == 1
        header.append(label(*key) + (f", n = {next(iter(seeds[key]))}" if same else ""))
    cells = [
        (task, *(_task_cell(cell.get((task, *key)), len(seeds[key]) > 1) for key in columns))
        for task in tasks
    ]
    caption = (
        f"{protocol.NAME}: {protocol.VALUE_NAME} of the final policy, mean over n seeds [95 %"
        " bootstrap interval]. Published: mean, ± standard deviation where known; no interval."
    )
    return Table("tasks", caption, tuple(header), tuple(cells))


def label(method: str, source: str) -> str:
    """How a method is called in tables and figures."""
    return method if source == OURS else f"{method} (published)"


def number(value: float, digits: int) -> str:
    """A rounded number; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Rows with a header of their fields; NaN becomes an empty cell."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if rows:
            writer.writerow(field.name for field in dataclasses.fields(rows[0]))
        writer.writerows([_csv_cell(value) for value in vars(row).values()] for row in rows)


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def _aggregate_cell(row: AggregateRow) -> str:
    value = number(row.value, 3)
    return value if math.isnan(row.low) else f"{value} [{row.low:.3f}, {row.high:.3f}]"


def _task_cell(row: TaskRow | None, counted: bool) -> str:
    if row is None:
        return "–"
    value = number(row.mean, 1)
    if not math.isnan(row.low):
        value += f" [{row.low:.1f}, {row.high:.1f}]"
    elif row.source != OURS and not math.isnan(row.std):
        value += f" ± {row.std:.1f}"
    return f"{value}, n = {row.runs}" if counted else value


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
