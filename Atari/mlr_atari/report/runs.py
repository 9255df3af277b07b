"""Run folders and `results/` to one table; what may be compared; how far runs are.

A run folder holds, as plain text,

- `config.yaml`: the resolved configuration, which names the run: task or game, method, seed;
- `run.json`: `status`, `protocol`, and the facts that are kept: versions, machine, times, command;
- `eval.csv`: one row an evaluation in training; `eval_episodes.csv`: one row an episode of these;
- `final.json`: the final policy at exactly the budget, one value an episode.

A stranger may have written them: nothing is run, or used as a path. A run that cannot be read is
named with the file and the line, and the others are read on.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .. import protocol
from ..errors import ConfigError
from ..run.disk import COUNT, Fields, damage, fields, one_line, read_text
from ..run.folder import MAY_CHANGE, flatten, look

IDENTITY = ("method", "task", "seed", "protocol", "preset", "budget")
"""What names a run; `task` stands as `protocol.TASK_KEY` in files."""
EVALUATION = ("agent_step", "env_step", "episodes", "mean")
_RECORDED = (
    "revision", "device", "hardware", protocol.SIMULATOR, "versions", "started", "finished",
)  # fmt: skip
RUN_COLUMNS = (
    *IDENTITY, *EVALUATION, "normalized", "values", "settings", *_RECORDED, "hours", "command",
)  # fmt: skip
"""Of `results/runs.csv`: the final evaluation with every episode's value, and how it was made."""
CURVE_COLUMNS = (*IDENTITY, *EVALUATION)
"""Of `results/curves.csv`: the evaluations in training."""

INCIDENTAL = (*MAY_CHANGE, "seed", "tag", "deterministic", "evaluation")
"""Configuration keys, or sections, in which the runs of one method on one task may differ.

Evaluating does not touch training; the length of the final evaluation is compared by itself."""
STATUSES = ("running", "finished", "preempted", "failed")
NAMED = 3
"""So many runs are named in one line of a list; of more, the number."""
SCORE = 1e100
"""Larger than any that a run has; more is not averaged."""


class Setting(NamedTuple):
    """What runs must share before their scores may be put side by side."""

    protocol: str
    preset: str
    budget: int

    def __str__(self) -> str:
        steps = f"{self.budget:,} {protocol.STEP_NAME}"
        return f"protocol {self.protocol}, preset {self.preset}, {steps}"


@dataclass(frozen=True)
class Runs:
    """What was found.

    Attributes:
        runs: a row a run: `RUN_COLUMNS` (`values` a tuple, empty before the end), `name`
            (`<task>/<method>/seed_<n>`), `status`, `doubt` (why its score is not to be trusted),
            `origin` (where it lies) and `config` (flat, without the `INCIDENTAL` keys; empty in a
            row of results, which has its digest in `settings`). Of a folder also `error`.
        curves: a row an evaluation: `run` (label of its row in `runs`), `step` on the benchmark's
            axis, `EVALUATION` and `normalized`; in order of steps, the final evaluation last.
        unreadable: what was found but cannot be read, a line each.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    unreadable: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is wrong with what was found, a line each."""
        doubtful = self.runs[self.runs["doubt"] != ""]
        doubts = (f"doubtful: {run.origin}: {run.doubt}" for run in doubtful.itertuples())
        return (*(f"unreadable, left out: {text}" for text in self.unreadable), *doubts)


# --- finding and reading ------------------------------------------------------------------------


