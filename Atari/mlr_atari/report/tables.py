"""Every number of a report, as tables: drawn, printed and written to CSV exactly as they are."""

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .. import protocol
from ..run.disk import escaped
from . import statistics
from .runs import NAMED, SETTING, Runs
from .statistics import METRICS

OURS, PUBLISHED = "ours", "published"
CURVE_METRICS = ("iqm", "mean")  # aggregates drawn against steps
METRIC_NAMES = dict(zip(METRICS, ("IQM", "Median", "Mean", "Optimality gap"), strict=True))
INTERVALS = (
    "Intervals are 95 % percentile intervals of the stratified bootstrap over runs, stretched for"
    " their small number n by sqrt(n/(n-1)), t/z and 1+3/v (Student's t with Welch and"
    " Satterthwaite's degrees of freedom v; heavy tails); of differences they are Welch's."
)
ALL_PAIRS = 8  # of up to so many methods every pair is compared; of more, the first with each
GAINS = (10, 25, 50)  # percent of a method's mean for which the seeds are counted that show them
_BY_TRUST = "printed", "recomputed_from_runs", "digitised_figure", "recomputed_from_game_means"
_LIMITS = (protocol.SCORE_RANGE[0] / protocol.SCALE, protocol.SCORE_RANGE[1] / protocol.SCALE)


@dataclass(frozen=True)
class Study(Runs):
    """Runs that are compared with each other, and what is published for their setting.

    Attributes:
        runs, curves: those with a valid score, in the benchmark's order.
        setting: what they share, as `SETTING`; None without runs.
        published: the published benchmark they may be compared with; None: no such comparison.
    """

    setting: tuple[str, str, int] | None = None
    published: str | None = None

    @property
    def title(self) -> str:
        """What is compared, in a line."""
        if not self.setting:
            return f"{protocol.NAME}, published numbers ({self.published})"
        name, preset, budget = self.setting
        return f"{protocol.NAME}, protocol {name}, preset {preset}, {budget:,} {protocol.STEP_NAME}"

    @property
    def slug(self) -> str:
        """Name of the folder that its figures go to; safe whatever a run calls its setting."""
        name = "-".join(map(str, self.setting)) if self.setting else f"published-{self.published}"
        return re.sub(r"[^\w-]+", "_", name)[:60]

    @property
    def methods(self) -> list[str]:
        """Our methods, in the benchmark's order."""
        return list(self.runs["method"].unique())

    @property
    def tasks(self) -> list[str]:
        """Every task that some method was run on, in the benchmark's order."""
        return _ordered(self.runs["task"], protocol.TASKS)

    @property
    def common(self) -> list[str]:
        """Tasks of all methods that can be normalised: what aggregates are over."""
        methods = self.runs.groupby("task")["method"].nunique()
        known = (task for task in self.tasks if math.isfinite(protocol.normalize(task, 0.0)))
        return [task for task in known if methods[task] == len(self.methods)]

    def scores(self) -> dict[str, list[np.ndarray]]:
        """By method: normalised final scores, an array a common task; empty without such tasks."""
        shared = self.runs[self.runs["task"].isin(self.common)]
        return {
            method: [runs.to_numpy() for _, runs in own.groupby("task")["normalized"]]
            for method, own in shared.groupby("method", sort=False)
        }

    def curve(self, method: str, task: str, column: str) -> pd.DataFrame:
        """Evaluations of a method's runs: a row a step, a column a run, NaN where it has none."""
        own = self.runs[(self.runs["method"] == method) & (self.runs["task"] == task)]
        points = self.curves[self.curves["run"].isin(own.index)]
        table = points.pivot_table(index="step", columns="run", values=column, dropna=False)
        return table.replace([np.inf, -np.inf], np.nan)


def build(found: Runs) -> Study:
    """Of runs of one setting that have passed `runs.check`."""
    order = {"method": protocol.METHODS, "task": protocol.TASKS}
    rows = found.runs.sort_values(
        ["method", "task", "seed"],
        key=lambda names: names.map(_ordered(names, order.get(names.name, ())).index),
    )
    setting = tuple(rows.iloc[0][list(SETTING)])
    published = protocol.published_benchmark(*setting)
    return Study(rows, found.curves, found.unreadable, setting, published)


def shipped(found: Runs) -> list[Study]:
    """A study for each setting, so that they never meet, and for published benchmarks without."""
    studies = [build(Runs(own, found.curves)) for _, own in found.runs.groupby(list(SETTING))]
    others = {*protocol.PUBLISHED_BENCHMARKS} - {study.published for study in studies}
    none = found.runs[:0]
    return studies + [Study(none, found.curves, published=name) for name in sorted(others)]


