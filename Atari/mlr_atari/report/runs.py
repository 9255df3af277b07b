"""Run folders and `results/` to one table; what may be compared; how far runs are.

A run folder holds, as plain text,

- `config.yaml`: the resolved configuration, which names the run: task or game, method, seed;
- `run.json`: `status`, `protocol`, and the facts that are kept: versions, machine, times, command;
- `eval.csv`: one row an evaluation in training; `eval_episodes.csv`: one row an episode of these;
- `final.json`: the final policy at exactly the budget, one value an episode.

Somebody else may have written them: nothing in them is run, expanded, or used as a path. A run that
cannot be read is named with the file and the line, and the others are read on.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import psutil
import yaml

from .. import protocol
from ..errors import ConfigError
from ..run.folder import MAY_CHANGE, flatten

IDENTITY = ("method", "task", "seed", "protocol", "preset", "budget")
"""What names a run; `task` stands as `protocol.TASK_KEY` in files."""
EVALUATION = ("agent_step", "env_step", "episodes", "mean")
_RECORDED = (
    "revision",
    "device",
    "hardware",
    protocol.SIMULATOR,
    "versions",
    "started",
    "finished",
)
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
# Larger than anything that a run writes: more is neither loaded, nor counted or averaged.
_CONFIG_BYTES, _BYTES, _DEPTH, _WHOLE, _SCORE = 100_000, 64_000_000, 20, 2**53, 1e100
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML was built with it
_KINDS = {str: "a line of text", int: "a whole number, at least 0", list: "a list"}


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
            row of results, which has its digest in `settings`). Of a folder also `error`, `host`
            and `pid` of its last process.
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
        return (*(f"unreadable, left out: {line}" for line in self.unreadable), *doubts)


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
            if "run.json" in files:
                folders.append(Path(place))
    return folders, [text(error) for error in closed]


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
        except (ConfigError, OSError) as error:
            unreadable.append(text(error))
            continue
        except RecursionError:
            unreadable.append(f"{folder}: is nested too deeply to be a run's")
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
    info, config = _load(folder / "run.json"), _load(folder / "config.yaml")
    status, task = info.get("status", str), config.get(f"{protocol.TASK_KEY}.name", str)
    if status not in STATUSES:
        raise ConfigError(f"{info.path}: status={status}; must be one of {', '.join(STATUSES)}")
    agent, tag = config.get("agent.name", str), config.get("tag", str, default="")
    method, seed = f"{agent}-{tag}" if tag else agent, config.get("seed", int)
    final = _final(folder / "final.json") if status == "finished" else dict(_NO_SCORE)
    shared = comparable(config.content)
    row = {
        "method": method,
        "task": task,
        "seed": seed,
        "protocol": info.get("protocol", str),
        "preset": config.get("preset", str),
        "budget": config.get("budget", int),
        **final,
        "normalized": protocol.normalize(task, final["mean"]),
        "settings": _digest(config.path, shared),
        **_facts(info),
        "name": f"{task}/{method}/seed_{seed}",
        "status": status,
        "error": text(info.content.get("last_error") or ""),
        "doubt": _doubt(folder / "eval_episodes.csv", final) if final["values"] else "",
        "host": text(info.content.get("host") or ""),
        "pid": info.get("pid", int, default=0),
        "origin": str(folder),
        "config": shared,
    }
    columns = {"agent_step": _whole, "env_step": _whole, "episodes": _whole, "mean": _score}
    return row, _table(folder / "eval.csv", columns, growing=status == "running")


def results(folder: Path) -> Runs:
    """Our own finished runs, kept in the repository; none where there is no file yet.

    Raises:
        ConfigError: a file that is not a table, or has other columns.
    """
    runs = _kept(folder / "runs.csv", RUN_COLUMNS)
    curves = _kept(folder / "curves.csv", CURVE_COLUMNS)
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


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration by dotted key, without what seeds and machines may differ in."""
    return {
        key: value
        for key, value in flatten(config).items()
        if not any(key == name or key.startswith(f"{name}.") for name in INCIDENTAL)
    }


def text(value: Any) -> str:
    """A value as one printable line; a mapping as `key=value` pairs."""
    if isinstance(value, Mapping):
        return "; ".join(f"{text(key)}={text(value[key])}" for key in value)
    if isinstance(value, list):
        return " ".join(text(item) for item in value)
    line = " ".join(str(value).split())
    return "".join(sign if sign.isprintable() else "?" for sign in line)[:1000]


