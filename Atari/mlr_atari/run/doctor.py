"""Whether a run would work on this machine, and how long it would take: one line for each check.

A line that is not fine says what to do. What needs a simulator or the builders is handed in.
"""

import math
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from ..errors import RunError, SimulatorError
from .folder import installed, look
from .process import script
from .schema import RunSettings
from .sweep import GIGA, Estimate, existing, hours_text

_COLOURS = {"ok": "32", "note": "33", "wrong": "31"}


@dataclass(frozen=True)
class Line:
    """What a check says. `state`: ok, note (works, but could be better) or wrong (would fail)."""

    state: str
    name: str
    text: str
    remedy: str = ""


@script
def main(
    argv: Sequence[str],
    *,
    about: str,
    load: Callable[[Sequence[str]], RunSettings],
    simulator: Callable[[Any], tuple[list[Line], float | None]],
    estimate: Callable[[Any, float | None], Estimate],
    paired: Sequence[str] = (),
) -> int:
    """Look at everything, also after something was wrong; 1 if a run would fail.

    Args:
        about: what --help prints. load, estimate: as `train.py` has them.
        simulator: checks it; returns also the seconds of an agent step, if it can be played.
        paired: packages that fail with any other version than the tested one.
    """
    if {"-h", "--help"} & set(argv):
        print(about.strip())
        return 0
    lines = list(packages(paired))
    try:
        cfg = load(argv)
        lines.append(folder(cfg))
        checks, step_seconds = simulator(cfg)
        lines += [device(cfg.device), *checks, *room(cfg, estimate(cfg, step_seconds))]
    except RunError as error:
        lines.append(refusal("settings", error))
    width = max(len(line.name) for line in lines)
    for line in lines:
        colour = f"\033[{_COLOURS[line.state]}m", "\033[0m"
        before, after = colour if sys.stdout.isatty() else ("", "")
        print(f"{before}{line.state:<5}{after}  {line.name:<{width}}  {line.text}")
        if line.remedy:
            print(f"{'':<7}{'':<{width}}  -> {line.remedy}")
    wrong = any(line.state == "wrong" for line in lines)
    print("a run would fail" if wrong else "a run would work")
    return int(wrong)


def packages(paired: Sequence[str]) -> Iterator[Line]:
    """Python, and the packages that are not as tested."""
    yield Line("ok", "Python", f"{platform.python_version()}; 3.11 to 3.13 are tested")
    text = (Path(__file__).parents[2] / "requirements.txt").read_text(encoding="utf-8")
    for name, tested in re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([\w.]+)", text, re.MULTILINE):
        version, remedy = installed(name), "pip install -r requirements.txt, in a new environment"
        if (version or "").partition("+")[0] != tested:
            state = "note" if version and name not in paired else "wrong"
            yield Line(state, name, f"{version} instead of {tested}, which is tested", remedy)


def folder(cfg: RunSettings) -> Line:
    """Whether the run could begin or go on in its folder."""
    path = cfg.path
    state, detail = look(path, asdict(cfg), cfg.resume)
    if state == "refused":
        return refusal("folder", detail)
    if state == "running":
        return Line("wrong", "folder", f"{path}: {detail} uses it", "wait, or tag=<word>")
    try:
        tempfile.TemporaryFile(dir=existing(path)).close()
    except OSError as error:
        return Line("wrong", "folder", f"{path}: {error}", "another tag= or runs_dir=")
    return Line("ok", "folder", f"{path}: {state}")


def device(name: str) -> Line:
    """What trains; `name` as in the configuration."""
    if name == "cpu":
        return Line("ok", "device", "cpu, as wanted")
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name(0 if name == "auto" else torch.device(name))
        return Line("ok", "device", f"{gpu}, CUDA {torch.version.cuda}")
    text = "no GPU: the CPU trains; preset=laptop takes minutes"
    hidden = f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')}"
    remedy = f"see nvidia-smi, and whether PyTorch {torch.__version__} is for CUDA; {hidden}"
    return Line("note", "device", text, remedy)


def play(make: Callable[[], Any], act: Callable[[Any], Any]) -> tuple[Line, float | None]:
    """Play in an environment for a second; returns also the seconds of an agent step."""
    try:
        env, steps, seconds = make(), 0, 0.0
        env.reset()
        start = time.perf_counter()
        while seconds < 1:
            env.step(act(env))
            if env.episode_over:
                env.reset()
            steps, seconds = steps + 1, time.perf_counter() - start
        env.close()
    except SimulatorError as error:  # a run bears it
        return replace(refusal("simulator", error), state="note"), None
    except Exception as error:  # noqa: BLE001 - foreign libraries fail in ways nobody can name
        return refusal("simulator", error if isinstance(error, RunError) else repr(error)), None
    return Line("ok", "simulator", f"{steps / seconds:,.0f} agent steps a second"), seconds / steps


def refusal(name: str, error: RunError | str) -> Line:
    """An error as a line; its remedy is what follows the last semicolon."""
    text, _, remedy = " ".join(str(error).split()).rpartition("; ")
    return Line("wrong", name, text or remedy, remedy if text else "see its traceback in train.py")


def room(cfg: RunSettings, cost: Estimate) -> Iterator[Line]:
    """Memory and disk against what the run needs, and the hours."""
    place, disk = "GPU memory" if cfg.uses_gpu else "memory", existing(Path(cfg.runs_dir))
    for name, needed, free, remedy in (
        (place, cost.memory, memory(cfg.uses_gpu)[0], "a smaller scale.batch_size"),
        ("disk", cost.disk, shutil.disk_usage(disk).free, "free some, or another runs_dir="),
    ):
        text = f"{free / GIGA:.2f} GB free, a run needs about {needed / GIGA:.2f} GB"
        yield Line("ok", name, text) if free > needed else Line("wrong", name, text, remedy)
    yield Line("ok", "time", f"{hours_text(cost.hours)} at preset={cfg.preset}: {cost.basis}")


def memory(of_gpu: bool) -> tuple[float, float]:
    """Bytes free and in all: of the GPU, or of this machine, or of the container around us."""
    if of_gpu:
        free, total = torch.cuda.mem_get_info()
        return float(free), float(total)
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    machine, ours = psutil.virtual_memory(), math.inf if text == "max" else float(text)
    return min(machine.available, ours), min(machine.total, ours)
