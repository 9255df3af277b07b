"""The renderer is seen to work before it is chosen; each case in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlr_dmcontrol import renderer

TREE = Path(__file__).resolve().parents[1]
RENDERING = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID", "CUDA_VISIBLE_DEVICES")
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


def run(**settings: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in RENDERING}
    command = [sys.executable, "-c", CHOOSE]
    return subprocess.run(command, env=clean | settings, cwd=TREE, capture_output=True, text=True)


def test_egl_is_taken_if_nothing_is_said_and_is_what_draws() -> None:
    result = run(**dict.fromkeys(RENDERING[:3], ""))
    assert result.returncode == 0, result.stderr
    backend, gl, platform, software = result.stdout.split()
    assert backend == gl == platform
    assert backend == "egl" or (backend, software) == ("osmesa", "True")


def test_osmesa_is_second_choice_or_the_users() -> None:
    chosen = run(MUJOCO_GL="osmesa")
    if chosen.returncode != 0:
        pytest.skip("no libosmesa6")
    assert chosen.stdout.split() == ["osmesa", "osmesa", "osmesa", "True"]
    assert run(**NO_EGL).stdout == chosen.stdout


@pytest.mark.parametrize("value", ["direct3d", "glfw"])
def test_a_users_choice_that_cannot_be(value: str) -> None:
    result = run(MUJOCO_GL=value, DISPLAY="")
    assert f"ConfigError: MUJOCO_GL={value}: does not work here" in result.stderr


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
    environments = renderer._environments("egl", gpu)
    assert [names.get("MUJOCO_EGL_DEVICE_ID") for names in environments] == tried
