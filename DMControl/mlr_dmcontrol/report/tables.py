"""Every number of a report, as tables: drawn, printed and written to CSV exactly as they are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .. import protocol
from . import published, runs, statistics
from .runs import Runs, Setting
from .statistics import METRICS

OURS, PUBLISHED = "ours", "published"
CURVE_METRICS = ("iqm", "mean")
"""Aggregates drawn against steps."""
METRIC_NAMES = dict(zip(METRICS, ("IQM", "Median", "Mean", "Optimality gap"), strict=True))
INTERVALS = (
    "Intervals are 95 % percentile intervals of the stratified bootstrap over runs, stretched for"
    " their small number n by sqrt(n/(n-1)), t/z and 1+3/v (Student's t with Welch and"
    " Satterthwaite's degrees of freedom v; heavy tails); of differences they are Welch's."
)
JUDGEMENTS = (
    "is ahead of",
    "is not told apart from",
    "is behind",
    "cannot be judged, with one run of a task, against",
)
ALL_PAIRS = 8
"""Up to so many methods every pair is compared; of more, the first one with each other."""
GAINS = (0.1, 0.25, 0.5)
"""Shares of a method's mean for which the seeds are counted that show them."""
PROBABILITY = (0.0, 1.0)
_LIMITS = (protocol.SCORE_RANGE[0] / protocol.SCALE, protocol.SCORE_RANGE[1] / protocol.SCALE)


@dataclass(frozen=True)
class Study:
    """Runs that are compared with each other, and what is published for their setting.

    Attributes:
        runs: those with a valid score, as `Runs.runs`, in the benchmark's order.
        curves: theirs.
        setting: what they share; None for several settings or without runs.
        published: the published benchmark they may be compared with; None: no such comparison.
        reasons: why they should not be compared; not empty only where that was overruled.
        notes: runs that are left out or doubtful, a line each.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    setting: Setting | None
    published: str | None
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What is compared, in a line; says so where it should not be."""
        if self.reasons:
            return f"{protocol.NAME}: MIXED runs, not a fair comparison"
        return f"{protocol.NAME}, {self.setting or f'published numbers ({self.published})'}"

    @property
    def slug(self) -> str:
        """Name of the folder that its figures go to; safe whatever a run calls its setting."""
        if self.reasons:
            return "mixed"
        name = "-".join(map(str, self.setting)) if self.setting else f"published-{self.published}"
        return re.sub(r"[^\w-]+", "_", name)[:60]

    @property
    def methods(self) -> list[str]:
        """Our methods, in the benchmark's order."""
        return list(self.runs["method"].unique())

    @property
    def tasks(self) -> list[str]:
        """Every task that some method was run on, in the benchmark's order."""
        return sorted(self.runs["task"].unique(), key=lambda task: _place(task, protocol.TASKS))

    @property
    def common(self) -> list[str]:
        """Tasks of all methods that can be normalised: what aggregates are over."""
        methods = self.runs.groupby("task")["method"].nunique()
        known = (task for task in self.tasks if math.isfinite(protocol.normalize(task, 0.0)))
        return [task for task in known if methods[task] == len(self.methods)]

    def scores(self) -> dict[str, dict[str, np.ndarray]]:
        """By method: normalised final scores of its runs on the common tasks, if there are any."""
        shared = self.runs[self.runs["task"].isin(self.common)]
        return {
            method: {task: one.to_numpy() for task, one in own.groupby("task")["normalized"]}
            for method, own in shared.groupby("method", sort=False)
        }

    def curve(self, method: str, task: str, column: str) -> pd.DataFrame:
        """Evaluations of a method's runs: a row a step, a column a run, NaN where it has none."""
        own = self.runs[(self.runs["method"] == method) & (self.runs["task"] == task)]
        points = self.curves[self.curves["run"].isin(own.index)]
        table = points.pivot_table(index="step", columns="run", values=column, dropna=False)
        return table.replace([np.inf, -np.inf], np.nan)