@dataclass(frozen=True)
class _Fields:
    """Values of a file by dotted key, checked."""

    path: Path
    content: Mapping[str, Any]

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        value: Any = self.content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        value = default if value is None else value
        good = isinstance(value, kind) and not isinstance(value, bool)
        if good and kind is int:
            good = 0 <= value < _WHOLE
        if good and kind is str:
            good = value.isprintable() and len(value) <= 100
        if not good:
            raise ConfigError(f"{self.path}: {key}={text(value)}; must be {_KINDS[kind]}")
        return value


_NO_SCORE: dict[str, Any] = {
    "agent_step": 0,
    "env_step": 0,
    "episodes": 0,
    "mean": math.nan,
    "values": (),
}


def _final(path: Path) -> dict[str, Any]:
    """The final evaluation: `EVALUATION` and `values`."""
    if not path.exists():
        return dict(_NO_SCORE)
    final = _load(path)
    values, mean = final.get("values", list), final.content.get("mean")
    if not all(map(_is_number, (*values, 0.0 if mean is None else mean))):
        raise ConfigError(f"{path}: mean={text(mean)}, values={text(values)}; must be numbers")
    return {
        "agent_step": final.get("agent_step", int),
        "env_step": final.get("env_step", int),
        "episodes": len(values),
        "mean": math.nan if mean is None else float(mean),
        "values": tuple(map(float, values)),
    }


def _doubt(path: Path, final: Mapping[str, Any]) -> str:
    rows = _table(path, {"agent_step": _whole, "value": _score}, growing=False)
    values = [row["value"] for row in rows if row["agent_step"] == final["agent_step"]]
    same = list(map(repr, values)) == list(map(repr, final["values"]))
    return "" if same or not rows else f"{path.name} has other episodes than final.json"


def _digest(path: Path, shared: Mapping[str, Any]) -> str:
    """Short fingerprint of a comparable configuration, the same for all seeds."""
    try:
        content = json.dumps(shared, sort_keys=True)
    except TypeError as error:
        raise ConfigError(f"{path}: holds more than names and plain values ({error})") from error
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _facts(info: _Fields) -> dict[str, str]:
    facts = {name: text(info.content.get(name) or "") for name in _RECORDED}
    seconds = info.content.get("seconds")
    spent = list(seconds.values()) if isinstance(seconds, Mapping) else []
    hours = f"{sum(spent) / 3600:.2f}" if spent and all(map(_is_number, spent)) else ""
    try:
        program, *words = shlex.split(text(info.content.get("command") or "train.py"))
    except ValueError as error:
        raise ConfigError(f"{info.path}: command: cannot be read ({error})") from error
    # Without the places that exist on one machine only.
    kept = [word for word in words if not word.startswith("runs_dir=")]
    return facts | {"hours": hours, "command": shlex.join(["python", Path(program).name, *kept])}


def _is_number(value: Any) -> bool:
    number = isinstance(value, float | int) and not isinstance(value, bool)
    return number and not _SCORE <= abs(value) < math.inf


def _score(cell: str) -> float:
    if not _is_number(value := float(cell)):
        raise ValueError(f"{text(cell)} is no score")
    return value


def _whole(cell: str) -> int:
    if not 0 <= (value := int(cell)) < _WHOLE:
        raise ValueError(f"{text(cell)} is no count")
    return value


def _load(path: Path) -> _Fields:
    """A file of names and values, JSON or YAML by its name."""
    yaml_file = path.suffix == ".yaml"
    content = _text(path, _CONFIG_BYTES if yaml_file else _BYTES)
    try:
        found = _parse_yaml(content) if yaml_file else json.loads(content)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else getattr(error, "lineno", None)
        problem = getattr(error, "problem", None) or getattr(error, "msg", None) or error
        raise ConfigError(f"{_at(path, line)}: cannot be read ({text(problem)})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: is not a mapping of names to values")
    return _Fields(path, found)


def _parse_yaml(content: str) -> Any:
    # A few lines of aliases can stand for billions of values, and brackets are slow to close.
    depth = 0
    for event in yaml.parse(content, _LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH or isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="not of ours", problem_mark=event.start_mark)
    return yaml.load(content, _LOADER)  # noqa: S506, it is a safe one


def _table(
    path: Path, columns: Mapping[str, Callable[[str], Any]], growing: bool
) -> list[dict[str, Any]]:
    """The named columns of a CSV file; none without one. What is being written is not read yet."""
    if not path.exists():
        return []
    content = _text(path, _BYTES)
    if growing:
        content = content[: content.rfind("\n") + 1]
    rows: list[dict[str, Any]] = []
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        header = next(reader, [])
        if missing := [name for name in columns if name not in header]:
            raise ValueError(f"no column {', '.join(missing)}")
        for cells in reader:
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} cells; must be {len(header)}")
            named = dict(zip(header, cells, strict=True))
            rows.append({name: convert(named[name]) for name, convert in columns.items()})
        if not content.endswith("\n"):
            raise ValueError("is cut: it has no end")
    except (ValueError, csv.Error) as error:
        raise ConfigError(f"{_at(path, max(reader.line_num, 1))}: {text(error)}") from error
    return rows


