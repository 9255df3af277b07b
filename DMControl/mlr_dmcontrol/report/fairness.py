"""The gate before any comparison: what makes a run unfit, and in what runs differ that must not."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from .. import protocol
from .runs import Run

Fact = TypeVar("Fact", bound=Hashable)

NAMED = 3
"""So many runs are named in one line of the list; of more, the number."""


def check(runs: Sequence[Run]) -> list[str]:
    """All reasons against comparing these runs, one line each; empty when it is fair."""
    reasons = [reason for run in runs for reason in unfit(run)]
    finished = [run for run in runs if not unfit(run)]
    return reasons + duplicates(runs) + _settings(finished) + _configurations(finished)


def unfit(run: Run) -> list[str]:
    """Why this run has no valid final score; empty when it has."""
    where = run.origin or run.name
    if run.status != "finished":
        return [f"{where}: not finished ({run.status}{': ' if run.error else ''}{run.error})"]
    if run.final is None:
        return [f"{where}: finished, but there is no final.json"]
    reasons = []
    if not all(math.isfinite(value) for value in (run.final.mean, *run.values)):
        reasons.append(f"{where}: the final score is not a finite number")
    elif not run.values:
        reasons.append(f"{where}: the final evaluation has no episode")
    elif not math.isclose(run.final.mean, sum(run.values) / len(run.values), rel_tol=1e-4):
        reasons.append(f"{where}: the final mean is not the mean of its episodes")
    # An agent step is several environment steps, so the budget may fall between two of them.
    grain = max(run.final.step / max(run.final.agent_step, 1), 1.0)
    if abs(run.final.step - run.setting.budget) >= grain:
        reasons.append(
            f"{where}: scored after {run.final.step:,} {protocol.STEP_NAME},"
            f" its budget is {run.setting.budget:,}"
        )
    return reasons


def duplicates(runs: Iterable[Run]) -> list[str]:
    """Runs that would be counted twice."""
    groups = _group(runs, lambda run: (run.name, run.setting))
    return [
        f"{same[0].name}: {len(same)} runs of the same seed ({_names(same)})"
        for same in groups.values()
        if len(same) > 1
    ]


def _settings(runs: Sequence[Run]) -> list[str]:
    """Protocol, preset, budget and length of the final evaluation must be one."""
    facts: dict[str, Callable[[Run], Hashable]] = {
        "protocol": lambda run: run.setting.protocol,
        "preset": lambda run: run.setting.preset,
        "budget": lambda run: run.setting.budget,
        "episodes of the final evaluation": lambda run: len(run.values),
    }
    return [line for name, fact in facts.items() for line in _disagreement(name, runs, fact)]


def _configurations(runs: Sequence[Run]) -> list[str]:
    """Seeds of one method on one task must have been run with the same configuration."""
    lines = []
    for same in _group(runs, lambda run: (run.task, run.method, run.setting)).values():
        if len({run.settings for run in same}) == 1:
            continue
        what = f"{same[0].task}, {same[0].method}"
        # A row of results has only the digest of its configuration.
        whole = all(run.config for run in same)
        keys = sorted({key for run in same for key in run.config}) if whole else []
        named = [
            line for key in keys for line in _disagreement(f"{what}: {key}", same, _value(key))
        ]
        lines += named or _disagreement(f"{what}: settings", same, lambda run: run.settings)
    return lines


def _value(key: str) -> Callable[[Run], str]:
    return lambda run: str(run.config.get(key))


def _disagreement(name: str, runs: Sequence[Run], fact: Callable[[Run], Hashable]) -> list[str]:
    groups = _group(runs, fact)
    if len(groups) <= 1:
        return []
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [f"{name}: " + "; ".join(f"{value} ({_names(same)})" for value, same in ordered)]


def _group(runs: Iterable[Run], fact: Callable[[Run], Fact]) -> dict[Fact, list[Run]]:
    groups: dict[Fact, list[Run]] = {}
    for run in runs:
        groups.setdefault(fact(run), []).append(run)
    return groups


def _names(runs: Sequence[Run]) -> str:
    return ", ".join(run.name for run in runs) if len(runs) <= NAMED else f"{len(runs)} runs"