def build(found: Runs, mixed: bool = False) -> Study:
    """Group runs that have passed `runs.check`, or with `mixed` all those that have a score.

    With `mixed`, runs of different settings become methods of their own and are never averaged.
    """
    valid = runs.fit(found.runs)
    differing = [name for name in Setting._fields if valid[name].nunique() > 1]
    if differing:
        words = valid[differing].apply(lambda run: ", ".join(f"{k} {v}" for k, v in run.items()), 1)
        valid = valid.assign(method=valid["method"] + " (" + words + ")")
    places = [
        (_place(run.method, protocol.METHODS), _place(run.task, protocol.TASKS), run.seed)
        for run in valid.itertuples()
    ]
    valid = valid.iloc[sorted(range(len(places)), key=places.__getitem__)]
    setting = None
    if len(valid) and not differing:
        setting = Setting(*(valid[name].iloc[0] for name in Setting._fields))
    reasons = tuple(runs.check(found.runs)) if mixed else ()
    name = protocol.published_benchmark(*setting) if setting and not reasons else None
    return Study(valid, found.curves, setting, name, reasons, found.notes)


def shipped(found: Runs) -> list[Study]:
    """A study for each setting, so that they never meet, and for published benchmarks without."""
    settings = found.runs.groupby(list(Setting._fields))
    studies = [build(Runs(own, found.curves)) for _, own in settings]
    covered = {study.published for study in studies}
    none = found.runs.iloc[:0]
    others = (name for name in protocol.PUBLISHED_BENCHMARKS if name not in covered)
    return studies + [Study(none, found.curves, None, name) for name in others]


# --- numbers ------------------------------------------------------------------------------------


def aggregates(study: Study, shown: Sequence[str]) -> pd.DataFrame:
    """Aggregates of the normalised score: ours, then the published methods in `shown`."""
    rows: list[dict[str, Any]] = []
    for method, scores in study.scores().items():
        seeds = _span(map(len, scores.values()))
        for metric, function in METRICS.items():
            limits = (0.0, 1.0 - _LIMITS[0]) if metric == "optimality_gap" else _LIMITS
            row = {"method": method, "source": OURS, "metric": metric}
            row |= statistics.interval(function, scores, limits)._asdict()
            rows.append(row | {"tasks": len(scores), "runs": seeds, "note": ""})
    over = study.common if len(study.runs) else protocol.TASKS
    for method in shown if study.published else ():
        for known in published.aggregates(study.published or "", method, over):
            rows.append({"method": method, "source": PUBLISHED, **known})
    columns = ("method", "source", "metric", "value", "low", "high", "tasks", "runs", "note")
    return pd.DataFrame(rows, columns=columns)


def task_scores(study: Study, shown: Sequence[str]) -> pd.DataFrame:
    """Raw final scores: mean over runs with its 95 % interval, and `std` over runs (n - 1)."""
    rows: list[dict[str, Any]] = []
    for (method, task), own in study.runs.groupby(["method", "task"], sort=False):
        found = statistics.interval(
            statistics.mean, {task: own["mean"]}, protocol.score_range(task)
        )
        row = {"task": task, "method": method, "source": OURS, "mean": found.value}
        row |= {"std": own["mean"].std(), "low": found.low, "high": found.high}
        rows.append(row | {"runs": str(len(own))})
    known = protocol.published_scores(study.published) if study.published else {}
    for method in (method for method in shown if method in known):
        for task in study.tasks or protocol.TASKS:
            if task in known[method]:
                mean, std = known[method][task]
                row = {"task": task, "method": method, "source": PUBLISHED, "mean": mean}
                rows.append(row | {"std": std, "low": math.nan, "high": math.nan, "runs": ""})
    columns = ("task", "method", "source", "mean", "std", "low", "high", "runs")
    return pd.DataFrame(rows, columns=columns)


def task_curves(study: Study) -> pd.DataFrame:
    """Learning curve of every method on every task: mean over runs, unsmoothed.

    Drawn are the steps at which all its runs were evaluated; `of` is at how many one was.
    """
    tables = []
    for (method, task), _ in study.runs.groupby(["method", "task"], sort=False):
        whole = study.curve(method, task, "mean")
        names = {"what": task, "method": method}
        points = _points(names, "mean", [whole.dropna()], protocol.score_range(task))
        tables.append(points.assign(of=len(whole)))
    return _together(tables)


def aggregate_curves(study: Study) -> pd.DataFrame:
    """Sample efficiency: aggregates of the normalised scores over the common tasks."""
    tables = []
    for method in study.scores():
        curves = [study.curve(method, task, "normalized").dropna() for task in study.common]
        steps = sorted(set.intersection(*(set(curve.index) for curve in curves)))
        shared = [curve.loc[steps] for curve in curves]
        tables += [
            _points({"what": metric, "method": method}, metric, shared, _LIMITS)
            for metric in CURVE_METRICS
        ]
    return _together(tables)


