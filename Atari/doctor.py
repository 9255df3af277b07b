"""Would a run work on this machine, and how long would it take?

    python doctor.py                       the published setting
    python doctor.py preset=laptop         any words of train.py

Exit code 1 if a run would fail; each line that is wrong says what to do.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mlr_atari import checks
from mlr_atari.errors import RunError
from mlr_atari.estimate import STEP_SECONDS, estimate
from mlr_atari.run import doctor
from mlr_atari.settings import load

REQUIREMENTS = Path(__file__).resolve().parent / "requirements.txt"


def main(argv: Sequence[str]) -> int:
    """Look at everything, also after something was wrong; 1 if a run would fail."""
    lines = doctor.python(REQUIREMENTS, checks.IN_LOCK_STEP)
    try:
        cfg = load(argv)
    except RunError as error:
        lines.append(doctor.Line("wrong", "settings", str(error)))
    else:
        seconds = STEP_SECONDS
        lines.append(doctor.gpu(cfg.device))
        lines += checks.roms(cfg.game.name)

        def play() -> list[doctor.Line]:
            nonlocal seconds
            found, seconds = checks.environment(cfg)
            return found

        if lines[-1].state != "wrong":
            lines += doctor.guarded("emulator", play, checks.REMEDY)
        lines += doctor.room(cfg, estimate(cfg, seconds))
    print(doctor.report(lines, colour=sys.stdout.isatty()))
    return doctor.exit_code(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
