"""Plans: what is read from one, the runs that it stands for, and what is refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mlr_dmcontrol import protocol
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.run import plan

A, B = protocol.TASKS[:2]
SUBJECT = protocol.TASK_KEY


def written(folder: Path, **changes: Any) -> Path:
    """A plan's file; `changes` of None leave a key out, dotted ones reach into a section."""
    values: dict[str, Any] = {
        "hypothesis": "MLR ends above its Baseline.",
        f"{SUBJECT}s": [A, B.replace("_", "-").title()],
        "methods": ["mlr", "mlr tag=half agent.mask_ratio=0.5"],
        "against": protocol.BASELINE,
        "preset": "laptop",
        "budget": 1000,
        "seeds": [1, 2],
        "holds_if": {"test": "welch", "above": 0, "ahead_on": 2, "p": 0.05},
        "power": {"gain": 0.5, "at": 0.8},
        "overrides": ["threads=1"],
    }
    for key, value in changes.items():
        section, _, last = key.rpartition(".")
        into = values[section] if section else values
        into[last] = value
    path = folder / "plan.yaml"
    kept = {key: value for key, value in values.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    return path


def read(path: Path) -> plan.Plan:
    return plan.read(path, SUBJECT, protocol.canonical_task)


def test_a_plan_stands_for_its_runs(tmp_path: Path) -> None:
    found = read(written(tmp_path))
    assert found.names == ["mlr", "mlr-half", protocol.BASELINE]
    assert {*found.runs} == {(t, m, s) for t in (A, B) for m in found.names for s in (1, 2)}
    common = ("preset=laptop", "budget=1000", "threads=1", "seed=1")
    half = ("agent=mlr", "tag=half", "agent.mask_ratio=0.5")
    assert [*found.runs.values()][:2] == [
        (f"{SUBJECT}={A}", "agent=mlr", *common),
        (f"{SUBJECT}={A}", *half, *common),
    ]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({f"{SUBJECT}s": ["no such one"]}, f"{SUBJECT}="),
        ({f"{SUBJECT}s": [A, A]}, f"{SUBJECT}s="),
        ({"hypothesis": None}, "hypothesis:"),
        ({"methods": [protocol.BASELINE]}, "methods="),
        ({"methods": ["mlr 'x"]}, "methods="),
        ({"methods": ["mlr seed=3"]}, "seed=3:"),
        ({"seeds": [1, 100]}, "seeds[1]="),
        ({"holds_if.ahead_on": 3}, "holds_if.ahead_on="),
        ({"overrides": ["runs_dir=/elsewhere"]}, "runs_dir="),
        ({"overrides": ["tag=x"]}, "tag="),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, changes: Any, key: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(caught.value).startswith(f"plan={path}: {key}")
    assert len(str(caught.value).splitlines()) == 1
