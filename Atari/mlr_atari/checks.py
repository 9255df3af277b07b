"""What the doctor asks of Atari: the ROMs, an emulator, and how fast it is."""

from __future__ import annotations

import time
from functools import partial

from omegaconf import DictConfig

from .build import settings_from
from .environment import EnvironmentSettings, make_environment
from .games import BENCHMARK_GAMES, rom_folder
from .run.doctor import Line
from .run.seeding import episode_seed

IN_LOCK_STEP: tuple[str, ...] = ()
REMEDY = "pip install -r requirements.txt, in a fresh environment"
_STEPS = 200


def roms(game: str) -> list[Line]:
    """The ROMs of the benchmark; only the game's own is needed."""
    folder = rom_folder()
    if folder is None:
        return [Line("wrong", "ROMs", "ale-py is not installed", REMEDY)]
    missing = [name for name in BENCHMARK_GAMES if not (folder / f"{name}.bin").exists()]
    if not missing:
        return [Line("ok", "ROMs", f"all {len(BENCHMARK_GAMES)} games of the benchmark")]
    text = f"{len(missing)} missing in {folder}: {', '.join(missing)}"
    remedy = "unset ALE_ROMS_DIR, or pip install --force-reinstall ale-py, which brings them"
    return [Line("wrong" if game in missing else "note", "ROMs", text, remedy)]


def environment(cfg: DictConfig) -> tuple[list[Line], float]:
    """Play a few steps of the game; returns also the seconds of an agent step."""
    settings = settings_from(EnvironmentSettings, cfg.environment)
    seeds = partial(episode_seed, cfg.seed, "train")
    name = cfg.game.name
    env = make_environment(name, settings, training=True, seed=cfg.seed, episode_seed=seeds)
    try:
        env.reset()
        start = time.perf_counter()
        for step in range(_STEPS):
            env.step(step % env.num_actions)
            if env.episode_over:
                env.reset()
        seconds = (time.perf_counter() - start) / _STEPS
    finally:
        env.close()
    rate = settings.frame_skip / seconds
    return [
        Line("ok", "emulator", f"{name}: {1 / seconds:,.0f} steps/s, {rate:,.0f} frames/s")
    ], seconds
