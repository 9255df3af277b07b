"""`report.py`: the command, and the folder of a report: figures, tables, their rows, one page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from .. import protocol
from ..errors import RunError
from . import plots, runs, tables
from .runs import RUN_COLUMNS
from .tables import Study

RESULTS = Path(__file__).parents[2] / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `report.py`; returns its exit code: 0, or 2 for wrong input, refused or incomplete."""
    arguments = _parser().parse_args(argv)
    try:
        return _status(arguments.runs) if arguments.status else _report(arguments)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _status(paths: Sequence[Path]) -> int:
    found = runs.load([path for path in paths or [Path("runs")] if path.is_dir()])
    lines, done = runs.status(found)
    print(lines)
    return 0 if done else 2


def _report(arguments: argparse.Namespace) -> int:
    if arguments.runs:
        found = runs.load(arguments.runs)
        print("".join(f"{note}\n" for note in found.notes), end="", file=sys.stderr)
        if not len(found.runs):
            print("error: no run folder (with a run.json) to read there", file=sys.stderr)
            return 2
        reasons, twice = runs.check(found.runs), runs.duplicates(found.runs)
        if twice or (reasons and not arguments.allow_mixed):
            print("refused: these runs are not a fair comparison", file=sys.stderr)
            print("\n".join(f"  - {reason}" for reason in reasons), file=sys.stderr)
            if not twice:
                print("--allow-mixed draws them, labelled as mixed", file=sys.stderr)
            return 2
        studies = [tables.build(found, mixed=bool(reasons))]
    else:
        studies = tables.shipped(runs.results(RESULTS))
    print(f"report: {write(studies, arguments.out.expanduser(), arguments.published.split(','))}")
    return 0


def write(studies: Sequence[Study], out: Path, shown: Sequence[str]) -> Path:
    """Write everything below `out`; returns the page.

    Args:
        shown: published methods that stand beside ours.
    """
    sections = [_section(study, out / study.slug, shown) for study in studies]
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    pages = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = out / "index.html"
    text = pages.get_template("page.html").render(
        sections=sections, protocol=protocol, intervals=tables.INTERVALS
    )
    page.write_text(text, encoding="utf-8")
    return page


def _section(study: Study, folder: Path, shown: Sequence[str]) -> dict[str, Any]:
    """Write the files of one study; returns what `page.html` shows of it."""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{study.title}: {len(study.methods)} methods, {len(study.tasks)} tasks", file=sys.stderr)
    aggregates, scores = tables.aggregates(study, shown), tables.task_scores(study, shown)
    pairs, curves = tables.comparisons(study), tables.task_curves(study)
    section: dict[str, Any] = {"study": study, "verdict": tables.verdict(study, pairs)}
    section |= {"tables": {}, "figures": [], "uneven": _uneven(curves)}
    for stem, rows, (table, caption) in (
        ("aggregates", aggregates, tables.aggregate_table(study, aggregates)),
        ("tasks", scores, tables.task_table(scores)),
    ):
        if len(rows):
            _write_table(folder, stem, study.title, table, caption)
            _write_rows(folder / f"{stem}.csv", rows)
            section["tables"][stem] = table, caption
    drawn = aggregates[~aggregates["method"].isin(protocol.TABLE_ONLY)]
    final = study.runs[list(RUN_COLUMNS)].assign(
        values=[" ".join(map(repr, values)) for values in study.runs["values"]]
    )
    figures: tuple[tuple[str, pd.DataFrame, Callable[..., Figure], tuple[Any, ...]], ...] = (
        ("interval_estimates", drawn, plots.interval_estimates, ()),
        ("learning_curves", curves, plots.learning_curves, (scores,)),
        ("sample_efficiency", tables.aggregate_curves(study), plots.sample_efficiency, (drawn,)),
        ("final_scores", final, plots.final_scores, (scores,)),
        ("performance_profiles", tables.profiles(study), plots.performance_profiles, ()),
        ("comparisons", pairs, plots.comparisons, ()),
    )
    for stem, rows, draw, others in figures:
        if len(rows):
            print(f"  {stem.replace('_', ' ')}", file=sys.stderr)
            plots.save(draw(rows, *others), folder / stem, study.title if study.reasons else "")
            _write_rows(folder / f"{stem}.csv", rows)
            section["figures"].append(stem)
    return section


def _write_table(folder: Path, stem: str, title: str, table: pd.DataFrame, caption: str) -> None:
    caption = f"{title}. {caption} {tables.INTERVALS}"
    markdown = f"{tables.markdown(table)}\n\n{caption}\n"
    latex = table.to_latex(
        index=False,
        escape=True,
        column_format="l" + "r" * (len(table.columns) - 1),
        caption=caption.translate({ord(sign): f"\\{sign}" for sign in "%_&#${}"}),
        label=f"tab:{stem}",
    )
    (folder / f"{stem}.md").write_text(markdown, encoding="utf-8")
    (folder / f"{stem}.tex").write_text(latex, encoding="utf-8")


def _uneven(curves: pd.DataFrame) -> list[str]:
    """Where runs were evaluated at different steps, so that only the shared ones are drawn."""
    return [
        f"{what}, {method}: {len(own)} of {own['of'].iloc[0]} evaluations"
        for (what, method), own in (curves.groupby(["what", "method"]) if len(curves) else ())
        if len(own) < own["of"].iloc[0]
    ]


def _write_rows(path: Path, rows: pd.DataFrame) -> None:
    rows.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="report.py",
        description="Figures, tables and one HTML page from runs; without RUNS from results/.",
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help="run folders, or above")
    parser.add_argument("--out", type=Path, default=Path("report_out"), help="folder to write to")
    parser.add_argument(
        "--allow-mixed",
        action="store_true",
        help="draw runs that differ in protocol, preset, budget or settings; figures say so",
    )
    parser.add_argument(
        "--published",
        default=",".join(protocol.PUBLISHED),
        metavar="NAMES",
        help="published methods to show (default: %(default)s)",
    )
    parser.add_argument(
        "--status", action="store_true", help="how far the runs are; exit code 0 if all are done"
    )
    return parser