def find(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Run folders at or below `paths`, and what could not be looked into.

    Links are followed, every folder is visited once, and hidden ones below `paths` are not.

    Raises:
        ConfigError: a path that does not exist.
    """
    folders: list[Path] = []
    closed: list[OSError] = []
    visited = set()
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"RUNS={path}: no such folder; give a run folder or one above it")
        for place, below, files in os.walk(path, onerror=closed.append, followlinks=True):
            if (real := os.path.realpath(place)) in visited:
                below.clear()
                continue
            visited.add(real)
            below[:] = sorted(name for name in below if not name.startswith("."))
            if {"run.json", "config.yaml"} & {*below, *files}:
                folders.append(Path(place))
    return folders, list(map(one_line, closed))


def load(paths: Iterable[Path]) -> Runs:
    """All runs at or below `paths`.

    Raises:
        ConfigError: a path that does not exist.
    """
    folders, unreadable = find(paths)
    rows: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    for folder in folders:
        try:
            row, curve = read(folder)
        except (ConfigError, OSError, RecursionError) as error:
            text = one_line(error)
            unreadable.append(text if str(folder) in text else f"{folder}: {text}")
            continue
        points += [{"run": len(rows), **point} for point in curve]
        rows.append(row)
    return _joined(pd.DataFrame(rows), pd.DataFrame(points), unreadable)


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Row and curve of a run folder, as `Runs` has them but for the final evaluation's point.

    Raises:
        ConfigError: what a run of this project always has is missing or damaged.
        OSError: a file cannot be read.
    """
    info, config = fields(folder / "run.json"), fields(folder / "config.yaml")
    status, task = info.get("status", str), config.get(f"{protocol.TASK_KEY}.name", str)
    if status not in STATUSES:
        raise damage(info.path, None, f"status={status}; must be one of {', '.join(STATUSES)}")
    names = (config.get("agent.name", str), config.get("tag", str, default=""))
    method, seed = "-".join(filter(None, names)), config.get("seed", int)
    final = _final(folder, finished=status == "finished")
    flat = flatten(config.content)
    incidental = tuple(f"{name}." for name in INCIDENTAL)
    shared = {key: flat[key] for key in flat if not f"{key}.".startswith(incidental)}
    try:
        digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]
    except TypeError as error:
        raise damage(config.path, None, f"more than names and plain values ({error})") from error
    row = {
        "method": method,
        "task": task,
        "seed": seed,
        "protocol": info.get("protocol", str),
        "preset": config.get("preset", str),
        "budget": config.get("budget", int),
        **final,
        "normalized": protocol.normalize(task, final["mean"]),
        "settings": digest,
        **_facts(info),
        "name": f"{task}/{method}/seed_{seed}",
        "status": status,
        "origin": str(folder),
        "config": shared,
    }
    columns = {"agent_step": _count, "env_step": _count, "episodes": _count, "mean": _score}
    return row, _table(folder / "eval.csv", columns, growing=status == "running")


def _final(folder: Path, finished: bool) -> dict[str, Any]:
    """The final evaluation: `EVALUATION`, `values`, and `doubt` where its episodes differ."""
    path = folder / "final.json"
    if not finished or not path.exists():
        none = dict.fromkeys(("agent_step", "env_step", "episodes"), 0)
        return {**none, "mean": math.nan, "values": (), "doubt": ""}
    final = fields(path)
    step, values, mean = final.get("agent_step", int), final.get("values", list), math.nan
    if final.content.get("mean") is not None:
        mean = final.content["mean"]
    if not all(map(_is_number, (mean, *values))):
        shown = f"mean={one_line(mean)}, values={one_line(values)}"
        raise damage(path, None, f"{shown}; must be numbers")
    rows = _table(folder / "eval_episodes.csv", {"agent_step": _count, "value": _score})
    episodes = [row["value"] for row in rows if row["agent_step"] == step]
    scores = tuple(map(float, values))
    differs = rows and list(map(repr, episodes)) != list(map(repr, scores))  # NaN is NaN
    return {
        "agent_step": step,
        "env_step": final.get("env_step", int),
        "episodes": len(scores),
        "mean": float(mean),
        "values": scores,
        "doubt": "eval_episodes.csv has other episodes than final.json" if differs else "",
    }


def _facts(info: Fields) -> dict[str, str]:
    facts = {name: one_line(info.content.get(name) or "") for name in _RECORDED}
    seconds = info.content.get("seconds")
    spent = list(seconds.values()) if isinstance(seconds, Mapping) else []
    hours = f"{sum(spent) / 3600:.2f}" if spent and all(map(_is_number, spent)) else ""
    try:
        program, *words = shlex.split(one_line(info.content.get("command") or "") or "train.py")
    except ValueError as error:
        raise damage(info.path, None, f"command: cannot be read ({error})") from error
    # Without the places that exist on one machine only.
    kept = [word for word in words if not word.startswith("runs_dir=")]
    command = shlex.join(["python", Path(program).name, *kept])
    return facts | {
        "error": one_line(info.content.get("last_error") or ""),
        "hours": hours,
        "command": command,
    }


