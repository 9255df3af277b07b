"""What became of a plan: its runs, the test on every task, and yes or no."""

import math
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import ConfigError
from ..run.disk import one_line
from ..run.plan import Plan
from . import runs, statistics
from .runs import Runs
from .tables import bracketed, markdown

MEAN = "mean"
"""Row of the mean of the normalised scores over all tasks."""


def judge(plan: Plan, found: Runs) -> tuple[str, bool]:
    """The verdict of a plan as text, on the runs that are there, and whether these are all.

    Raises: ConfigError: a planned run is there twice, or runs of a method differ in their settings.
    """
    own, lines = _planned(plan, found)
    table, holds, answers = welch_tests(plan, own), plan.holds_if, []
    for method in plan.names[:-1]:
        p = claim(holds.ahead_on, table[table["method"] == method].set_index("task")["p"])
        answers.append("open" if math.isnan(p) else "yes" if p < holds.p else "no")
        lines.append(f"{method} against {plan.names[-1]}: {answers[-1]}, p = {p:.2g}")
    whole = min(answers, key=("no", "open", "yes").index)
    if lacking := len(plan.runs) - len(own):
        whole += f", so far: {lacking} of {len(plan.runs)} runs are missing or have no valid score"
    scope = f"in the mean of the {plan.subject}s"
    if holds.ahead_on:
        scope = f"on at least {holds.ahead_on} of {len(plan.tasks)} {plan.subject}s"
    rule = (
        f"Yes if every method is ahead by more than {holds.above:g} {scope}, one-sided Welch"
        f" p < {holds.p:g}. Power: chance to see a gain of {plan.power.gain:.0%} of the mean of"
        f" {plan.names[-1]}, with the spread of these runs; planned: {plan.power.at:g}."
    )
    text = (one_line(plan.hypothesis), "", markdown(_text(table, plan)), "", rule, *lines)
    return "\n".join([*text, f"VERDICT: {whole}"]), not lacking


def welch_tests(plan: Plan, own: pd.DataFrame) -> pd.DataFrame:
    """Welch's test of every method on every task, and on the `MEAN`, where there are runs of both.

    Columns: `method`, `task`, `seeds`, `mean`, `other`, `value` (their difference) with `low` and
    `high` (95 %), one-sided `p`, `error` and `freedom` of the test, `probability` that a run is the
    better one, and the `power` that was achieved.
    """

    def scores(method: str, tasks: Sequence[str], column: str) -> list[np.ndarray]:
        runs_of = own[own["method"] == method]
        return [runs_of.loc[runs_of["task"] == task, column].to_numpy() for task in tasks]

    rows: list[dict[str, Any]] = []
    for method in plan.names[:-1]:
        for task in (*plan.tasks, MEAN):
            what = (plan.tasks, "normalized") if task == MEAN else ((task,), "mean")
            x, y = scores(method, *what), scores(plan.names[-1], *what)
            row: dict[str, Any] = {"method": method, "task": task}
            if all(map(len, (*x, *y))):
                level, test = statistics.mean(*y), statistics.welch(x, y, plan.holds_if.above)
                gain, p = plan.power.gain * level, plan.holds_if.p
                row |= {
                    "seeds": "/".join(str(min(map(len, side))) for side in (x, y)),
                    "mean": statistics.mean(*x),
                    "other": level,
                    **test._asdict(),
                    "probability": statistics.improvement(*x, *y),
                    "power": statistics.power(gain, test.error, test.freedom, p),
                }
            rows.append(row)
    columns = ("method", "task", "seeds", "mean", "other", *statistics.Welch._fields)
    return pd.DataFrame(rows, columns=[*columns, "probability", "power"])


def _planned(plan: Plan, found: Runs) -> tuple[pd.DataFrame, list[str]]:
    """The plan's runs that have a valid score, and a line for each of the others."""
    wanted = plan.runs
    keys = pd.MultiIndex.from_frame(found.runs[["task", "method", "seed"]])
    setting = (found.runs["preset"] == plan.preset) & (found.runs["budget"] == plan.budget)
    own = found.runs[setting & keys.isin(list(wanted))]
    lines = [f"no valid score: {reason}" for reason in own["unfit"] if reason]
    missing = (key for key in wanted if key not in keys[own.index])
    lines += [f"missing: {'/'.join(map(str, key))}" for key in missing]
    apart = tuple(f"{key}=" for key in (plan.subject, "agent", "tag", "seed", "preset", "budget"))
    for run in own.itertuples():
        words, typed = wanted[run.task, run.method, run.seed], shlex.split(run.command)
        if without := [w for w in words if not w.startswith(apart) and w not in typed]:
            lines.append(f"started without {' '.join(without)}: {run.origin}")
    valid = own[own["unfit"] == ""]
    if reasons := runs.check(valid):
        raise ConfigError("not the runs of one plan: " + " | ".join(reasons))
    return valid, lines


def claim(ahead_on: int, p: pd.Series) -> float:
    """p of "not ahead on so many tasks" (Benjamini and Heller 2008, Biometrics 64), or `MEAN`."""
    if not ahead_on:
        return float(p[MEAN])
    tasks = np.sort(p.drop(MEAN).to_numpy(float))  # those that are not known last
    return float(np.minimum(1.0, (len(tasks) - ahead_on + 1) * tasks[ahead_on - 1]))


def _text(table: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Cells of `welch_tests` as they are printed."""
    lines = []
    for row in table.fillna({"seeds": "none"}).itertuples():
        form = ".3f" if row.task == MEAN else ".1f"
        cells = {plan.subject: row.task, "method": row.method, "seeds": row.seeds}
        cells |= {"mean": f"{row.mean:{form}}", f"of {plan.names[-1]}": f"{row.other:{form}}"}
        cells["difference [95 %]"] = bracketed(row.value, row.low, row.high, f"+{form}")
        cells |= {"p": f"{row.p:.2g}", "P(better)": f"{row.probability:.2f}"}
        lines.append(cells | {"power": f"{row.power:.2f}"})
    return pd.DataFrame(lines)
