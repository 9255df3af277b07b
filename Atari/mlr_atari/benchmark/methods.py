"""README.md's table of methods: what each one costs beside MLR, and what it scored when published.

Parameters and operations are those of the published sizes, counted without computing an update.
Seconds are measured, on this machine and at the sizes that are asked for, in turn for all methods.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from .. import markdown, protocol
from ..estimate import agent_cost
from ..parts import build_parts
from ..report import published
from ..run import records
from ..run.config import LAYOUT
from ..run.folder import write_atomically
from .workload import Workload

Load = Callable[[Sequence[str]], DictConfig]
Row = dict[str, Any]

FLAG = "--methods"
BLOCK = "methods"
HOW = "*Made by `python benchmark.py --methods`.*"

_REFERENCE = "mlr"
_METRICS = {"iqm": "IQM", "median": "median", "mean": "mean"}
# What published tables call a method of ours; a suffix `_published` changes settings only.
_PUBLISHED_AS = {
    "mlr_official": "mlr",
    "rainbow": "mlr_baseline",
    "sac": "mlr_baseline",
    "sac_plain": "sac_pixel",
}
_ROUNDS = 5  # of timed updates, in each of which every method has its turn


def refresh(argv: Sequence[str], load: Load, folder: Path) -> None:
    """Measure every method and write the table into README.md.

    Args:
        argv: words for the configuration whose updates are timed; preset laptop if none says.
        load: reads a configuration. folder: of the tree, with its README.md.

    Raises:
        ConfigError: a wrong word, or README.md lacks the markers.
    """
    words = [word for word in argv if word != FLAG]
    if not any(word.startswith("preset=") for word in words):
        words.append("preset=laptop")
    readme, names = folder / "README.md", methods()
    markdown.replaced(readme.read_text(encoding="utf-8"), BLOCK, "")  # before anything is measured
    rows = [costs(name, load) for name in names]
    seconds, where = time_updates([load([*words, f"agent={name}"]) for name in names])
    rows = [row | {"seconds": each} for row, each in zip(rows, seconds, strict=True)]
    block = f"{HOW}\n\n{table(rows)}\n\n{note(where)}"
    text = markdown.replaced(readme.read_text(encoding="utf-8"), BLOCK, block)
    write_atomically(readme, text)
    print(block)


def methods() -> list[str]:
    """All agents, those of the report first and in its order."""
    known = LAYOUT.options("agent")
    first = [name for name in protocol.METHODS if name in known]
    return [*first, *(name for name in known if name not in first)]


def costs(name: str, load: Load) -> Row:
    """Parameters and operations of a method at the published sizes, and its published scores."""
    cfg = load([f"agent={name}", "preset=paper", "device=cpu"])
    parameters, flops = agent_cost(cfg)
    source = _PUBLISHED_AS.get(name, name.removesuffix("_published"))
    found = published.aggregates(protocol.PUBLISHED_BENCHMARKS[0], source, protocol.TASKS)
    scores = {metric: found[metric].value for metric in _METRICS if metric in found}
    return {"method": name, "parameters": parameters, "flops": flops, **scores}


def time_updates(configurations: Sequence[DictConfig]) -> tuple[list[float], str]:
    """Seconds of a mean update of each configuration, and what was measured where.

    On a CPU these are seconds of processor time, which other programs hardly change.
    """
    device = records.prepare(configurations[0])
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    with ExitStack() as stack:
        parts = [stack.enter_context(build_parts(cfg, device)) for cfg in configurations]
        loads = [Workload(cfg, each) for cfg, each in zip(configurations, parts, strict=True)]
        seconds: list[list[float]] = [[] for _ in loads]
        for _ in range(_ROUNDS + 1):
            for found, load in zip(seconds, loads, strict=True):
                start = clock()
                load.update_block()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                found.append((clock() - start) / load.block)
    where = f"preset {configurations[0].preset}, {records.hardware(device)}"
    return [float(np.median(found[1:])) for found in seconds], where


def table(rows: Sequence[Row]) -> str:
    """Markdown; costs beside those of MLR."""
    (reference,) = (row for row in rows if row["method"] == _REFERENCE)
    metrics = [metric for metric in _METRICS if any(metric in row for row in rows)]
    titles = [f"published {_METRICS[metric]}" for metric in metrics]
    header = ("`agent=`", "parameters", "× mlr", "GFLOP/update", "× mlr", "ms/update", "× mlr")
    lines = []
    for row in rows:
        shown = [f"`{row['method']}`"]
        for key, scale in (("parameters", 1e6), ("flops", 1e9), ("seconds", 1e-3)):
            unit = " M" if key == "parameters" else ""
            shown += [f"{_number(row[key] / scale)}{unit}", f"{row[key] / reference[key]:.2f}"]
        shown += [f"{row[metric]:.3f}" if metric in row else "–" for metric in metrics]
        lines.append(shown)
    return markdown.table((*header, *titles), lines, numbers=True)


def note(where: str) -> str:
    """What the columns mean."""
    return (
        "Parameters and operations (matrix products, convolutions, attention) are those of the "
        "published sizes and the largest set of actions; milliseconds an update were measured at "
        f"{where}, as time of the processor on a CPU. Scores are the published ones, "
        f"{protocol.NORMALIZED_NAME}, of the method's own code and settings; `*_official` and "
        "`*_published` repeat the method's."
    )


def _number(value: float) -> str:
    """Three digits that count, never with an exponent."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"