def _table(
    path: Path, columns: Mapping[str, Callable[[str], Any]], growing: bool = False
) -> list[dict[str, Any]]:
    """The named columns of a CSV file, each with what makes a value of a cell; [] without a file.

    Args:
        growing: a run is at work, whose last line may still be without its end; it is left out.
    """
    if not path.exists():
        return []
    text = read_text(path)
    if growing:
        text = text[: text.rfind("\n") + 1]
    rows: list[dict[str, Any]] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if wrong := [name for name in columns if header.count(name) != 1]:
            raise ValueError(f"must have one column {', '.join(wrong)}")
        for cells in reader:
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} cells; must be {len(header)}")
            named = dict(zip(header, cells, strict=True))
            rows.append({name: convert(named[name]) for name, convert in columns.items()})
        if not text.endswith("\n"):
            raise ValueError("is cut: it has no end")
    except (ValueError, csv.Error) as error:
        raise damage(path, max(reader.line_num, 1), error) from error
    return rows


def _is_number(value: Any) -> bool:
    """Whether it is a score: NaN or an infinity too, but nothing beyond all bounds."""
    number = isinstance(value, float | int) and not isinstance(value, bool)
    return number and not SCORE <= abs(value) < math.inf


def _score(cell: str) -> float:
    """A number that can be averaged, NaN or an infinity. Raises ValueError."""
    if not _is_number(value := float(cell)):
        raise ValueError(f"{one_line(cell)} is no score")
    return value


def _count(cell: str) -> int:
    """A number of steps or episodes. Raises ValueError."""
    if not 0 <= (value := int(cell)) < COUNT:
        raise ValueError(f"{one_line(cell)} is no count")
    return value


def results(folder: Path) -> Runs:
    """Our own finished runs, kept in the repository; none where there is no file yet.

    Raises:
        ConfigError: a file that is not a table, or has other columns.
    """
    kept = []
    whole = dict.fromkeys(("seed", "budget", "agent_step", "env_step", "episodes"), int)
    for path, columns in (
        (folder / "runs.csv", RUN_COLUMNS),
        (folder / "curves.csv", CURVE_COLUMNS),
    ):
        frame = pd.DataFrame(columns=columns)
        try:
            if path.is_file():
                frame = pd.read_csv(path, dtype=str, keep_default_na=False)
            kept.append(frame.rename(columns={protocol.TASK_KEY: "task"})[list(columns)])
            kept[-1] = kept[-1].astype({**whole, "mean": float})
        except (KeyError, ValueError) as error:
            raise damage(path, None, error) from error
    runs, curves = kept
    name = runs["task"] + "/" + runs["method"] + "/seed_" + runs["seed"].astype(str)
    runs = runs.assign(
        values=[tuple(map(float, cell.split())) for cell in runs["values"]],
        normalized=list(map(protocol.normalize, runs["task"], runs["mean"])),
        name=name,
        status="finished",
        doubt="",
        origin="results: " + name,
        config=[{}] * len(runs),
    )
    labels = runs[list(IDENTITY)].reset_index(names="run")
    return _joined(runs, curves.merge(labels, on=list(IDENTITY))[["run", *EVALUATION]], ())


def _joined(runs: pd.DataFrame, curves: pd.DataFrame, unreadable: Iterable[str]) -> Runs:
    """Curves end in the final evaluation, which replaces those at its step or later."""
    runs = runs if len(runs) else pd.DataFrame(columns=[*RUN_COLUMNS, "name", "doubt"])
    curves = curves if len(curves) else pd.DataFrame(columns=["run", *EVALUATION])
    final = runs[runs["episodes"] > 0]
    before = ~(curves[protocol.STEP] >= curves["run"].map(final[protocol.STEP]))
    ends = final[list(EVALUATION)].rename_axis("run").reset_index()
    joined = pd.concat([curves[before], ends])
    joined = joined.assign(step=joined[protocol.STEP]).sort_values(["run", "step"], kind="stable")
    tasks = joined["run"].map(runs["task"])
    joined["normalized"] = list(map(protocol.normalize, tasks, joined["mean"]))
    return Runs(runs, joined.reset_index(drop=True), tuple(unreadable))


# --- the gate before any comparison -------------------------------------------------------------


