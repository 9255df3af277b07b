"""The folder of a report: figures, tables and the rows behind them, the page and `repro.md`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from matplotlib.figure import Figure

from .. import protocol
from . import plots, repro, rows, tables
from .page import Picture, Section, render
from .study import Study
from .tables import write_csv

Published = TypeVar("Published", rows.AggregateRow, rows.TaskRow)
BAND = "Bands: 95 % bootstrap intervals over runs"


def write(studies: Sequence[Study], out: Path, shown: Sequence[str]) -> Path:
    """Write everything below `out`; returns the page.

    Args:
        shown: published methods that stand beside ours.
    """
    sections = [_Writer(study, out, shown).write() for study in studies]
    (out / "repro.md").write_text(repro.markdown(studies))
    page = out / "index.html"
    page.write_text(render(sections))
    return page


class _Writer:
    """Writes one study and collects what the page shows of it."""

    def __init__(self, study: Study, out: Path, shown: Sequence[str]) -> None:
        self.study = study
        self.shown = shown
        self.folder = out / study.slug
        self.folder.mkdir(parents=True, exist_ok=True)
        notes = study.notes() + rows.uneven_curves(study)
        self.section = Section(study.title, study.slug, bool(study.reasons), notes)

    def write(self) -> Section:
        """Tables first, then figures; those that need runs only where there are some."""
        aggregates = rows.aggregate_rows(self.study, self.shown)
        tasks = rows.task_rows(self.study, self.shown)
        if aggregates:
            self._table(tables.aggregate_table(aggregates), aggregates)
        if tasks:
            self._table(tables.task_table(tasks), tasks)
        drawn = [row for row in aggregates if row.method not in protocol.TABLE_ONLY]
        if drawn:
            self._figure(
                "interval_estimates",
                "Aggregate scores",
                "Ours: bars are 95 % intervals, black lines the estimates. Published: diamonds,"
                " with a line where an interval is known.",
                plots.interval_estimates(drawn),
                drawn,
            )
        if self.study.groups:
            self._curves(aggregates, tasks)
            self._comparisons(tasks)
        return self.section

    def _curves(
        self, aggregates: Sequence[rows.AggregateRow], tasks: Sequence[rows.TaskRow]
    ) -> None:
        by_task = rows.task_curves(self.study)
        if by_task:
            self._figure(
                "learning_curves",
                "Learning curves",
                f"Mean over runs of the evaluations in training, unsmoothed. {BAND}.",
                plots.learning_curves(by_task, _references(tasks)),
                by_task,
            )
        aggregate = rows.aggregate_curves(self.study)
        if aggregate:
            self._figure(
                "sample_efficiency",
                "Sample efficiency",
                f"Aggregates over {len(self.study.common)} {protocol.TASK_KEY}s. {BAND}. Published"
                " final values: a grey band where an interval is known, else the mean only.",
                plots.sample_efficiency(aggregate, _references(aggregates)),
                aggregate,
            )

    def _comparisons(self, tasks: Sequence[rows.TaskRow]) -> None:
        runs = rows.score_rows(self.study)
        self._figure(
            "final_scores",
            "Every run",
            "Circles: final score of each run. Squares: mean over runs with its 95 % interval.",
            plots.final_scores(runs, tasks),
            runs,
        )
        profiles = rows.profile_rows(self.study)
        if profiles:
            self._figure(
                "performance_profiles",
                "Performance profiles",
                f"Share of runs above each normalised score; higher is better. {BAND}.",
                plots.performance_profiles(profiles),
                profiles,
            )
        pairs = rows.improvement_rows(self.study)
        if pairs:
            self._figure(
                "probability_of_improvement",
                "Probability of improvement",
                f"P(a run of X scores above a run of Y on the same {protocol.TASK_KEY}), ties"
                " half, averaged. Bars: 95 % intervals.",
                plots.probability_of_improvement(pairs),
                pairs,
            )

    def _table(self, table: tables.Table, source: Sequence[tables.Row]) -> None:
        stem = self.folder / table.name
        if self.study.reasons:
            table = dataclasses.replace(table, caption=f"{self.study.title}. {table.caption}")
        stem.with_suffix(".md").write_text(f"{table.markdown()}\n\n{table.caption}\n")
        stem.with_suffix(".tex").write_text(table.latex())
        write_csv(stem.with_suffix(".csv"), source)
        self.section.tables.append(table)

    def _figure(
        self, stem: str, heading: str, caption: str, figure: Figure, source: Sequence[tables.Row]
    ) -> None:
        warning = self.study.title if self.study.reasons else ""
        plots.save(figure, self.folder / stem, warning)
        write_csv(self.folder / f"{stem}.csv", source)
        self.section.pictures.append(Picture(stem, heading, caption))


def _references(found: Sequence[Published]) -> list[Published]:
    """The published rows that are drawn as lines."""
    return [
        row for row in found if row.source == rows.PUBLISHED and row.method in protocol.REFERENCES
    ]
