"""The table of results in README.md, made from `results/` and never written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import markdown, protocol
from . import plots, rows, tables
from .runs import Run
from .study import Study, shipped

BLOCK = "results"
FIGURES = "results/figures"
HOW = "*Made from `results/` by `python report.py --readme`.*"


def block(runs: Sequence[Run]) -> str:
    """Markdown between the markers: aggregates and tasks for every setting that we have runs of."""
    parts = [HOW]
    for study in shipped(runs, protocol.PUBLISHED_BENCHMARKS[:1]):
        aggregates = rows.aggregate_rows(study, protocol.REFERENCES)
        tasks = rows.task_rows(study, protocol.REFERENCES)
        parts.append(f"**{study.title}**")
        if study.groups:
            parts.append(f"![Learning curves of {study.title}]({FIGURES}/{study.slug}.png)")
        for table in (
            tables.aggregate_table(aggregates) if aggregates else None,
            tables.task_table(tasks) if tasks else None,
        ):
            if table is not None:
                parts += [table.markdown(), table.caption]
        parts.append("\n".join(f"- {note}" for note in study.notes()))
    return "\n\n".join(part for part in parts if part)


def draw(runs: Sequence[Run], tree: Path) -> list[Path]:
    """Draw the learning curves that the block shows; returns the files."""
    return [_draw(study, tree / FIGURES) for study in _ours(runs)]


def _ours(runs: Sequence[Run]) -> list[Study]:
    studies = shipped(runs, protocol.PUBLISHED_BENCHMARKS[:1])
    return [study for study in studies if study.groups]


@plots.styled
def _draw(study: Study, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    figure = plots.learning_curves(rows.task_curves(study), [])
    path = folder / f"{study.slug}.png"
    figure.savefig(path, metadata={"Software": None})
    return path


def updated(text: str, runs: Sequence[Run]) -> str:
    """The README with a fresh block.

    Raises:
        ConfigError: the markers are not there, once each and in order.
    """
    return markdown.replaced(text, BLOCK, block(runs))


def is_stale(path: Path, runs: Sequence[Run]) -> bool:
    """Whether README.md shows something else than `results/` say."""
    text = path.read_text()
    return updated(text, runs) != text
