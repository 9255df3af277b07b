"""What the repository says of its own runs: rows in `results/`, and the blocks made from them.

    python .ci/readme.py                          fills the blocks and draws their figures
    python .ci/readme.py --check                  exit code 1 where a block is stale
    python .ci/readme.py --append DMControl RUNS  first keeps the finished runs at or below RUNS

A block stands between `<!-- results:begin -->` and `<!-- results:end -->`, in a tree's README.md or
results/README.md. Appending runs that are there already changes nothing.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


class Tree(NamedTuple):
    """A tree's folder and the modules of its report."""

    folder: Path
    protocol: ModuleType
    runs: Any
    tables: Any
    plots: Any
    plan: Any

    @property
    def results(self) -> Path:
        """Where its rows and figures are kept."""
        return self.folder / "results"


def tree(name: str) -> Tree:
    """`DMControl` or `Atari`."""
    package = f"mlr_{name.lower()}"
    if str(ROOT / name) not in sys.path:
        sys.path.append(str(ROOT / name))
    modules = ("protocol", "report.runs", "report.tables", "report.plots", "run.plan")
    return Tree(ROOT / name, *(importlib.import_module(f"{package}.{part}") for part in modules))


# --- rows ---------------------------------------------------------------------------------------


def append(of: Tree, folder: Path, paths: list[Path]) -> list[str]:
    """Keep finished runs in `folder`; returns a line for each run that was found.

    Raises:
        SystemExit: one has the name of a run that is there but is another, or was not run as the
            other seeds of its method. Nothing is written then.
    """
    known, found = of.runs.results(folder), of.runs.load(paths)
    identity = list(of.runs.IDENTITY)
    there = {tuple(getattr(run, name) for name in identity): run for run in known.runs.itertuples()}
    lines, new = [f"unreadable: {line}" for line in found.unreadable], []
    for run in found.runs.itertuples():
        same = there.get(tuple(getattr(run, name) for name in identity))
        if run.unfit:
            lines.append(run.unfit)
        elif same is None:
            new.append(run.Index)
            lines.append(f"appended: {run.origin}")
        elif (same.values, same.settings) == (run.values, run.settings):
            lines.append(f"already there: {run.origin}")
        else:
            raise SystemExit(f"error: {run.origin}: results hold another run of that name")
    added = found.runs.loc[new]
    together = pd.concat([known.runs, added], ignore_index=True)
    for _, own in together.groupby(list(of.runs.SETTING)):
        if differing := of.runs.check(own):
            raise SystemExit("error: cannot stand in one table: " + " | ".join(differing))
    if new:
        points = found.curves[found.curves["run"].isin(new)]
        points = points.assign(run=points["run"].map(new.index) + len(known.runs))
        write(of, folder, together, pd.concat([known.curves, points]))
    return lines


def write(of: Tree, folder: Path, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
    """Write `runs.csv` and `curves.csv` as `results` reads them; each number as Python shows it."""
    order = ["protocol", "preset", "budget", "task", "method", "seed"]
    runs = runs.sort_values(order)
    evaluations = (*of.runs.IDENTITY, *of.runs.EVALUATION)
    points = runs[list(of.runs.IDENTITY)].join(curves.set_index("run"), how="inner")
    for name, rows, columns in (
        ("runs.csv", runs, of.runs.RUN_COLUMNS),
        ("curves.csv", points.sort_values([*order, "step"]), evaluations),
    ):
        text = rows[list(columns)].map(_cell).rename(columns={"task": of.protocol.TASK_KEY})
        text.to_csv(folder / name, index=False, lineterminator="\n")


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(repr, value))
    if isinstance(value, float):
        return "" if value != value else repr(float(value))
    return str(value)


# --- blocks -------------------------------------------------------------------------------------


def studies(of: Tree) -> list[Any]:
    """Every setting that we have runs of, and the first published benchmark without any."""
    shown = of.protocol.PUBLISHED_BENCHMARKS[:1]
    found = of.tables.shipped(of.runs.results(of.results))
    return [study for study in found if len(study.runs) or study.published in shown]


def block(of: Tree, page: Path) -> str:
    """Markdown between the markers: curves and tables of each study."""
    parts = ["*Made from `results/` by `.ci/readme.py`.*"]
    for study in studies(of):
        parts.append(f"**{of.tables.escaped(study.title)}**")
        if len(study.runs):
            figure = os.path.relpath(_figure(of, study), page.parent)
            parts.append(f"![Learning curves of {study.title}]({figure})")
        aggregates = of.tables.aggregates(study, of.protocol.REFERENCES)
        for table, caption in (
            of.tables.aggregate_table(study, aggregates),
            of.tables.comparison_table(of.tables.comparisons(study)),
            of.tables.task_table(of.tables.task_scores(study, of.protocol.REFERENCES)),
        ):
            if len(table):
                parts += [of.tables.markdown(table), caption]
    return "\n\n".join([*parts, of.tables.INTERVALS])


def filled(text: str, new: str) -> str:
    """`text` with another block.

    Raises:
        SystemExit: its markers are not there once each and in order.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in tail or END in tail:
        raise SystemExit(f"error: needs one {BEGIN} and, below it, one {END}")
    return f"{head}{BEGIN}\n{new}\n{END}{tail}"


def draw(of: Tree) -> None:
    """The learning curves that the block shows, and those of each plan's methods."""
    (of.results / "figures").mkdir(exist_ok=True)
    for study in studies(of):
        if not len(study.runs):
            continue
        rows = (of.tables.task_curves(study), of.tables.task_scores(study, []))
        of.plots.save(of.plots.curves(*rows), _figure(of, study).with_suffix(""), kinds=("png",))
        for path in (of.results / "plans").glob("*.yaml"):
            plan = of.plan.read(path, of.protocol.TASK_KEY, str)
            own = [table[table["method"].isin(plan.names)] for table in rows]
            if study.setting[1:] == (plan.preset, plan.budget) and all(map(len, own)):
                figure = of.results / "figures" / path.stem
                of.plots.save(of.plots.curves(*own), figure, kinds=("png",))


def _figure(of: Tree, study: Any) -> Path:
    return of.results / "figures" / f"{study.slug}.png"


def main() -> int:
    parser = argparse.ArgumentParser(description="Results in the READMEs of both trees.")
    parser.add_argument("--check", action="store_true", help="only say what is stale")
    parser.add_argument("--append", nargs="+", metavar=("TREE", "RUNS"), help="keep finished runs")
    arguments = parser.parse_args()
    if arguments.append:
        name, *paths = arguments.append
        of = tree(name)
        print("\n".join(append(of, of.results, [Path(path) for path in paths])))
    stale = []
    for of in map(tree, ("DMControl", "Atari")):
        for page in (of.folder / "README.md", of.results / "README.md"):
            text = page.read_text(encoding="utf-8")
            if BEGIN in text and (new := filled(text, block(of, page))) != text:
                stale.append(str(page.relative_to(ROOT)))
                if not arguments.check:
                    page.write_text(new, encoding="utf-8")
        if not arguments.check:
            draw(of)
    print("\n".join(f"{'stale' if arguments.check else 'filled'}: {name}" for name in stale))
    return int(arguments.check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