# --- numbers ------------------------------------------------------------------------------------


def aggregates(study: Study, shown: Sequence[str]) -> pd.DataFrame:
    """Aggregates of the normalised score: ours, then the published methods in `shown`.

    Published ones are over the whole benchmark, and stand beside such of ours only.
    """
    rows: list[tuple[Any, ...]] = []
    for method, scores in study.scores().items():
        size = len(scores), _span(map(len, scores))
        for metric, function in METRICS.items():
            limits = (0.0, 1.0 - _LIMITS[0]) if metric == "optimality_gap" else _LIMITS
            interval = statistics.interval(function, scores, limits)
            rows.append((method, OURS, metric, *interval, *size))
    if study.published and (study.common == list(protocol.TASKS) or not len(study.runs)):
        rows += [row for method in shown for row in _published(study.published, method)]
    columns = ("method", "source", "metric", "value", "low", "high", "tasks", "runs")
    return pd.DataFrame(rows, columns=columns)


def _published(name: str, method: str) -> list[tuple[Any, ...]]:
    """Published aggregates of a method; NaN where no interval is known.

    The value as printed if it is, with another source's interval if that has one; mean and median
    that are not printed follow from the published task means.
    """
    scores = protocol.published_scores(name).get(method, {})
    known = [protocol.normalize(task, scores[task][0]) for task in protocol.TASKS if task in scores]
    rows: dict[str, tuple[Any, ...]] = {}
    if len(known) == len(protocol.TASKS):
        means = {"median": np.median(known), "mean": np.mean(known)}
        rows = {metric: (value, math.nan, math.nan, "") for metric, value in means.items()}
    table = pd.read_csv(protocol.PUBLISHED_FOLDER / "aggregates.csv", dtype={"n_runs": str})
    table = table.rename(columns={"ci_low": "low", "ci_high": "high", "n_runs": "runs"})
    own = (table["benchmark"] == name) & (table["method"] == method) & table["metric"].isin(METRICS)
    table = table[own].sort_values("kind", key=lambda kinds: kinds.map(_BY_TRUST.index))
    # The first that is known, column by column.
    best = table.groupby("metric")[["value", "low", "high", "runs"]].first().fillna({"runs": ""})
    best[["value", "low", "high"]] /= protocol.SCALE
    rows |= {metric: tuple(row) for metric, *row in best.itertuples()}
    first, tasks = (method, PUBLISHED), len(known)
    return [(*first, metric, *row[:3], tasks, row[3]) for metric, row in rows.items()]


def task_scores(study: Study, shown: Sequence[str]) -> pd.DataFrame:
    """Raw final scores: mean over runs with its 95 % interval, and `std` over runs (n - 1)."""
    rows: list[tuple[Any, ...]] = []
    for (method, task), own in study.runs.groupby(["method", "task"], sort=False):
        limits, scores = protocol.score_range(task), own["mean"]
        mean, low, high = statistics.interval(statistics.mean, [scores], limits)
        rows.append((task, method, OURS, mean, scores.std(), low, high, str(len(own))))
    known = protocol.published_scores(study.published) if study.published else {}
    for method in shown:
        for task in study.tasks or protocol.TASKS:
            if task in known.get(method, {}):
                score = known[method][task]
                rows.append((task, method, PUBLISHED, *score, math.nan, math.nan, ""))
    columns = ("task", "method", "source", "mean", "std", "low", "high", "runs")
    return pd.DataFrame(rows, columns=columns)


def task_curves(study: Study) -> pd.DataFrame:
    """Learning curve of every method on every task: mean over runs, unsmoothed.

    Drawn are the steps at which all its runs were evaluated; `of` is at how many one was.
    """
    rows = []
    for (method, task), _ in study.runs.groupby(["method", "task"], sort=False):
        curve = study.curve(method, task, "mean")
        names = {"what": task, "method": method, "of": len(curve)}
        rows += _points(names, "mean", [curve], protocol.score_range(task))
    return pd.DataFrame(rows)


def aggregate_curves(study: Study) -> pd.DataFrame:
    """Sample efficiency: aggregates of the normalised scores over the common tasks."""
    rows = []
    for method in study.scores():
        curves = [study.curve(method, task, "normalized") for task in study.common]
        for metric in CURVE_METRICS:
            rows += _points({"what": metric, "method": method}, metric, curves, _LIMITS)
    return pd.DataFrame(rows)


