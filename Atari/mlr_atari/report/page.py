"""`report.py`: the command, and the folder of a report: figures, tables, their rows, one page."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from .. import protocol
from ..errors import ConfigError, suggestion
from ..run import disk, plan
from ..run.process import script, typed_path
from . import plots, runs, tables, verdict
from .tables import Study

RESULTS = Path(__file__).parents[2] / "results"


@script
def main(argv: Sequence[str] | None = None) -> int:
    """Run `report.py`; its exit code: 0, 2 for wrong input, refused or incomplete, 3 storage."""
    options = _parser().parse_args(argv)
    shown = list(filter(None, options.published.split(",")))
    published = [pd.read_csv(path)["method"] for path in protocol.PUBLISHED_FOLDER.glob("*.csv")]
    known = sorted({*pd.concat(published)})
    for name in set(shown).difference(known):
        remedy = suggestion(name, known)
        raise ConfigError(f"--published={options.published}: {name} is not among them; {remedy}")
    if options.status:
        text, done = runs.status(runs.load(options.runs or [Path("runs")]))
        print(text)
        return 0 if done else ConfigError.exit_code
    found = runs.load(options.runs) if options.runs else runs.results(RESULTS)
    for line in found.unreadable:
        print(f"left out: {line}", file=sys.stderr)
    if options.plan:
        planned = plan.read(options.plan, protocol.TASK_KEY, protocol.canonical_task)
        text, done = verdict.judge(planned, found)
    elif not len(found.runs):
        raise ConfigError("RUNS: no run folder (with a run.json) to read there")
    elif options.runs and (reasons := runs.check(found.runs)):
        print("\n".join(reasons), file=sys.stderr)
        raise ConfigError("RUNS: refused, since for these reasons they are not a fair comparison")
    else:
        disk.results_folder(options.out)
        studies = [tables.build(found)] if options.runs else tables.shipped(found)
        with disk.essential(f"--out={options.out} cannot be written"):
            text, done = f"report: {write(studies, options.out, shown)}", True
    print(text)
    return 0 if done else ConfigError.exit_code


def write(studies: Sequence[Study], out: Path, shown: Sequence[str]) -> Path:
    """Write everything below `out`, beside the published methods `shown`; returns the page."""
    sections = [_section(study, out / study.slug, shown) for study in studies]
    source = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    template = jinja2.Template(source, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = template.render(sections=sections, protocol=protocol, intervals=tables.INTERVALS)
    page = out / "index.html"
    page.write_text(text, encoding="utf-8")
    return page


def _section(study: Study, folder: Path, shown: Sequence[str]) -> dict[str, Any]:
    """Write the files of one study; returns what `page.html` shows of it."""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{study.title}: {len(study.methods)} methods, {len(study.tasks)} tasks", file=sys.stderr)
    aggregates, scores = tables.aggregates(study, shown), tables.task_scores(study, shown)
    pairs, seeds = tables.comparisons(study), tables.seeds_needed(study)
    final = study.runs[list(runs.RUN_COLUMNS)].assign(
        values=[" ".join(map(repr, values)) for values in study.runs["values"]]
    )
    printed: dict[str, tuple[Any, ...]] = {
        "aggregates": (aggregates, tables.aggregate_table(study, aggregates)),
        "comparisons": (pairs, tables.comparison_table(pairs)),
        "tasks": (scores, tables.task_table(scores)),
        "seeds_needed": (seeds, tables.seeds_table(seeds)),
    }
    drawn: dict[str, tuple[Any, ...]] = {
        "learning_curves": (tables.task_curves(study), plots.curves, scores),
        "sample_efficiency": (tables.aggregate_curves(study), plots.curves, aggregates),
        "final_scores": (final, plots.final_scores, scores),
    }
    section: dict[str, Any] = {"study": study, "tables": {}, "figures": []}
    for stem, (rows, *more) in (printed | drawn).items():
        if not len(rows):
            continue
        path = folder / f"{stem}.csv"
        rows.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
        if stem in printed:
            ((table, caption),) = more
            below = disk.escaped(f"{study.title}. {caption} {tables.INTERVALS}")
            text = f"{tables.markdown(table)}\n\n{below}\n"
            path.with_suffix(".md").write_text(text, encoding="utf-8")
            table.to_latex(path.with_suffix(".tex"), index=False, escape=True)
            section["tables"][stem] = table, caption
        else:
            draw, known = more
            plots.save(draw(rows, known), path.with_suffix(""))
            section["figures"].append(stem)
    return section


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="report.py",
        description="Figures, tables and one HTML page from runs; without RUNS from results/.",
    )
    add = parser.add_argument
    add("runs", nargs="*", type=typed_path, metavar="RUNS", help="run folders, or above")
    add("--out", type=typed_path, default=Path("report_out"), help="folder to write to")
    add("--published", default=",".join(protocol.PUBLISHED), metavar="NAMES",
        help="published methods to show (default: %(default)s)")  # fmt: skip
    add("--plan", type=typed_path, metavar="YAML",
        help="print the verdict of results/plans/<name>.yaml; exit code 0 if its runs are all there"
    )  # fmt: skip
    add("--status", action="store_true",
        help="how far the runs are; exit code 0 if all are done")  # fmt: skip
    return parser
