"""Task names in every spelling, and the files that hold what differs between tasks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.renderer import choose_renderer
from mlr_dmcontrol.tasks import BENCHMARK_TASKS, SUITE_TASKS, canonical, domain_and_task

TREE = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "spelling, name",
    [
        ("cartpole_swingup", "cartpole_swingup"),
        ("CartpoleSwingup", "cartpole_swingup"),
        (" cartpole swingup ", "cartpole_swingup"),
        ("dm_control/cartpole-swingup-v0", "cartpole_swingup"),
        ("ball-in-cup/catch", "ball_in_cup_catch"),
        ("humanoid_cmu_run", "humanoid_CMU_run"),
        ("stacker-stack-2", "stacker_stack_2"),
        ("lqr/lqr_2_1", "lqr_lqr_2_1"),
    ],
)
def test_spellings(spelling: str, name: str) -> None:
    assert canonical(spelling) == name


@pytest.mark.parametrize(
    "name, parts",
    [
        ("ball_in_cup_catch", ("ball_in_cup", "catch")),
        ("humanoid_CMU_run", ("humanoid_CMU", "run")),
        ("humanoid_run_pure_state", ("humanoid", "run_pure_state")),
        ("ReacherHard", ("reacher", "hard")),
    ],
)
def test_domain_and_task(name: str, parts: tuple[str, str]) -> None:
    assert domain_and_task(name) == parts


@pytest.mark.parametrize("typed, meant", [("lqr_2_1", "lqr_lqr_2_1"), ("pong", "walker_walk")])
def test_what_is_no_task_gets_a_suggestion_or_the_list(typed: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"^task={typed}: .*{meant}"):
        canonical(typed)


@pytest.mark.parametrize("name", ["manipulation/reach_site_vision", "dm_control.locomotion"])
def test_tasks_outside_the_suite_are_refused_with_a_way(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^task={name}: .*suite.*task=package"):
        canonical(name)


def test_every_task_of_the_installed_suite_is_known() -> None:
    choose_renderer()  # the import would choose one that needs a display
    from dm_control import suite

    assert {domain_and_task(name) for name in SUITE_TASKS} == set(suite.ALL_TASKS)
    # Every task is told apart in its loosest spelling.
    assert [canonical(name.replace("_", "").lower()) for name in SUITE_TASKS] == list(SUITE_TASKS)


def test_names_need_no_simulator() -> None:
    code = (
        "import sys; from mlr_dmcontrol.tasks import canonical; canonical('CheetahRun');"
        "assert not {'dm_control', 'mujoco', 'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=TREE)


def test_a_tasks_file_holds_only_what_differs() -> None:
    files = {path.stem: yaml.safe_load(path.read_text()) for path in TREE.glob("configs/task/*")}
    base = files.pop("base")
    quadruped = {name for name in SUITE_TASKS if name.startswith("quadruped")}
    assert set(files) == {*BENCHMARK_TASKS, *quadruped}
    assert {name for name in files if files[name].get("camera_id") == 2} == quadruped
    for name, own in files.items():
        assert own.pop("defaults") == ["base", "_self_"] and own.pop("name") == name
        assert own.items() - base.items() == own.items() and set(own) <= set(base)