def _points(
    names: dict[str, Any], metric: str, curves: Sequence[pd.DataFrame], limits: tuple[float, float]
) -> list[dict[str, Any]]:
    """A row a step that all runs of the curves have."""
    whole = [curve.dropna() for curve in curves]
    steps = sorted(set.intersection(*(set(curve.index) for curve in whole)))
    if not steps:
        return []
    scores = [curve.loc[steps] for curve in whole]
    interval = statistics.interval(METRICS[metric], scores, limits)._asdict()
    seeds = _span(curve.shape[-1] for curve in scores)
    return pd.DataFrame({**names, "step": steps, **interval, "runs": seeds}).to_dict("records")


def comparisons(study: Study) -> pd.DataFrame:
    """Pairs of methods, run by run: how far the first is above the other, and how probably.

    `difference` is of the mean normalised scores, `probability` that a run of `method` is above one
    of `other` on the same task, ties half; each with its 95 % interval.
    """
    rows, scores = [], study.scores()
    for method, other in itertools.combinations(scores, 2):
        if len(scores) <= ALL_PAIRS or method == study.methods[0]:
            x, y = scores[method], scores[other]
            difference = statistics.welch(x, y)[:3]
            probability = statistics.interval(statistics.improvement, [*x, *y], (0.0, 1.0))
            rows.append((method, other, *difference, *probability, len(x)))
    values = ("difference", "probability")
    parts = [f"{value}{part}" for value in values for part in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["method", "other", *parts, "tasks"])


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
        table[f"seeds_{gain}"] = [
            statistics.seeds_needed(gain / 100 * row.mean, row.std) for row in table.itertuples()
        ]
    return table.assign(runs=own.size()).reset_index()


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
        few = ", ".join(lacking) if len(lacking) <= NAMED else f"{len(lacking)} methods"
        reason = f"not run with {few}" if lacking else "no score to normalise by"
        caption += f" {task} is left out: {reason}."
    if len(study.runs) and PUBLISHED not in set(rows["source"]):
        caption += " Published numbers are for another setting, or over all of the benchmark."
    return pd.DataFrame(lines), caption


def comparison_table(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Text cells, a line a pair of methods, and the caption."""
    lines = []
    for method, other, gap, low, high, p, p_low, p_high, _ in rows.itertuples(index=False):
        apart = "ahead" if low > 0.0 else "behind" if high < 0.0 else "not told apart"
        line = {"X": method, "Y": other, "X is": "not judged" if math.isnan(low) else apart}
        line["X − Y"] = bracketed(gap, low, high, "+.3f")
        lines.append(line | {"P(X > Y)": bracketed(p, p_low, p_high, ".2f")})
    caption = f"Difference of the mean {protocol.NORMALIZED_NAME}, and chance that a run of X is"
    caption += f" above one of Y on the same {protocol.TASK_KEY}, ties half; brackets: 95 %"
    return pd.DataFrame(lines), f"{caption} intervals, not corrected for the number of pairs."


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
    table = rows.rename(columns={"task": protocol.TASK_KEY, "minutes": "minutes a run"})
    for name in table.columns.drop([protocol.TASK_KEY, "method"]):
        form = "{:.1f}" if name in ("mean", "std", "minutes a run") else "{:.0f}"
        table[name] = [form.format(x) if math.isfinite(x) else "–" for x in table[name]]
    caption = f"Which {protocol.TASK_KEY} tells what. seeds_10: seeds of each of two methods that"
    caption += " spread as this one does, to see a gain of 10 % of its mean with 80 % power"
    return table, f"{caption} (two-sided Welch test at 95 %). –: over 1,000, or not known."


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table: the first column is left-aligned, the others right-aligned."""
    plain = table.map(escaped).rename(columns=escaped)
    sides = ["left", *["right"] * (len(table.columns) - 1)]
    return str(plain.to_markdown(index=False, colalign=sides, disable_numparse=True))


def label(method: str, source: str) -> str:
    """How a method is called in tables and figures."""
    return method if source == OURS else f"{method} (published)"


def bracketed(value: float, low: float, high: float, form: str = ".3f") -> str:
    """A number as `1.000 [0.500, 1.500]`, without brackets where there is no interval."""
    shown = f"{value:{form}}"
    return shown if math.isnan(low) else f"{shown} [{low:{form}}, {high:{form}}]"


def _span(counts: Iterable[int]) -> str:
    counts = set(counts)
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _ordered(names: Iterable[str], first: Sequence[str]) -> list[str]:
    """The names once each: those that stand in `first` in its order, then the others."""
    ranks = {name: rank for rank, name in enumerate(first)}
    return sorted(set(names), key=lambda name: (ranks.get(name, len(ranks)), name))
