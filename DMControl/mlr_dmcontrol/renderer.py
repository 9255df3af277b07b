"""Choice of the OpenGL renderer; call `choose_renderer` before dm_control is imported."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import ConfigError

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

    The user's MUJOCO_GL is taken as it is; else EGL, on the CUDA device of index `gpu`, else
    OSMesa. Sets the environment variables that say so. Raises: ConfigError: none works.
    """
    for variable in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID"):
        if not os.environ.get(variable):
            os.environ.pop(variable, None)  # set to nothing is not set
    wanted = os.environ.get("MUJOCO_GL")
    problems = []
    for backend in (wanted.lower(),) if wanted else ("egl", "osmesa"):
        for settings in _environments(backend, gpu):
            works, answer = _probe(settings)
            if works:
                os.environ.update(settings)
                return Renderer(backend, answer)
        problems.append(f"{backend}: {answer}")
    raise ConfigError(
        f"MUJOCO_GL={wanted or 'egl or osmesa'}: does not work here ({'; '.join(problems)}); use "
        "egl or osmesa, and install `apt-get install libegl1 libgl1` (EGL: GPU, or Mesa without "
        "one) or `apt-get install libosmesa6` (OSMesa)"
    )


def _environments(backend: str, gpu: int | None) -> Iterator[dict[str, str]]:
    """Environment variables to try for a backend, best first."""
    settings = {"MUJOCO_GL": backend}
    if backend in ("egl", "osmesa"):
        settings["PYOPENGL_PLATFORM"] = backend
    if backend == "egl" and gpu is not None and "MUJOCO_EGL_DEVICE_ID" not in os.environ:
        # CUDA counts visible devices, EGL all of them. Where a container shows EGL other devices
        # than CUDA, the first that works is second choice.
        visible = dict(enumerate(os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")))
        device = visible.get(gpu, "").strip()
        yield settings | {"MUJOCO_EGL_DEVICE_ID": device if device.isdigit() else str(gpu)}
    yield settings


def _probe(settings: dict[str, str]) -> tuple[bool, str]:
    """Whether they work, and GL_RENDERER or what went wrong."""
    command, environment = [sys.executable, "-c", _PROBE], os.environ | settings
    try:
        probe = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
    except subprocess.TimeoutExpired:
        return False, "no answer within a minute"
    except subprocess.CalledProcessError as error:
        return False, (error.stderr.strip().splitlines() or ["no message"])[-1]
    return True, probe.stdout.strip()
