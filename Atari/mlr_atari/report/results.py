"""Our own finished runs, kept in the repository: `results/runs.csv` and `results/curves.csv`.

`runs.csv` has one row per run, with the return or score of every episode of its final evaluation in
the column `values` (separated by spaces). `curves.csv` has one row per evaluation of these runs.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .. import protocol
from ..errors import ConfigError
from ..run.folder import write_atomically
from . import fairness
from .runs import FACT_KEYS, Point, Run, Setting, join_final

IDENTITY = ("method", protocol.TASK_KEY, "seed", "protocol", "preset", "budget")
"""Columns that name a run; no two rows of `runs.csv` agree in all of them."""
EVALUATION = ("agent_step", "env_step", "episodes", "mean")
FACTS = (*FACT_KEYS, "hours", "command")
RUN_COLUMNS = (*IDENTITY, *EVALUATION, "normalized", "values", "settings", *FACTS)
CURVE_COLUMNS = (*IDENTITY, *EVALUATION)


def load(folder: Path) -> list[Run]:
    """All runs in `results/`; none where there is no file yet.

    Raises:
        ConfigError: a file with other columns.
    """
    curves: dict[tuple[str, ...], list[Point]] = {}
    for row in _read(folder / "curves.csv", CURVE_COLUMNS):
        curves.setdefault(_key(row), []).append(_point(row))
    runs = []
    for row in _read(folder / "runs.csv", RUN_COLUMNS):
        final = _point(row)
        runs.append(
            Run(
                method=row["method"],
                task=row[protocol.TASK_KEY],
                seed=int(row["seed"]),
                setting=Setting(row["protocol"], row["preset"], int(row["budget"])),
                status="finished",
                final=final,
                values=tuple(float(value) for value in row["values"].split()),
                curve=join_final(curves.get(_key(row), []), final),
                settings=row["settings"],
                facts={name: row[name] for name in FACTS if row[name]},
                origin=f"results: {' '.join(_key(row))}",
            )
        )
    return runs


def append(folder: Path, runs: Iterable[Run]) -> tuple[list[Run], list[str]]:
    """Add finished runs to `results/`; doing it again changes nothing.

    Returns:
        The runs that were added, and why others were not, one line each.

    Raises:
        ConfigError: a run has the name of one that is there but is another; or was run with
            other settings than the seeds of its method that are there. Nothing is written then.
    """
    known = {_identity(run): run for run in load(folder)}
    added: list[Run] = []
    skipped = []
    for run in runs:
        there = known.get(_identity(run))
        reasons = fairness.unfit(run)
        if reasons:
            skipped += reasons
        elif there is None:
            known[_identity(run)] = run
            added.append(run)
        elif (there.values, there.settings) == (run.values, run.settings):
            skipped.append(f"{run.origin or run.name}: already in results")
        else:
            raise ConfigError(
                f"{run.origin}: results hold another run of that name; remove its rows from"
                f" {folder / 'runs.csv'} and curves.csv first, or give this one a tag"
            )
    for setting in {run.setting for run in added}:
        same = [run for run in known.values() if run.setting == setting]
        if differing := fairness.check(same):
            raise ConfigError(f"{setting}: cannot stand in one table: " + " | ".join(differing))
    if added:
        _write(folder, list(known.values()))
    return added, skipped


def _write(folder: Path, runs: Sequence[Run]) -> None:
    ordered = sorted(runs, key=lambda run: (run.setting, run.task, run.method, run.seed))
    rows = []
    points = []
    for run in ordered:
        if run.final is None:
            continue
        values = " ".join(repr(value) for value in run.values)
        facts = [run.facts.get(name, "") for name in FACTS]
        final = _cells(run.final)
        normalized = run.normalized if math.isfinite(run.normalized) else ""
        rows.append([*_identity(run), *final, normalized, values, run.settings, *facts])
        points += [[*_identity(run), *_cells(point)] for point in run.curve]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "curves.csv", _text(CURVE_COLUMNS, points))
    write_atomically(folder / "runs.csv", _text(RUN_COLUMNS, rows))


def _identity(run: Run) -> tuple[str, ...]:
    return (run.method, run.task, str(run.seed), *(str(part) for part in run.setting))


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in IDENTITY)


def _cells(point: Point) -> list[int | float]:
    return [point.agent_step, point.env_step, point.episodes, point.mean]


def _point(row: Mapping[str, str]) -> Point:
    steps = int(row["agent_step"]), int(row["env_step"])
    return Point(*steps, int(row["episodes"]), float(row["mean"]))


def _read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != tuple(columns):
            raise ConfigError(f"{path}: has other columns than {','.join(columns)}")
        return list(reader)


def _text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
