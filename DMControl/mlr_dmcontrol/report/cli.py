"""The command line of `report.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import protocol
from ..errors import RunError
from . import fairness, output, readme, results, status
from .runs import Run, find, read
from .study import build, shipped

TREE = Path(__file__).parents[2]
RESULTS = TREE / "results"
README = TREE / "README.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `report.py`; returns its exit code: 0, 2 for wrong input, refused or incomplete."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.status:
            return _status(arguments)
        if arguments.append:
            return _append(arguments)
        if arguments.readme:
            return _readme()
        return _report(arguments)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _report(arguments: argparse.Namespace) -> int:
    if arguments.runs:
        runs = _read(arguments.runs)
        reasons = fairness.check(runs)
        clashes = fairness.duplicates(runs)
        if not runs:
            print("error: no run folder (with a run.json) found there", file=sys.stderr)
            return 2
        if clashes or (reasons and not arguments.allow_mixed):
            print("refused: these runs are not a fair comparison", file=sys.stderr)
            print("\n".join(f"  - {reason}" for reason in reasons), file=sys.stderr)
            if not clashes:
                print("--allow-mixed draws them, labelled as mixed", file=sys.stderr)
            return 2
        studies = [build(runs, mixed=bool(reasons))]
    else:
        studies = shipped(results.load(RESULTS), protocol.PUBLISHED_BENCHMARKS)
    for study in studies:
        print(study.title)
        print("".join(f"  note: {note}\n" for note in study.notes()), end="")
    page = output.write(studies, arguments.out, arguments.published.split(","))
    print(f"report: {page}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    entries = status.survey(arguments.runs or [Path("runs")], arguments.expect)
    print(status.report(entries))
    return 0 if status.complete(entries) else 2


def _append(arguments: argparse.Namespace) -> int:
    added, skipped = results.append(RESULTS, _read(arguments.runs or [Path("runs")]))
    print("".join(f"not appended: {reason}\n" for reason in skipped), end="")
    print("".join(f"appended: {run.name}\n" for run in added), end="")
    print(f"{len(added)} of {len(added) + len(skipped)} appended to {RESULTS / 'runs.csv'}")
    return 0


def _readme() -> int:
    text = README.read_text()
    runs = results.load(RESULTS)
    new = readme.updated(text, runs)
    if new != text:
        README.write_text(new)
    for figure in readme.draw(runs, TREE):
        print(f"drawn: {figure}")
    print(f"{README}: {'updated' if new != text else 'was up to date'}")
    return 0


def _read(paths: Sequence[Path]) -> list[Run]:
    return [read(folder) for folder in find(paths)]


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
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="how far the runs are; exit 0 if done")
    what.add_argument("--append", action="store_true", help="keep finished runs in results/")
    what.add_argument("--readme", action="store_true", help="renew the table in README.md")
    parser.add_argument(
        "--expect",
        default="",
        metavar="SWEEP",
        help=f'with --status: "{protocol.TASK_KEY}=a,b agent=mlr seed=1,2", list what is missing',
    )
    return parser
