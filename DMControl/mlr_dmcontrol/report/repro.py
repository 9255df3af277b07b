"""`repro.md`: what somebody needs to know, or to type, to get these numbers again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from .. import protocol
from .rows import BOOTSTRAP_SEED
from .runs import FACT_KEYS, Run
from .study import Study

_SHARED = tuple(key for key in FACT_KEYS if key not in ("started", "finished"))


def markdown(studies: Sequence[Study]) -> str:
    """Reproducibility facts of the runs of each study."""
    parts = [
        "# Reproducibility\n",
        f"Intervals: 2000 stratified bootstrap draws, generator seed {BOOTSTRAP_SEED}.",
        "Headline scores: the final policy at exactly the budget, never the best checkpoint.\n",
    ]
    for study in studies:
        runs = [run for tasks in study.groups.values() for same in tasks.values() for run in same]
        parts += [f"## {study.title}\n", *(_study(study, runs) if runs else ["No runs.\n"])]
    return "\n".join(parts)


def _study(study: Study, runs: Sequence[Run]) -> list[str]:
    lines = [f"| method | {protocol.TASK_KEY}s | seeds |", "|---|---|---|"]
    for method, tasks in study.groups.items():
        by_seeds: dict[str, list[str]] = {}
        for task, same in tasks.items():
            by_seeds.setdefault(", ".join(str(run.seed) for run in same), []).append(task)
        lines += [f"| {method} | {' '.join(each)} | {seeds} |" for seeds, each in by_seeds.items()]
    lines += ["", "| fact | value (number of runs) |", "|---|---|"]
    episodes = Counter(str(len(run.values)) for run in runs)
    lines.append(f"| episodes of the final evaluation | {_counted(episodes)} |")
    for key in _SHARED:
        lines.append(f"| {key} | {_counted(Counter(_fact(run, key) for run in runs))} |")
    hours = [float(run.facts["hours"]) for run in runs if run.facts.get("hours")]
    total = f"{math.fsum(hours):.1f} in {len(hours)} of {len(runs)} runs that recorded it"
    lines += [f"| hours of computing | {total} |", ""]
    lines += ["Commands, in this tree's folder:", "", "```"]
    lines += sorted({_fact(run, "command") for run in runs})
    return [*lines, "```", ""]


def _fact(run: Run, key: str) -> str:
    return run.facts.get(key) or "not recorded"


def _counted(values: Counter[str]) -> str:
    return "<br>".join(f"{value} ({count})" for value, count in values.most_common())
