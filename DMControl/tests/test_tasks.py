"""Task names, and the files that hold what differs between tasks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.renderer import choose_renderer
from mlr_dmcontrol.tasks import BENCHMARK_TASKS, SUITE_TASKS, canonical, domain_and_task

TASK_FILES = Path(__file__).resolve().parents[1] / "configs" / "task"


@pytest.mark.parametrize(
    "spelling, name",
    [
        ("cartpole_swingup", "cartpole_swingup"),
        ("cartpole/swingup", "cartpole_swingup"),
        ("cartpole-swingup", "cartpole_swingup"),
        ("Cartpole_Swingup", "cartpole_swingup"),
        ("CartpoleSwingup", "cartpole_swingup"),
        (" cartpole swingup ", "cartpole_swingup"),
        ("dm_control/cartpole-swingup-v0", "cartpole_swingup"),
        ("cartpole_swingup_sparse", "cartpole_swingup_sparse"),
        ("BallInCupCatch", "ball_in_cup_catch"),
        ("ball-in-cup/catch", "ball_in_cup_catch"),
        ("humanoid_cmu_run", "humanoid_CMU_run"),
        ("PointMassEasy", "point_mass_easy"),
        ("stacker-stack-2", "stacker_stack_2"),
        ("lqr_2_1", None),
        ("lqr/lqr_2_1", "lqr_lqr_2_1"),
    ],
)
def test_spellings(spelling: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(ConfigError, match="did you mean lqr_lqr_2_1"):
            canonical(spelling)
    else:
        assert canonical(spelling) == name


@pytest.mark.parametrize(
    "name, parts",
    [
        ("ball_in_cup_catch", ("ball_in_cup", "catch")),
        ("humanoid_CMU_run", ("humanoid_CMU", "run")),
        ("humanoid_run_pure_state", ("humanoid", "run_pure_state")),
        ("point_mass_easy", ("point_mass", "easy")),
        ("manipulator_bring_ball", ("manipulator", "bring_ball")),
        ("swimmer_swimmer6", ("swimmer", "swimmer6")),
        ("ReacherHard", ("reacher", "hard")),
    ],
)
def test_domain_and_task(name: str, parts: tuple[str, str]) -> None:
    assert domain_and_task(name) == parts


def test_typo_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"task=cartpole_swingpu: .*did you mean cartpole_s"):
        canonical("cartpole_swingpu")
    with pytest.raises(ConfigError, match=r"task=pong: .*walker_walk"):
        canonical("pong")
    with pytest.raises(ConfigError):
        canonical("")


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
    subprocess.run([sys.executable, "-c", code], check=True, cwd=TASK_FILES.parents[1])


# As published: action repeat, cube depth, learning rate, momentum rate.
PUBLISHED = {
    "ball_in_cup_catch": (4, 8, 1e-3, 0.05),
    "cartpole_swingup": (8, 4, 1e-3, 0.05),
    "cheetah_run": (4, 8, 2e-4, 0.05),
    "finger_spin": (2, 8, 1e-3, 0.05),
    "reacher_easy": (4, 4, 1e-3, 0.05),
    "walker_walk": (2, 8, 1e-3, 0.1),
}


def test_task_files_hold_the_published_values_and_only_what_differs() -> None:
    base = OmegaConf.load(TASK_FILES / "base.yaml")
    keys = ("action_repeat", "cube_depth", "learning_rate", "target_ema_tau")
    assert [base[key] for key in keys] == [4, 8, 1e-3, 0.05]
    assert {path.stem for path in TASK_FILES.glob("*.yaml")} == {"base", *BENCHMARK_TASKS}
    for name, values in PUBLISHED.items():
        own = OmegaConf.load(TASK_FILES / f"{name}.yaml")
        assert own.pop("defaults") == ["base", "_self_"]
        merged = OmegaConf.merge(base, own)
        assert merged.name == name
        assert tuple(merged[key] for key in keys) == values
        assert all(OmegaConf.is_missing(base, key) or base[key] != own[key] for key in own)
