"""Scores the encoders of runs and gathers what came of it in one folder; `probe.py` calls it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..build import agent_for, set_up_process
from ..errors import ConfigError, RunError
from ..report import plots
from ..run.checkpoint import Checkpoint, agent_checkpoint
from ..run.disk import write_atomically
from ..run.schema import plain
from ..settings import Config, of_run
from . import figures, world
from .linear import MIN_EPISODES, Split, principal_components, readout, split_by_episode
from .recording import Episodes, record

Row = dict[str, Any]

_BATCH = 256  # images at a time
_PICTURES = 1000  # that components are computed from, and at least one more than components
_WORDS = {"subject": str, "preset": str, "method": str, "data": str, "variable": str}  # in files


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line.

    Raises:
        ConfigError: a number that is too small, or nothing to probe.
    """
    if "--objective-alone" in argv:
        raise ConfigError(
            "--objective-alone: is a run like any other now; train it by train.py "
            "agent.rl=false tag=alone, and probe its folder"
        )
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("runs", nargs="*", type=Path, metavar="RUN", help="folders of runs")
    add("--out", type=Path, default=Path("results/probe"), help="folder of results")
    add("--episodes", type=int, default=20, help="to probe on (20)")
    add("--steps", type=int, default=200, help="samples of an episode (200)")
    add("--seed", type=int, default=0, help="of the episodes (0)")
    add("--cache", type=Path, default=Path("runs/.probe"), help="their folder")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    options = parser.parse_args(argv)
    if not options.runs:
        raise ConfigError("RUN: give the folder of at least one run; see --help")
    if options.episodes < MIN_EPISODES or options.steps < 1:
        raise ConfigError(f"--episodes, --steps: at least {MIN_EPISODES} and 1")
    return options


def main(argv: Sequence[str]) -> int:
    """Exit code 0, or that of what went wrong: 2 where something cannot be probed."""
    try:
        probe(parse(argv))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def probe(options: argparse.Namespace) -> None:
    """Probe runs, write files, print the table.

    Raises:
        ConfigError: no run, no checkpoint, or other episodes than before.
    """
    configurations = [of_run(run, device=options.device) for run in options.runs]
    chosen = Episodes(options.episodes, options.steps, options.seed)
    rows: list[Row] = []
    signs: list[pd.DataFrame] = []
    for run, cfg in zip(options.runs, configurations, strict=True):
        facts = facts_of(cfg)
        rows += [facts | row for row in scored(cfg, newest(run, cfg), chosen, options.cache)]
        signs.append(signs_of_collapse(run, cfg.agent.objective).assign(**facts))
    scores = merged(options.out / "probe.csv", pd.DataFrame(rows))
    collapse = merged(options.out / "collapse.csv", pd.concat(signs))
    plots.save(figures.scores(scores), options.out / "probe")
    if len(collapse):
        plots.save(figures.collapse(collapse), options.out / "collapse")
    text = figures.table(scores).to_markdown(index=False, disable_numparse=True)
    (options.out / "probe.md").write_text(f"{text}\n", encoding="utf-8")
    print(text)
    print(f"written to {options.out}: probe.csv, probe.png, probe.md, collapse.csv, collapse.png")


def newest(run: Path, cfg: Config) -> Checkpoint:
    """The newest checkpoint, with the agent's state.

    Raises:
        ConfigError: there is none.
        CheckpointError: none can be used.
    """
    checkpoint = agent_checkpoint(run, plain(cfg))
    if not (run / "final.json").is_file():
        warning = f"{run} is not finished; its checkpoint of step {checkpoint.step} is used"
        print(f"warning: {warning}", file=sys.stderr)
    return checkpoint


def facts_of(cfg: Config) -> Row:
    """Which run a row is of; ` alone` stands behind a method that was trained without RL."""
    alone = not cfg.agent.rl
    tag = "" if alone and cfg.tag == "alone" else cfg.tag
    method = (f"{cfg.agent.name}-{tag}" if tag else cfg.agent.name) + figures.ALONE * alone
    return {"subject": cfg.subject, "preset": cfg.preset, "method": method, "seed": cfg.seed}


def signs_of_collapse(run: Path, objective: str | None) -> pd.DataFrame:
    """`update` and `figures.SIGNS` along a run's train.csv; no rows without an objective."""
    names = {f"{objective}/{sign}": sign for sign in figures.SIGNS}
    names |= {"update_step": "update", f"loss/{objective}": "loss"}
    rows = pd.read_csv(run / "train.csv").rename(columns=names)
    return rows.reindex(columns=["update", *figures.SIGNS]).dropna(subset="loss")


def merged(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Add `rows` to the file in place of those of the same runs; everything that is then in it.

    Raises:
        ConfigError: the file holds scores on other episodes.
    """
    key = [*figures.PLACE, "method", "seed"]
    if path.is_file():
        before = pd.read_csv(path, dtype=_WORDS)
        new = pd.MultiIndex.from_frame(rows[key])
        rows = pd.concat([before[~pd.MultiIndex.from_frame(before[key]).isin(new)], rows])
    if "data" in rows and (rows.groupby([*figures.PLACE])["data"].nunique() > 1).any():
        raise ConfigError(f"{path}: holds scores on other episodes; choose another --out")
    rows = rows.sort_values(key, kind="stable", ignore_index=True)
    rows = rows[[*key, *rows.columns.difference(key, sort=False)]]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, rows.to_csv(index=False, float_format="%.6g", na_rep="nan"))
    return rows


def scored(cfg: Config, checkpoint: Checkpoint, chosen: Episodes, folder: Path) -> list[Row]:
    """A row for each variable: R² of the agent's latents, of untrained ones and of pixels.

    Args: `checkpoint`: with the agent's state. `folder`: where episodes are kept.

    Raises:
        ConfigError: nothing changes in these episodes.
    """
    device = set_up_process(cfg)
    with closing(world.environment_of(cfg)) as env:
        recording = record(cfg, env, chosen, folder)
        agent, untrained = (agent_for(cfg, env, device) for _ in range(2))
    checkpoint.restore("agent", agent)
    split = split_by_episode(recording.episodes)
    images = world.seen(agent, torch.from_numpy(recording.observations))
    latents, before = (
        np.concatenate([world.latents(each, part).numpy() for part in images.split(_BATCH)])
        for each in (agent, untrained)
    )
    width = latents.shape[1]
    features = {"r2": latents, "untrained": before, "pca": _components(images, split, width)}
    scores = {key: readout(each, recording.labels, split) for key, each in features.items()}
    facts = {"updates": agent.update_step, "dimensions": width, "data": recording.key}
    return [
        facts | {"variable": name} | {key: float(each[i]) for key, each in scores.items()}
        for i, name in enumerate(recording.names)
    ]


def _components(images: Tensor, split: Split, width: int) -> NDArray[np.float32]:
    """Coordinates (N, `width`) along the principal components of the training episodes' pixels."""
    train = np.flatnonzero(split.train)
    count = min(max(_PICTURES, width + 1), len(train))
    few = train[np.linspace(0, len(train) - 1, count).astype(np.int64)]
    mean, directions = principal_components(_flat(images[torch.from_numpy(few)]), width)
    return np.concatenate([(_flat(part) - mean) @ directions for part in images.split(_BATCH)])


def _flat(images: Tensor) -> NDArray[np.float32]:
    """uint8 (N, C, H, W) -> (N, C*H*W) in 0..1."""
    return (images.flatten(1).float() / 255.0).numpy()