def profiles(study: Study, points: int = 101) -> pd.DataFrame:
    """Performance profiles: share of a method's runs above each normalised score."""
    levels = np.linspace(*protocol.PROFILE_RANGE, points)
    tables = []
    for method, scores in study.scores().items():
        share = statistics.interval(statistics.profile(levels), scores, PROBABILITY)
        rows = {"method": method, "threshold": levels, **share._asdict()}
        tables.append(pd.DataFrame(rows).rename(columns={"value": "share"}))
    return _together(tables)


def comparisons(study: Study) -> pd.DataFrame:
    """Pairs of methods, run by run: how far the first is above the other, and how probably.

    `difference` is of the mean normalised scores, `probability` that a run of `method` is above one
    of `other` on the same task, ties half; each with its 95 % interval.
    """
    rows, scores = [], study.scores()
    methods = list(scores)
    for place, method in enumerate(methods if len(methods) <= ALL_PAIRS else methods[:1]):
        for other in methods[place + 1 :]:
            pair = list(scores[method].values()), list(scores[other].values())
            row: dict[str, Any] = {"method": method, "other": other}
            both = dict(enumerate([*pair[0], *pair[1]]))
            for name, found in (
                ("difference", statistics.welch(*pair)),
                ("probability", statistics.interval(statistics.improvement, both, PROBABILITY)),
            ):
                row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
            rows.append(row | {"tasks": len(study.common)})
    return pd.DataFrame(rows)


def seeds_needed(study: Study) -> pd.DataFrame:
    """Which task tells what: a run's minutes, the spread over seeds, the seeds that show a gain.

    Of the Baseline, or the first method without it. A gain is a share of its mean and is seen with
    80 % power, two-sided at 95 %, by as many seeds of another method that spreads as much.
    """
    first = study.methods[:1] if protocol.BASELINE not in study.methods else [protocol.BASELINE]
    own = study.runs[study.runs["method"].isin(first)]
    hours = pd.to_numeric(own["hours"], errors="coerce")
    own = own.assign(minutes=hours * 60).groupby(["task", "method"], sort=False)
    table = own.agg(minutes=("minutes", "mean"), mean=("mean", "mean"), std=("mean", "std"))
    for gain in GAINS:
        table[f"seeds_{gain * 100:.0f}"] = [
            statistics.seeds_needed(gain * row.mean, row.std) for row in table.itertuples()
        ]
    return table.assign(runs=own.size()).reset_index()


def verdict(study: Study, pairs: pd.DataFrame) -> list[str]:
    """What a comparison says, in sentences: the first method against its Baseline and the rest."""
    if study.reasons:
        return ["These runs should not be compared: " + " | ".join(study.reasons)]
    if not len(study.runs):
        return ["No finished runs of ours in this setting yet."]
    if not len(pairs):
        return ["One method only: nothing to compare." if study.common else "No common task."]
    first = pairs[pairs["method"] == study.methods[0]]
    over = f"{len(study.common)} {protocol.TASK_KEY}{'s' * (len(study.common) > 1)}"
    lines = [
        f"{pair.method} {_judgement(pair)} its Baseline, {pair.other}: the mean"
        f" {protocol.NORMALIZED_NAME} over {over} differs by"
        f" {bracketed(pair.difference, pair.difference_low, pair.difference_high, '+.3f')},"
        f" and a run of it is the better one with probability"
        f" {bracketed(pair.probability, pair.probability_low, pair.probability_high, '.2f')}."
        for pair in first[first["other"] == protocol.BASELINE].itertuples()
    ]
    groups: dict[str, list[str]] = {judgement: [] for judgement in JUDGEMENTS}
    for pair in first[first["other"] != protocol.BASELINE].itertuples():
        groups[_judgement(pair)].append(pair.other)
    said = [f"{judgement} {', '.join(others)}" for judgement, others in groups.items() if others]
    return [*lines, f"{study.methods[0]} {'; '.join(said)}."] if said else lines


def _judgement(pair: Any) -> str:
    ahead, same, behind, unknown = JUDGEMENTS
    if math.isnan(pair.difference_low):
        return unknown
    if pair.difference_low > 0.0:
        return ahead
    return behind if pair.difference_high < 0.0 else same


# --- text ---------------------------------------------------------------------------------------


