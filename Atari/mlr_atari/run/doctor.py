"""Whether a run would work here, and how long it would take: checks that both benchmarks share.

A check looks at the machine and says one line; a line that is not fine says what to do.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from omegaconf import DictConfig

from .folder import installed
from .sweep import GIGA, Estimate, free_disk, hours_text

_COLOURS = {"ok": "32", "note": "33", "wrong": "31"}
_LEAST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Line:
    """What a check found. `state`: ok, note (works, but could be better) or wrong (would fail)."""

    state: str
    name: str
    text: str
    remedy: str = ""


def report(lines: Sequence[Line], *, colour: bool) -> str:
    """The lines as text, each remedy below its line."""
    width = max(len(line.name) for line in lines)
    shown = []
    for line in lines:
        mark = f"{line.state:<5}"
        mark = f"\033[{_COLOURS[line.state]}m{mark}\033[0m" if colour else mark
        shown.append(f"{mark}  {line.name:<{width}}  {line.text}")
        if line.remedy:
            shown.append(f"{'':<7}{'':<{width}}  -> {line.remedy}")
    wrong = sum(line.state == "wrong" for line in lines)
    shown.append(f"a run would fail: {wrong} wrong" if wrong else "a run would work")
    return "\n".join(shown)


def exit_code(lines: Iterable[Line]) -> int:
    """1 if a run would fail."""
    return int(any(line.state == "wrong" for line in lines))


def python(requirements: Path, in_lock_step: Sequence[str]) -> list[Line]:
    """Python and the packages against the versions that were tested.

    Args:
        requirements: a file of `name==version` lines.
        in_lock_step: packages that fail with any other version.
    """
    version = platform.python_version()
    lines = [Line("ok", "Python", version)]
    if sys.version_info < _LEAST_PYTHON:
        lines = [Line("wrong", "Python", version, "install Python 3.11 or newer")]
    remedy = f"pip install -r {requirements.name}"
    others = []
    for name, tested in _pinned(requirements):
        found = installed(name)
        if found is None:
            lines.append(Line("wrong", name, "is not installed", remedy))
        elif found.partition("+")[0] != tested and name in in_lock_step:
            text = f"{found}, but only {tested} works"
            force = f"pip install --force-reinstall --no-deps {name}=={tested}"
            lines.append(Line("wrong", name, text, force))
        elif found.partition("+")[0] != tested:
            others.append(f"{name} {found} (tested: {tested})")
    if others:
        lines.append(Line("note", "packages", ", ".join(others), remedy))
    elif len(lines) == 1:
        lines.append(Line("ok", "packages", "the tested versions"))
    return lines


def gpu(device: str) -> Line:
    """Whether a GPU trains; `device` as in the configuration."""
    if device == "cpu":
        return Line("ok", "device", "cpu, as wanted")
    if torch.cuda.is_available():
        number = torch.device(device).index or 0 if device != "auto" else 0
        free, total = torch.cuda.mem_get_info(number)
        text = f"{torch.cuda.get_device_name(number)}, CUDA {torch.version.cuda}, "
        return Line("ok", "device", text + f"{free / GIGA:.1f} of {total / GIGA:.1f} GB free")
    if torch.version.cuda is None:
        remedy = "this PyTorch is built for the CPU; with a GPU: pip install a CUDA build of it"
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        remedy = "CUDA_VISIBLE_DEVICES hides every GPU; unset it"
    else:
        remedy = "see nvidia-smi: no driver, or no GPU"
    return Line("note", "device", "no GPU: the CPU trains; preset=laptop takes minutes", remedy)


def room(cfg: DictConfig, cost: Estimate) -> list[Line]:
    """Memory and disk against what the run needs, and the hours."""
    on_gpu = cfg.device != "cpu" and torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if on_gpu else psutil.virtual_memory().available
    where = "GPU memory" if on_gpu else "memory"
    less = "a smaller scale.batch_size, or end what else uses it"
    disk, other = free_disk(Path(cfg.runs_dir)), "free some, or choose another runs_dir="
    return [
        _enough(where, cost.memory, free, less),
        _enough("disk", cost.disk, disk, other),
        Line("ok", "time", f"about {hours_text(cost.hours)} at preset={cfg.preset}: {cost.basis}"),
    ]


def guarded(name: str, check: Callable[[], list[Line]], remedy: str) -> list[Line]:
    """A check of foreign libraries, which fail in more ways than one can name."""
    try:
        return check()
    except Exception as error:  # every one of them is what the doctor is asked about  # noqa: BLE001
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return [Line("wrong", name, text, remedy)]


def _enough(name: str, needed: float, free: float, remedy: str) -> Line:
    text = f"{free / GIGA:.2f} GB free, a run needs about {needed / GIGA:.2f} GB"
    return Line("ok", name, text) if free > needed else Line("wrong", name, text, remedy)


def _pinned(requirements: Path) -> list[tuple[str, str]]:
    lines = requirements.read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([\w.-]+)(?:\[[\w,]+\])?==([\w.]+)", line) for line in lines)
    return [(each[1], each[2]) for each in found if each]