def check(runs: pd.DataFrame) -> list[str]:
    """All reasons against comparing these runs, a line each; empty when it is fair."""
    reasons = [reason for run in runs.itertuples() for reason in unfit(run)]
    valid = fit(runs)
    for what in ("protocol", "preset", "budget", "episodes"):
        reasons += _disagreement(what, valid, valid[what])
    for (task, method, *_), own in valid.groupby(["task", "method", *Setting._fields], sort=False):
        if own["settings"].nunique() > 1 and not all(own["config"]):  # some are rows of results
            reasons += _disagreement(f"{task}, {method}: settings", own, own["settings"])
        elif own["settings"].nunique() > 1:
            for key in sorted(set().union(*own["config"])):
                values = [one_line(config.get(key)) for config in own["config"]]
                reasons += _disagreement(f"{task}, {method}: {key}", own, values)
    return reasons + duplicates(runs)


def unfit(run: Any) -> list[str]:
    """Why a run, a row of `Runs.runs`, has no valid final score; empty when it has."""
    if run.status != "finished":
        return [f"{run.origin}: not finished ({run.status}{': ' if run.error else ''}{run.error})"]
    if not run.values:
        return [f"{run.origin}: finished, but there is no final score of any episode"]
    reasons = []
    if not all(map(math.isfinite, (run.mean, *run.values))):
        reasons.append(f"{run.origin}: the final score is not a finite number")
    elif not math.isclose(run.mean, math.fsum(run.values) / len(run.values), rel_tol=1e-4):
        reasons.append(f"{run.origin}: the final mean is not the mean of its episodes")
    # An agent step is several environment steps, so the budget may fall between two of them.
    step = getattr(run, protocol.STEP)
    if abs(step - run.budget) >= max(step / max(run.agent_step, 1), 1.0):
        reasons.append(
            f"{run.origin}: scored after {step:,} {protocol.STEP_NAME},"
            f" its budget is {run.budget:,}"
        )
    return reasons


def fit(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that have a valid final score."""
    return runs.loc[[not unfit(run) for run in runs.itertuples()]]


def duplicates(runs: pd.DataFrame) -> list[str]:
    """Runs that would be counted twice."""
    return [
        f"{own['name'].iloc[0]}: {len(own)} runs of the same seed: {', '.join(own['origin'])}"
        for _, own in runs.groupby(list(IDENTITY), sort=False)
        if len(own) > 1
    ]


def _disagreement(what: str, runs: pd.DataFrame, values: Any) -> list[str]:
    groups = runs.assign(value=values).groupby("value", sort=False)["name"].agg(list)
    if len(groups) <= 1:
        return []
    shown = (
        f"{value} ({', '.join(names) if len(names) <= NAMED else f'{len(names)} runs'})"
        for value, names in sorted(groups.items(), key=lambda group: -len(group[1]))
    )
    return [f"{what}: {'; '.join(shown)}"]


# --- how far runs are ---------------------------------------------------------------------------

STATES = ("done", "running", "preempted", "failed", "lost", "unfit", "unreadable")
"""`lost`: recorded as running, but its process is gone. `unfit`: finished without a valid score."""


def status(found: Runs) -> tuple[str, bool]:
    """How far runs are, a line each and their counts; and whether there are some and all are done.

    Looking takes no lock and writes nothing.
    """
    steps = found.curves.groupby("run")["step"].max()
    rows = [("unreadable", reason, "", "") for reason in found.unreadable]
    for run in found.runs.itertuples():
        progress = f"{steps.get(run.Index, 0):>9,} / {run.budget:,}"
        rows.append((*_state(run), progress, run.name))
    width = max(found.runs["name"].str.len(), default=0)
    lines = [
        f"{state:<10} {name:<{width}}  {progress:<20}  {detail}".rstrip()
        for state, detail, progress, name in sorted(rows, key=lambda row: STATES.index(row[0]))
    ]
    counts = Counter(state for state, *_ in rows)
    total = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines.append(f"{len(rows)} runs: {total or 'none found'}")
    return "\n".join(lines), set(counts) == {"done"}


def _state(run: Any) -> tuple[str, str]:
    if run.status == "finished":
        if reasons := unfit(run):
            return "unfit", "; ".join(reasons)
        return "done", f"{protocol.VALUE_NAME} {run.mean:.1f} over {run.episodes} episodes"
    if run.status != "running":
        return run.status, run.error
    folder = Path(run.origin)
    state, detail = look(folder)
    if state != "running":
        return "lost", f"{detail}; the same command resumes"
    files = (folder / name for name in ("run.json", "train.csv", "eval.csv", "log.txt"))
    written = max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
    return "running", f"{detail}, last wrote {(time.time() - written) / 60:.0f} min ago"
