"""The renderer is seen to work before it is chosen; each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlr_dmcontrol import renderer

TREE = Path(__file__).resolve().parents[1]
RENDERING = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID", "CUDA_VISIBLE_DEVICES")


def run(code: str, **settings: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in RENDERING}
    return subprocess.run(
        [sys.executable, "-c", code], env=clean | settings, cwd=TREE, capture_output=True, text=True
    )


CHOOSE = """
import os
from mlr_dmcontrol.renderer import choose_renderer
renderer = choose_renderer()
print(renderer.backend, os.environ["MUJOCO_GL"], os.environ["PYOPENGL_PLATFORM"], renderer.software)
from mlr_dmcontrol.environment import EnvironmentSettings, PixelControlEnv
sizes = {"image_size": 16, "frame_stack": 1, "action_repeat": 1, "camera_id": 0}
env = PixelControlEnv("cartpole_swingup", EnvironmentSettings(**sizes, fast_render=True))
assert env.identity()["renderer"] == str(renderer), env.identity()
env.close()
"""
NO_EGL = {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere.json"}  # libEGL then finds no driver


@pytest.mark.parametrize("said", [{}, dict.fromkeys(RENDERING[:3], "")], ids=["none", "empty"])
def test_egl_is_taken_if_nothing_is_said_and_is_what_draws(said: dict[str, str]) -> None:
    result = run(CHOOSE, **said)
    assert result.returncode == 0, result.stderr
    backend, gl, platform, software = result.stdout.split()
    assert backend == gl == platform
    assert backend == "egl" or (backend, software) == ("osmesa", "True")


def test_osmesa_is_second_choice_or_the_users() -> None:
    chosen = run(CHOOSE, MUJOCO_GL="osmesa")
    if chosen.returncode != 0:
        pytest.skip("no libosmesa6")
    assert chosen.stdout.split() == ["osmesa", "osmesa", "osmesa", "True"]
    assert run(CHOOSE, **NO_EGL).stdout == chosen.stdout


def test_no_renderer_is_one_error_that_says_what_to_install(tmp_path: Path) -> None:
    for number in (6, 8):  # found before the real library, and not one
        (tmp_path / f"libOSMesa.so.{number}").touch()
    result = run(CHOOSE, LD_LIBRARY_PATH=str(tmp_path), **NO_EGL)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("mlr_dmcontrol.errors.ConfigError: renderer: ")
    assert "libegl1 libgl1" in last
    assert "libosmesa6" in last


@pytest.mark.parametrize(
    "value, reason", [("direct3d", "does not draw pixels"), ("glfw", "does not work here")]
)
def test_a_users_choice_that_cannot_be(value: str, reason: str) -> None:
    result = run(CHOOSE, MUJOCO_GL=value, DISPLAY="")
    assert f"ConfigError: MUJOCO_GL={value}: {reason}" in result.stderr


@pytest.mark.parametrize(
    "gpu, settings, tried",
    [
        (None, {}, [None]),
        (1, {}, ["1", None]),
        (1, {"CUDA_VISIBLE_DEVICES": "2,5"}, ["5", None]),
        (0, {"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}, ["0", None]),
        (1, {"MUJOCO_EGL_DEVICE_ID": "3"}, [None]),  # stays as the user set it
    ],
)
def test_egl_draws_on_the_gpu_that_trains(
    gpu: int | None,
    settings: dict[str, str],
    tried: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in RENDERING:
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    found = [names.get("MUJOCO_EGL_DEVICE_ID") for names in renderer._environments("egl", gpu)]
    assert found == tried
