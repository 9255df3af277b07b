"""Choice of the OpenGL renderer; call `choose_renderer` before dm_control is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass

from .errors import ConfigError

_BACKENDS = ("egl", "osmesa", "glfw")
_PACKAGES = (
    "install a renderer: `apt-get install libegl1 libgl1` (EGL: GPU, or Mesa without one) "
    "or `apt-get install libosmesa6` (OSMesa)"
)
# Runs in a process of its own: a driver may crash, and PyOpenGL is bound to its first platform.
_PROBE = """
import mujoco
context = mujoco.GLContext(16, 16)
context.make_current()
from OpenGL import GL
name = GL.glGetString(GL.GL_RENDERER)
if name is None:
    raise SystemExit("no OpenGL context; is there a display?")
print(name.decode())
context.free()
"""


@dataclass(frozen=True)
class Renderer:
    """A renderer that was seen to work: `egl`, `osmesa` or `glfw`, and its GL_RENDERER string."""

    backend: str
    name: str

    @property
    def software(self) -> bool:
        """Whether the CPU draws, at tens of frames a second instead of hundreds."""
        return re.search("llvmpipe|softpipe|swrast|software", self.name, re.I) is not None

    def __str__(self) -> str:
        kind = ", software: no GPU draws" if self.software else ""
        return f"{self.backend} ({self.name}{kind})"


def choose_renderer(gpu: int | None = None) -> Renderer:
    """Find a renderer that works and make it the one of this process and its children.

    The user's MUJOCO_GL is taken as it is; else EGL, else OSMesa. Sets MUJOCO_GL,
    PYOPENGL_PLATFORM and, unless the user did, MUJOCO_EGL_DEVICE_ID. Takes about half a second.

    Args:
        gpu: index of the CUDA device that trains; EGL then draws on the same one.

    Raises:
        ConfigError: none works, or the user's does not.
    """
    for variable in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID"):
        if not os.environ.get(variable):
            os.environ.pop(variable, None)  # set to nothing is not set
    wanted = os.environ.get("MUJOCO_GL")
    if wanted is not None and wanted.lower() not in _BACKENDS:
        raise ConfigError(
            f"MUJOCO_GL={wanted}: does not draw pixels; use egl, osmesa or glfw, or leave it unset"
        )
    problems = {}
    for backend in ("egl", "osmesa") if wanted is None else (wanted.lower(),):
        for settings in _environments(backend, gpu):
            name, problems[backend] = _probe(settings)
            if name is not None:
                os.environ.update(settings)
                return Renderer(backend, name)
    reasons = "; ".join(f"{backend}: {problem}" for backend, problem in problems.items())
    if wanted is not None:
        raise ConfigError(
            f"MUJOCO_GL={wanted}: does not work here ({reasons}); unset it, or {_PACKAGES}"
        )
    raise ConfigError(f"renderer: neither EGL nor OSMesa works here ({reasons}); {_PACKAGES}")


def _environments(backend: str, gpu: int | None) -> list[dict[str, str]]:
    """Environment variables to try for a backend, best first."""
    if backend == "glfw":
        return [{"MUJOCO_GL": backend}]
    settings = {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    if backend == "osmesa" or gpu is None or "MUJOCO_EGL_DEVICE_ID" in os.environ:
        return [settings]
    # CUDA counts visible devices, EGL all of them. Where a container shows EGL other devices than
    # CUDA, the first that works is second choice.
    visible = dict(enumerate(os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")))
    device = visible.get(gpu, "").strip()
    return [settings | {"MUJOCO_EGL_DEVICE_ID": device if device.isdigit() else str(gpu)}, settings]


def _probe(settings: dict[str, str]) -> tuple[str | None, str]:
    """GL_RENDERER under these environment variables, or None and what went wrong."""
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return None, "no answer within a minute"
    if probe.returncode == 0:
        return probe.stdout.strip(), ""
    return None, (probe.stderr.strip().splitlines() or ["no message"])[-1]
