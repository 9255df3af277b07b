"""Run folders and `results/` to one table; what may be compared; how far runs are.

Of a run folder `config.yaml` is read (the resolved configuration, which names the run), `run.json`
(status, protocol, versions, machine, times, command), `eval.csv` (a row an evaluation in training)
and `final.json` (the final policy at exactly the budget, a value an episode), with which
`eval_episodes.csv` must agree. A stranger may have
written them: nothing is run, or used as a path. A run that cannot be read is named with the file
and the line, and the others are read on.
"""

import csv
import hashlib
import io
import json
import math
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from .. import protocol
from ..errors import ConfigError
from ..run.disk import COUNT, damage, fields, one_line, read_text
from ..run.folder import MAY_CHANGE, look, without

IDENTITY = ("method", "task", "seed", "protocol", "preset", "budget")
"""What names a run; `task` stands as `protocol.TASK_KEY` in files."""
EVALUATION = ("agent_step", "env_step", "episodes", "mean")
_RECORDED = (
    "revision", "device", "hardware", protocol.SIMULATOR, "versions", "started", "finished",
)  # fmt: skip
RUN_COLUMNS = (
    *IDENTITY, *EVALUATION, "normalized", "values", "settings", *_RECORDED, "hours", "command",
)  # fmt: skip
"""Of `results/runs.csv`; those of `results/curves.csv` are `IDENTITY` and `EVALUATION`."""
# Keys, or sections, in which the runs of one method on one task may differ. Evaluating does not
# touch training; the length of the final evaluation is compared by itself.
INCIDENTAL = (*MAY_CHANGE, "seed", "tag", "deterministic", "evaluation")
SETTING = ("protocol", "preset", "budget")
"""What runs must share before their scores may be put side by side."""
STATUSES = ("running", "finished", "preempted", "failed")
NAMED = 3  # so many runs are named in one line of a list; of more, the number
_ODD = (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError, csv.Error)
_NOT_YET: dict[str, Any] = {
    "agent_step": 0, "env_step": 0, "episodes": 0, "mean": math.nan, "values": (), "error": "",
}  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """What was found.

    Attributes:
        runs: a row a run: `RUN_COLUMNS` (`values` a tuple, empty before the end), `name`
            (`<task>/<method>/seed_<n>`), `status`, `error`, `origin` (where it lies), `config`
            (flat, without the `INCIDENTAL` keys; empty in a row of results) and `unfit`: why it has
            no valid final score, empty when it has.
        curves: a row an evaluation: `run` (label of its row in `runs`), `step` on the benchmark's
            axis, `EVALUATION` and `normalized`; in order of steps, the final evaluation last.
        unreadable: what was found but cannot be read, a line each.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    unreadable: tuple[str, ...] = ()


# --- finding and reading ------------------------------------------------------------------------


def load(paths: Iterable[Path]) -> Runs:
    """All runs at or below `paths`, each once, behind links too; not in runs or hidden folders.

    Raises: ConfigError: a path that does not exist.
    """
    rows: list[dict[str, Any]] = []
    unreadable: list[Exception] = []
    for folder in _folders(paths, unreadable.append):
        try:
            rows.append(read(folder))
        except (ConfigError, OSError) as error:
            unreadable.append(error)
    points = [{"run": label, **point} for label, row in enumerate(rows) for point in row["curve"]]
    runs = pd.DataFrame(
        rows, columns=[*RUN_COLUMNS, "status", "error", "origin", "folder", "config"]
    )
    return _joined(runs, pd.DataFrame(points, columns=["run", *EVALUATION]), unreadable)


def _folders(paths: Iterable[Path], onerror: Callable[[OSError], None]) -> Iterator[Path]:
    visited: set[str] = set()
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"RUNS={path}: no such folder; give a run folder or one above it")
        for place, below, files in os.walk(path, onerror=onerror, followlinks=True):
            real, own = os.path.realpath(place), {"run.json", "config.yaml"} & {*below, *files}
            known = real in visited
            visited.add(real)
            if own and not known:
                yield Path(place)
            if known or len(own) == 2:  # what lies in a run is followed nowhere
                below.clear()
            below[:] = sorted(name for name in below if name[0] != "." and name != "wandb")


def read(folder: Path) -> dict[str, Any]:
    """Row of a run folder, and its `curve` but for the final evaluation's point.

    Raises:
        ConfigError: what a run of this project always has is missing or damaged. OSError: a file
            cannot be read.
    """
    recorded, configured = _recorded(folder / "run.json"), _configured(folder / "config.yaml")
    status = recorded["status"]
    ended = status == "finished" and (folder / "final.json").exists()
    final = _final(folder) if ended else _NOT_YET
    columns = dict.fromkeys(EVALUATION, int) | {"mean": float}
    return {
        **recorded,
        **configured,
        **final,
        "error": recorded["last_error"] or final["error"],
        "origin": one_line(folder),
        "folder": folder,
        "curve": _table(folder / "eval.csv", columns, growing=status == "running"),
    }


def _recorded(path: Path) -> dict[str, Any]:
    """What a `run.json` says."""
    with _naming(path):
        info = fields(path)
        status = info.get("status", str)
        if status not in STATUSES:
            raise ValueError(f"status={status}; must be one of {', '.join(STATUSES)}")
        hours = sum(info.get("seconds", dict, default={}).values()) / 3600
        program, *words = shlex.split(str(info.content.get("command") or "train.py"))
        # Without the places that exist on one machine only.
        words = [word for word in words if not word.startswith("runs_dir=")]
        noted = (*_RECORDED, "last_error")
        return {
            **{name: one_line(info.content.get(name) or "") for name in noted},
            "status": status,
            "protocol": info.get("protocol", str),
            "hours": f"{hours:.2f}" if hours else "",
            "command": one_line(shlex.join(["python", Path(program).name, *words])),
        }


def _configured(path: Path) -> dict[str, Any]:
    """What a `config.yaml` says."""
    with _naming(path):
        config = fields(path)
        if protocol.TASK_KEY not in config.content:
            raise ValueError(f"is no run of {protocol.NAME}, for it names no {protocol.TASK_KEY}")
        shared = without(config.content, INCIDENTAL)
        digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]
        names = config.get("agent.name", str), config.get("tag", str, default="")
        return {
            "method": "-".join(filter(None, names)),
            "task": config.get(f"{protocol.TASK_KEY}.name", str),
            "seed": config.get("seed", int),
            "preset": config.get("preset", str),
            "budget": config.get("budget", int),
            "settings": digest,
            "config": shared,
        }


@contextmanager
def _naming(path: Path, lines: Any = None) -> Iterator[Path]:
    """What odd values lead to is said of their file, at the line that `lines` has come to."""
    try:
        yield path
    except _ODD as error:
        raise damage(path, lines and max(lines.line_num, 1), error) from error


def _final(folder: Path) -> dict[str, Any]:
    """The final evaluation, and what is against it."""
    with _naming(folder / "final.json") as path:
        final = fields(path)
        scores: list[Any] = [final.content.get("mean"), *final.get("values", list)]
        if not all(map(_is_number, scores)):
            raise ValueError(f"mean and values={one_line(scores)}; must be numbers")
        steps = {name: final.get(name, int) for name in ("agent_step", "env_step")}
    mean, *values = map(float, scores)
    rows = _table(folder / "eval_episodes.csv", {"agent_step": int, "value": float})
    episodes = [row["value"] for row in rows if row["agent_step"] == steps["agent_step"]]
    agree = not rows or list(map(repr, episodes)) == list(map(repr, values))  # NaN is NaN
    against = "" if agree else "eval_episodes.csv has other episodes than final.json"
    score = {"episodes": len(values), "mean": mean, "values": tuple(values)}
    return {**steps, **score, "error": against}


def _table(path: Path, columns: dict[str, Any], growing: bool = False) -> list[dict[str, Any]]:
    """These columns of a CSV and their types; [] without it; if `growing`, its end may be cut."""
    if not path.exists():
        return []
    text = read_text(path)
    text = text[: text.rfind("\n") + 1] if growing else text
    reader, rows = csv.DictReader(io.StringIO(text, newline=""), strict=True), []
    with _naming(path, reader.reader):
        if not {*columns} <= {*(reader.fieldnames or ())}:
            raise ValueError(f"must have the columns {', '.join(columns)}")
        for cells in reader:
            if None in cells or None in cells.values():
                raise ValueError("must have as many cells as columns")
            row = {name: kind(cells[name]) for name, kind in columns.items()}
            if not all(map(_is_number, row.values())):
                raise ValueError("a number is beyond all bounds")
            rows.append(row)
        if not text.endswith("\n"):
            raise ValueError("is cut: the last line has no end")
    return rows


def _is_number(value: Any) -> bool:
    """Whether it can be averaged: NaN or an infinity too, but nothing beyond all bounds."""
    number = isinstance(value, float | int) and not isinstance(value, bool)
    return number and not COUNT <= abs(value) < math.inf


def results(folder: Path) -> Runs:
    """Our own finished runs, kept in the repository."""
    whole = dict.fromkeys(("seed", "budget", "agent_step", "env_step", "episodes"), int)
    runs, curves = (
        pd.read_csv(folder / name, dtype=str, keep_default_na=False)
        .rename(columns={protocol.TASK_KEY: "task"})
        .replace({"mean": {"": "nan"}})
        .astype({**whole, "mean": float})
        for name in ("runs.csv", "curves.csv")
    )
    runs["values"] = [tuple(map(float, cell.split())) for cell in runs["values"]]
    runs = runs.assign(status="finished", error="", config=[{}] * len(runs))
    runs["origin"] = "results: " + _names(runs)
    labels = runs[list(IDENTITY)].reset_index(names="run")
    return _joined(runs, curves.merge(labels, on=list(IDENTITY))[["run", *EVALUATION]])


def _joined(runs: pd.DataFrame, curves: pd.DataFrame, unreadable: Iterable[object] = ()) -> Runs:
    """Curves end in the final evaluation, which replaces those at its step or later."""
    runs = runs.assign(name=_names(runs))
    runs["normalized"] = list(map(protocol.normalize, runs["task"], runs["mean"]))
    runs["unfit"] = list(map(_unfit, runs.itertuples()))
    final = runs[runs["episodes"] > 0]
    before = ~(curves[protocol.STEP] >= curves["run"].map(final[protocol.STEP]))
    ends = final[list(EVALUATION)].rename_axis("run").reset_index()
    joined = pd.concat([curves[before], ends])
    joined = joined.assign(step=joined[protocol.STEP]).sort_values(["run", "step"], kind="stable")
    tasks = joined["run"].map(runs["task"])
    joined["normalized"] = list(map(protocol.normalize, tasks, joined["mean"]))
    return Runs(runs, joined.reset_index(drop=True), tuple(map(one_line, unreadable)))


def _names(runs: pd.DataFrame) -> pd.Series:
    return runs["task"] + "/" + runs["method"] + "/seed_" + runs["seed"].astype(str)


# --- the gate before any comparison -------------------------------------------------------------


def check(runs: pd.DataFrame) -> list[str]:
    """All reasons against comparing these runs, a line each; empty when it is fair."""
    is_valid = runs["unfit"] == ""
    valid, reasons = runs[is_valid], list(runs["unfit"][~is_valid])
    for what in ("protocol", "preset", "budget", "episodes"):
        reasons += _disagreement(what, valid, valid[what])
    for (task, method, *_), own in valid.groupby(["task", "method", *SETTING], sort=False):
        if own["settings"].nunique() > 1:
            whole = all(own["config"])  # rows of results have the digest only
            configs = own["config"] if whole else [{"settings": key} for key in own["settings"]]
            for key in sorted(set().union(*configs)):
                values = [one_line(config.get(key)) for config in configs]
                reasons += _disagreement(f"{task}, {method}: {key}", own, values)
    for _, own in runs.groupby(list(IDENTITY), sort=False):
        if len(own) > 1:
            origins = ", ".join(own["origin"])
            reasons.append(f"{own['name'].iloc[0]}: {len(own)} runs of the same seed: {origins}")
    return reasons


def _unfit(run: Any) -> str:
    step = getattr(run, protocol.STEP)
    if run.status != "finished":
        reason = f"not finished ({run.status}{': ' if run.error else ''}{run.error})"
    elif run.error:
        reason = run.error
    elif not run.values:
        reason = "finished, but there is no final score of any episode"
    elif not all(map(math.isfinite, (run.mean, *run.values))):
        reason = "the final score is not a finite number"
    elif not math.isclose(run.mean, math.fsum(run.values) / len(run.values), rel_tol=1e-4):
        reason = "the final mean is not the mean of its episodes"
    # An agent step is several environment steps, so the budget may fall between two of them.
    elif abs(step - run.budget) >= max(step / max(run.agent_step, 1), 1.0):
        reason = f"scored after {step:,} {protocol.STEP_NAME}, its budget is {run.budget:,}"
    else:
        return ""
    return f"{run.origin}: {reason}"


def _disagreement(what: str, runs: pd.DataFrame, values: Any) -> list[str]:
    groups = runs.assign(value=values).groupby("value", sort=False)["name"].agg(list)
    shown = [
        f"{value} ({', '.join(names) if len(names) <= NAMED else f'{len(names)} runs'})"
        for value, names in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]
    return [f"{what}: {'; '.join(shown)}"] if len(groups) > 1 else []


# --- how far runs are ---------------------------------------------------------------------------

# `lost`: recorded as running, but its process is gone. `unfit`: finished without a valid score.
STATES = ("done", "running", "preempted", "failed", "lost", "unfit", "unreadable")


def status(found: Runs) -> tuple[str, bool]:
    """How far runs are, a line each and their counts; and whether there are some and all are done.

    Looking takes no lock and writes nothing.
    """
    steps = found.curves.groupby("run")["step"].max()
    width = max(found.runs["name"].str.len(), default=0)
    lines = [("unreadable", reason) for reason in found.unreadable]
    for run in found.runs.itertuples():
        state, detail = _state(run)
        progress = f"{steps.get(run.Index, 0):>9,} / {run.budget:,}"
        lines.append((state, f"{run.name:<{width}}  {progress:<20}  {detail}".rstrip()))
    lines.sort(key=lambda line: STATES.index(line[0]))
    counts = Counter(state for state, _ in lines)
    total = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    text = "".join(f"{state:<10} {line}\n" for state, line in lines)
    return f"{text}{len(lines)} runs: {total or 'none found'}", set(counts) == {"done"}


def _state(run: Any) -> tuple[str, str]:
    if run.status == "finished":
        score = f"{protocol.VALUE_NAME} {run.mean:.1f} over {run.episodes} episodes"
        return ("unfit", run.unfit) if run.unfit else ("done", score)
    if run.status != "running":
        return run.status, run.error
    state, detail = look(run.folder)
    if state != "running":
        return "lost", f"{one_line(detail)}; the same command resumes"
    files = (run.folder / name for name in ("run.json", "train.csv", "eval.csv", "log.txt"))
    written = max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
    return "running", f"{detail}, last wrote {(time.time() - written) / 60:.0f} min ago"
