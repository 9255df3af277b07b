"""Would a run work on this machine, and how long would it take?

    python doctor.py                       the published setting
    python doctor.py preset=laptop         any words of train.py

Exit code 1 if a run would fail; each line that is wrong says what to do.
"""

import sys
from functools import partial

import numpy as np

from mlr_dmcontrol.cost import estimate
from mlr_dmcontrol.environment import PixelControlEnv
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.names import is_own
from mlr_dmcontrol.renderer import choose_renderer
from mlr_dmcontrol.run import doctor
from mlr_dmcontrol.run.doctor import Line
from mlr_dmcontrol.run.seeding import episode_seed
from mlr_dmcontrol.settings import Config, load

PAIRED = ("mujoco", "dm_control")  # versions of one go with one of the other


def simulator(cfg: Config) -> tuple[list[Line], float | None]:
    """The renderer that a run would use, and how fast it and the task are."""
    line, own, settings = renderer_line(cfg.uses_gpu), is_own(cfg.task.name), cfg.environment
    if line.state == "wrong" and not own:
        return [line], None
    seeds = partial(episode_seed, cfg.seed, "train")
    played, seconds = doctor.play(
        lambda: PixelControlEnv(cfg.task.name, settings, seeds),
        lambda env: np.zeros(env.action_dim, dtype=np.float32),
    )
    return [played] if own else [line, played], seconds


def renderer_line(on_gpu: bool) -> Line:
    """What draws the tasks of the suite."""
    try:
        renderer = choose_renderer(0 if on_gpu else None)
    except ConfigError as error:
        return doctor.refusal("renderer", error)
    if not renderer.software:
        return Line("ok", "renderer", str(renderer))
    remedy = "environment.fast_render=true (as in preset=laptop) draws faster, other pixels"
    if on_gpu:
        remedy = "install NVIDIA's EGL driver (libnvidia-gl), or mount it into the container"
    return Line("note", "renderer", str(renderer), remedy)


main = partial(
    doctor.main, about=__doc__, load=load, simulator=simulator, estimate=estimate, paired=PAIRED
)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
