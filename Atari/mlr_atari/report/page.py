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
from ..run import plan
from ..run.process import script, typed_path
from . import plots, runs, tables, verdict
from .runs import RUN_COLUMNS
from .tables import Study

RESULTS = Path(__file__).parents[2] / "results"


@script
def main(argv: Sequence[str] | None = None) -> int:
    """Run `report.py`; returns its exit code: 0, or 2 for wrong input, refused or incomplete."""
    arguments = _parser().parse_args(argv)
    paths = arguments.runs
    if arguments.status:
        found = runs.load([path for path in paths or [Path("runs")] if path.is_dir()])
        text, done = runs.status(found)
    elif arguments.plan:
        planned = plan.read(arguments.plan, protocol.TASK_KEY, protocol.canonical_task)
        found = runs.load(paths) if paths else runs.results(RESULTS)
        print("".join(f"{note}\n" for note in found.notes), end="", file=sys.stderr)
        text, done = verdict.judge(planned, found)
    else:
        return _report(arguments)
    print(text)
    return 0 if done else 2


def _report(arguments: argparse.Namespace) -> int:
    if not arguments.runs:
        studies = tables.shipped(runs.results(RESULTS))
    else:
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
    print(f"report: {write(studies, arguments.out, arguments.published.split(','))}")
    return 0


def write(studies: Sequence[Study], out: Path, shown: Sequence[str]) -> Path:
    """Write everything below `out`; returns the page.

    Args:
        shown: published methods that stand beside ours.
    """
    sections = [_section(study, out / study.slug, shown) for study in studies]
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    pages = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = pages.get_template("page.html").render(
        sections=sections, protocol=protocol, intervals=tables.INTERVALS
    )
    page = out / "index.html"
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
    seeds = tables.seeds_needed(study)
    for stem, rows, (table, caption) in (
        ("aggregates", aggregates, tables.aggregate_table(study, aggregates)),
        ("tasks", scores, tables.task_table(scores)),
        ("seeds_needed", seeds, tables.seeds_table(seeds)),
    ):
        if len(rows):
            _write_table(folder / stem, table, f"{study.title}. {caption} {tables.INTERVALS}")
            _write_rows(folder, stem, rows)
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
            _write_rows(folder, stem, rows)
            section["figures"].append(stem)
    return section


def _write_table(stem: Path, table: pd.DataFrame, caption: str) -> None:
    latex = table.to_latex(
        index=False,
        escape=True,
        column_format="l" + "r" * (len(table.columns) - 1),
        caption=caption.translate({ord(sign): f"\\{sign}" for sign in "%_&#${}"}),
        label=f"tab:{stem.name}",
    )
    markdown = f"{tables.markdown(table)}\n\n{caption}\n"
    stem.with_suffix(".md").write_text(markdown, encoding="utf-8")
    stem.with_suffix(".tex").write_text(latex, encoding="utf-8")


def _write_rows(folder: Path, stem: str, rows: pd.DataFrame) -> None:
    path = folder / f"{stem}.csv"
    rows.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def _uneven(curves: pd.DataFrame) -> list[str]:
    """Where runs were evaluated at different steps, so that only the shared ones are drawn."""
    return [
        f"{what}, {method}: {len(own)} of {own['of'].iloc[0]} evaluations"
        for (what, method), own in (curves.groupby(["what", "method"]) if len(curves) else ())
        if len(own) < own["of"].iloc[0]
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="report.py",
        description="Figures, tables and one HTML page from runs; without RUNS from results/.",
    )
    add = parser.add_argument
    add("runs", nargs="*", type=typed_path, metavar="RUNS", help="run folders, or above")
    add("--out", type=typed_path, default=Path("report_out"), help="folder to write to")
    add("--allow-mixed", action="store_true", help="draw runs that differ in settings; says so")
    add("--published", default=",".join(protocol.PUBLISHED), metavar="NAMES",
        help="published methods to show (default: %(default)s)")  # fmt: skip
    add("--plan", type=typed_path, metavar="YAML",
        help="print the verdict of results/plans/<name>.yaml; exit code 0 if its runs are all there"
    )  # fmt: skip
    add("--status", action="store_true",
        help="how far the runs are; exit code 0 if all are done")  # fmt: skip
    return parser