def _text(path: Path, most: int) -> str:
    if not path.is_file():  # a pipe would be waited for
        raise ConfigError(f"{path}: must be a file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ConfigError(f"{path}: larger than {most:,} bytes; a run's are far smaller")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{_at(path, line)}: cannot be read ({error.reason}); must be UTF-8"
        ) from error


def _at(path: Path, line: int | None) -> str:
    return f"{path}, line {line}" if line else str(path)


def _kept(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        frame = frame.rename(columns={protocol.TASK_KEY: "task"})
        if tuple(frame.columns) != tuple(columns):
            raise ValueError(f"has other columns than {','.join(columns)}")
        whole = dict.fromkeys(("seed", "budget", "agent_step", "env_step", "episodes"), int)
        return frame.astype({**whole, "mean": float})
    except ValueError as error:
        raise ConfigError(f"{path}: {text(error)}") from error


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
        if own["settings"].nunique() > 1:
            # A row of results has only the digest of its configuration.
            keys = sorted({key for config in own["config"] for key in config})
            keys = keys if all(own["config"]) else []
            of = f"{task}, {method}"
            lines = [
                line
                for key in keys
                for line in _disagreement(f"{of}: {key}", own, own["config"].map(_named(key)))
            ]
            reasons += lines or _disagreement(f"{of}: settings", own, own["settings"])
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
    return runs[[not unfit(run) for run in runs.itertuples()]]


def duplicates(runs: pd.DataFrame) -> list[str]:
    """Runs that would be counted twice."""
    return [
        f"{own['name'].iloc[0]}: {len(own)} runs of the same seed: {', '.join(own['origin'])}"
        for _, own in runs.groupby(list(IDENTITY), sort=False)
        if len(own) > 1
    ]


def _named(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda config: text(config.get(key))


def _disagreement(what: str, runs: pd.DataFrame, values: pd.Series) -> list[str]:
    groups = [(value, list(names)) for value, names in runs["name"].groupby(values, sort=False)]
    if len(groups) <= 1:
        return []
    groups.sort(key=lambda group: -len(group[1]))
    shown = (
        f"{value} ({', '.join(names) if len(names) <= NAMED else f'{len(names)} runs'})"
        for value, names in groups
    )
    return [f"{what}: {'; '.join(shown)}"]


# --- how far runs are ---------------------------------------------------------------------------

STATES = ("done", "running", "preempted", "failed", "lost", "unfit")
"""`lost`: recorded as running, but its process is gone. `unfit`: finished without a valid score."""


def status(found: Runs) -> tuple[str, bool]:
    """How far runs are, a line each and their counts; and whether there are some and all are done.

    Looking takes no lock and writes nothing.
    """
    steps = found.curves.groupby("run")["step"].max()
    lines = []
    for run in found.runs.itertuples():
        state, detail = _state(run)
        progress = f"{steps.get(run.Index, 0):>9,} / {run.budget:,}"
        lines.append((STATES.index(state), run.name, state, progress, detail))
    width = max((len(name) for _, name, *_ in lines), default=0)
    shown = [
        f"{state:<10} {name:<{width}}  {progress:<20}  {detail}".rstrip()
        for _, name, state, progress, detail in sorted(lines)
    ]
    shown += [f"unreadable {line}" for line in found.unreadable]
    states = [state for _, _, state, *_ in lines] + ["unreadable"] * len(found.unreadable)
    counts = {state: states.count(state) for state in (*STATES, "unreadable") if state in states}
    total = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none found"
    return "\n".join([*shown, f"{len(states)} runs: {total}"]), set(states) == {"done"}


def _state(run: Any) -> tuple[str, str]:
    if run.status == "finished":
        if reasons := unfit(run):
            return "unfit", "; ".join(reasons)
        return "done", f"{protocol.VALUE_NAME} {run.mean:.1f} over {run.episodes} episodes"
    if run.status != "running":
        return run.status, run.error
    if run.host == socket.gethostname() and run.pid and not psutil.pid_exists(run.pid):
        return "lost", f"process {run.pid} is gone; the same command resumes"
    files = (Path(run.origin) / name for name in ("run.json", "train.csv", "eval.csv", "log.txt"))
    written = max(file.stat().st_mtime for file in files if file.exists())
    return "running", f"on {run.host or '?'}, last wrote {(time.time() - written) / 60:.0f} min ago"
