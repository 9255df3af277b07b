"""Would a run work on this machine, and how long would it take?

    python doctor.py                       the published setting
    python doctor.py preset=laptop         any words of train.py

Exit code 1 if a run would fail; each line that is wrong says what to do.
"""

import sys
from functools import partial
from itertools import cycle

from mlr_atari.cost import estimate
from mlr_atari.environment import GameEnv
from mlr_atari.games import BENCHMARK_GAMES, rom_folder
from mlr_atari.run import doctor
from mlr_atari.run.doctor import Line
from mlr_atari.run.seeding import episode_seed
from mlr_atari.settings import Config, load


def simulator(cfg: Config) -> tuple[list[Line], float | None]:
    """The ROMs of the benchmark, of which only the game's own is needed, and how fast it is."""
    name, folder = cfg.game.name, rom_folder()
    missing = [
        game for game in BENCHMARK_GAMES if not folder or not (folder / f"{game}.bin").exists()
    ]
    line = Line("ok", "ROMs", f"all {len(BENCHMARK_GAMES)} games of the benchmark")
    if missing:
        remedy = "unset ALE_ROMS_DIR, or pip install --force-reinstall ale-py, which brings them"
        text = f"{len(missing)} missing in {folder}: {', '.join(missing)}"
        line = Line("wrong" if name in missing else "note", "ROMs", text, remedy)
    settings = cfg.environment
    seeds, actions = partial(episode_seed, cfg.seed, "train"), cycle(range(18))
    played, seconds = doctor.play(
        partial(GameEnv, name, settings, training=True, seed=cfg.seed, episode_seed=seeds),
        lambda env: next(actions) % env.num_actions,
    )
    return [line, played], seconds


main = partial(doctor.main, about=__doc__, load=load, simulator=simulator, estimate=estimate)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
