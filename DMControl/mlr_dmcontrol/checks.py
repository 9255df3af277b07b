"""What the doctor asks of DMControl: a renderer, a simulator, and how fast both are."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from omegaconf import DictConfig

from .build import settings_from
from .environment import EnvironmentSettings, PixelControlEnv
from .errors import ConfigError
from .renderer import choose_renderer
from .run.doctor import Line
from .run.seeding import episode_seed

IN_LOCK_STEP = ("mujoco", "dm_control")
REMEDY = "pip install -r requirements.txt, in a fresh environment"
_STEPS = 20


def renderer(gpu: int | None) -> list[Line]:
    """The OpenGL renderer that a run would use; it becomes the one of this process."""
    try:
        found = choose_renderer(gpu)
    except ConfigError as error:
        text, _, remedy = str(error).rpartition("; ")
        return [Line("wrong", "renderer", text, remedy)]
    if found.software and gpu is not None:
        remedy = "install NVIDIA's EGL driver (libnvidia-gl), or mount it into the container"
        return [Line("note", "renderer", f"{found}: the GPU does not draw", remedy)]
    if found.software:
        remedy = "environment.fast_render=true (as in preset=laptop) draws faster, other pixels"
        return [Line("note", "renderer", str(found), remedy)]
    return [Line("ok", "renderer", str(found))]


def environment(cfg: DictConfig) -> tuple[list[Line], float]:
    """Play a few steps of the task; returns also the seconds of an agent step."""
    settings = settings_from(EnvironmentSettings, cfg.environment)
    env = PixelControlEnv(cfg.task.name, settings, partial(episode_seed, cfg.seed, "train"))
    try:
        env.reset()
        start = time.perf_counter()
        for _ in range(_STEPS):
            env.step(np.zeros(env.action_dim, dtype=np.float32))
            if env.episode_over:
                env.reset()
        seconds = (time.perf_counter() - start) / _STEPS
    finally:
        env.close()
    text = f"{cfg.task.name}: {1 / seconds:,.0f} frames/s of {settings.image_size} pixels"
    return [Line("ok", "simulator", text)], seconds