def aggregate_table(study: Study, rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Text cells, a line a method and a column a metric, and the caption."""
    lines = []
    for (method, source), own in rows.groupby(["method", "source"], sort=False):
        cells = {row.metric: bracketed(row.value, row.low, row.high) for row in own.itertuples()}
        line = {"method": label(method, source)}
        line |= {name: cells.get(metric, "–") for metric, name in METRIC_NAMES.items()}
        seeds = next((runs for runs in own["runs"] if runs), "–")
        lines.append(line | {f"{protocol.TASK_KEY}s": str(own["tasks"].max()), "seeds": seeds})
    caption = f"Final {protocol.NORMALIZED_NAME} over the {protocol.TASK_KEY}s of all methods"
    caption += "; brackets: 95 % intervals over runs; none: a single run, or none is published."
    for task in (task for task in study.tasks if task not in study.common):
        on = set(study.runs.loc[study.runs["task"] == task, "method"])
        lacking = [method for method in study.methods if method not in on]
        few = ", ".join(lacking) if len(lacking) <= runs.NAMED else f"{len(lacking)} methods"
        reason = f"not run with {few}" if lacking else "no score to normalise by"
        caption += f" {task} is left out: {reason}."
    if len(study.runs) and study.published is None and not study.reasons:
        caption += " Published numbers are for another setting."
    return pd.DataFrame(lines), caption


def task_table(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Text cells, a line a task and a column a method, and the caption."""
    columns = {}
    for (method, source), own in rows.groupby(["method", "source"], sort=False):
        seeds = f", n = {_span(own['runs'].astype(int))}" if source == OURS else ""
        columns[label(method, source) + seeds] = {
            row.task: bracketed(row.mean, row.low, row.high, ".1f")
            + (f" ± {row.std:.1f}" if source == PUBLISHED and not math.isnan(row.std) else "")
            for row in own.itertuples()
        }
    table = pd.DataFrame(columns, index=list(dict.fromkeys(rows["task"]))).fillna("–")
    caption = f"{protocol.VALUE_NAME.capitalize()} of the final policy, mean over n seeds;"
    caption += " brackets: 95 % intervals over runs. Published: ± standard deviation where known."
    return table.rename_axis(protocol.TASK_KEY).reset_index(), caption


def seeds_table(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Text cells, a line a task, and the caption."""
    names = {f"seeds_{gain * 100:.0f}": f"seeds for +{gain * 100:.0f} %" for gain in GAINS}
    table = rows.rename(columns={"task": protocol.TASK_KEY, "minutes": "minutes a run", **names})
    for name in table.columns.drop([protocol.TASK_KEY, "method"]):
        form = "{:.1f}" if name in ("mean", "std", "minutes a run") else "{:.0f}"
        table[name] = [form.format(x) if math.isfinite(x) else "–" for x in table[name]]
    caption = f"Which {protocol.TASK_KEY} tells what: seeds of each of two methods that spread as"
    caption += " this one does, to see a gain of so much of its mean with 80 % power (two-sided"
    return table, f"{caption} Welch test at 95 %). –: over 1,000, or not known."


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table: the first column is left-aligned, the others right-aligned."""
    plain = table.map(_escaped).rename(columns=_escaped)
    sides = ["left", *["right"] * (len(table.columns) - 1)]
    return str(plain.to_markdown(index=False, colalign=sides, disable_numparse=True))


def label(method: str, source: str) -> str:
    """How a method is called in tables and figures."""
    return method if source == OURS else f"{method} (published)"


def bracketed(value: float, low: float, high: float, form: str = ".3f") -> str:
    """A number as `1.000 [0.500, 1.500]`, without brackets where there is no interval."""
    shown = f"{value:{form}}"
    return shown if math.isnan(low) else f"{shown} [{low:{form}}, {high:{form}}]"


def _escaped(cell: str) -> str:
    return cell.replace("|", r"\|").replace("<", "&lt;")


def _points(
    names: dict[str, str],
    metric: str,
    curves: Sequence[pd.DataFrame],
    limits: tuple[float, float],
) -> pd.DataFrame:
    steps, scores = curves[0].index, dict(enumerate(curves))
    found = statistics.interval(METRICS[metric], scores, limits)._asdict() if len(steps) else {}
    seeds = _span(curve.shape[-1] for curve in curves)
    return pd.DataFrame({**names, "step": steps, **found, "runs": seeds})


def _together(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _span(counts: Iterable[int]) -> str:
    counts = set(counts)
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _place(name: str, order: Sequence[str]) -> tuple[int, str]:
    first = name.split(" ")[0]
    return (order.index(first) if first in order else len(order), name)
