"""Measures what checkpoints cost: bytes, seconds, and their share of the time of training."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from omegaconf import DictConfig

from ..parts import build_parts
from ..run import records
from ..run.checkpoint import Checkpointer, Stateful
from . import measure
from .measure import Row
from .workload import Workload


def row(cfg: DictConfig, saves: int) -> Row:
    """Cost of a checkpoint of a run of these sizes, written to the disk of `runs_dir`.

    Seconds are those of the fastest of `saves` saves, each after new random frames, because
    whatever else the machine does only adds to them.
    """
    device = records.prepare(cfg)
    runs = Path(cfg.runs_dir)
    runs.mkdir(parents=True, exist_ok=True)
    with build_parts(cfg, device) as parts, tempfile.TemporaryDirectory(dir=runs) as folder:
        workload = Workload(cfg, parts)
        workload.environment_step()
        workload.update_block()  # the optimisers' moments are there
        return measure.described(workload) | _saved(workload, Path(folder), saves)


def _saved(workload: Workload, folder: Path, saves: int) -> Row:
    state: dict[str, Stateful] = {
        "agent": workload.agent,
        "replay": workload.replay,
        "environment": workload.env,
        "streams": workload.streams,
    }
    checkpointer, replay = Checkpointer(folder), workload.replay
    wall, cpu = [], []
    for number in range(saves + 1):
        start = time.perf_counter(), time.process_time()
        path = checkpointer.save(number, state, replay, required=True)
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
        before = replay.frames_written
        workload.fill()
        added = replay.frames_written - before
    assert path is not None  # required
    newest = replay.frames_written
    interval = 60 * workload.cfg.checkpoint.every_minutes
    seconds = min(wall[1:])  # the first save makes folders
    return {
        "saves": saves,
        "agent_bytes": (path / "agent.pt").stat().st_size,
        "replay_bytes_without_frames": (path / "replay.pt").stat().st_size,
        "bytes_per_new_frame": replay.read_frames(newest - 1, newest).nbytes,
        "new_frames_per_save": added,
        "seconds_per_save": seconds,
        "cpu_seconds_per_save": min(cpu[1:]),
        "minutes_between_saves": workload.cfg.checkpoint.every_minutes,
        "share_of_training": seconds / interval if interval else None,
    }
