"""Plans: what is read from one, the runs that it stands for, and what is refused in one line."""

from __future__ import annotations

import subprocess
import sys
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
    read_plan = read(written(tmp_path))
    assert read_plan.names == ["mlr", "mlr-half", protocol.BASELINE]
    keys = {(run.task, run.method, run.seed) for run in read_plan.runs}
    assert keys == {(t, m, s) for t in (A, B) for m in read_plan.names for s in (1, 2)}
    common = ["preset=laptop", "budget=1000", "threads=1", "seed=1"]
    half = ["agent=mlr", "tag=half", "agent.mask_ratio=0.5"]
    assert read_plan.commands()[:2] == [
        [f"{SUBJECT}={A}", "agent=mlr", *common],
        [f"{SUBJECT}={A}", *half, *common],
    ]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({f"{SUBJECT}s": None}, f"{SUBJECT}s="),
        ({f"{SUBJECT}s": ["no such one"]}, f"{SUBJECT}="),
        ({f"{SUBJECT}s": [1]}, f"{SUBJECT}s="),
        ({f"{SUBJECT}s": [A, A]}, f"{SUBJECT}s="),
        ({"subject": "x"}, "subject:"),
        ({"hypothesis": None}, "hypothesis:"),
        ({"sede": [1]}, "sede="),
        ({"methods": []}, "methods"),
        ({"methods": [protocol.BASELINE]}, "methods="),
        ({"methods": ["mlr 'x"]}, "methods="),
        ({"methods": ["../mlr"]}, "methods="),
        ({"methods": ["mlr seed=3"]}, "seed=3:"),
        ({"methods": ["mlr --help"]}, "--help:"),
        ({"seeds": [1, 100]}, "seeds[1]="),
        ({"seeds": []}, "seeds="),
        ({"budget": "many"}, "budget="),
        ({"holds_if.test": "anova"}, "holds_if.test="),
        ({"holds_if.p": 0}, "holds_if.p="),
        ({"holds_if.ahead_on": 3}, "holds_if.ahead_on="),
        ({"holds_if": [1]}, "holds_if="),
        ({"power.gain": -1}, "power.gain="),
        ({"overrides": ["runs_dir=/elsewhere"]}, "runs_dir="),
        ({"overrides": ["launcher.partition=gpu"]}, "launcher.partition="),
        ({"overrides": ["tag=x"]}, "tag="),
        ({"overrides": ["a b"]}, "a b:"),
        ({"overrides": "threads=1"}, "overrides="),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, changes: Any, key: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"plan={path}: {key}")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"a: [", b"\xff", b"- 1", b"a: &a [1]\nb: [*a]", None])
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "plan.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="plan.yaml"):
        read(path)


def test_neither_torch_hydra_nor_pandas_is_loaded() -> None:
    loaded = "print({'torch', 'hydra', 'pandas'} & {*sys.modules})"
    code = f"import sys, mlr_dmcontrol.run.plan; {loaded}"
    command = [sys.executable, "-c", code]
    tree = Path(__file__).parents[2]
    assert subprocess.check_output(command, cwd=tree, text=True).strip() == "set()"
