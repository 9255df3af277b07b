"""Scores the encoders of runs and gathers what came of it in one folder; `probe.py` calls it."""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ..build import agent_for, set_up_process
from ..errors import ConfigError, StorageError
from ..policy import load_policy
from ..report import plots, runs
from ..run.checkpoint import Checkpoint, agent_checkpoint
from ..run.disk import one_line, read_text, write_atomically
from ..run.process import script, typed_path
from ..run.schema import plain
from ..settings import Config, of_run
from . import figures, world
from .linear import MIN_EPISODES, components, readout, split_by_episode
from .recording import REWARD, Episodes, record

_BATCH = 256  # images at a time
_KEY = [*figures.PLACE, "method", "seed"]  # of a run, in files
_WORDS = dict.fromkeys((*figures.PLACE, "method", "data", "target", "variable"), str)  # in files


class Run(NamedTuple):
    """A run that is probed."""

    folder: Path
    cfg: Config
    facts: dict[str, Any]  # the columns `_KEY`, and `score`: NaN before it has ended

    @property
    def place(self) -> tuple[Any, ...]:
        """Task and size, within which encoders are compared."""
        return tuple(self.facts[name] for name in figures.PLACE)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line.

    Raises:
        ConfigError: a number that is too small, or nothing to probe.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("runs", nargs="*", type=typed_path, metavar="RUN", help="folders of runs")
    add("--out", type=typed_path, default=Path("results/probe"), help="folder of results")
    add("--policy", type=typed_path, help="whose actions are predicted (the best of the RUNs)")
    add("--episodes", type=int, default=20, help="to probe on (20)")
    add("--steps", type=int, default=200, help="samples of an episode (200)")
    add("--seed", type=int, default=0, help="of the episodes (0)")
    add("--cache", type=typed_path, default=Path("runs/.probe"), help="their folder")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    options = parser.parse_args(argv)
    if not options.runs:
        raise ConfigError("RUN: give the folder of at least one run; see --help")
    if options.episodes < MIN_EPISODES or options.steps < 1 or options.seed < 0:
        raise ConfigError(f"--episodes, --steps, --seed: at least {MIN_EPISODES}, 1 and 0")
    return options


@script
def main(argv: Sequence[str]) -> int:
    """Exit code: 0, 2 where something cannot be probed, 3 storage."""
    try:
        probe(parse(argv))
    except OSError as error:
        raise StorageError(str(error)) from error
    return 0


def probe(options: argparse.Namespace) -> None:
    """Probe runs, write files, print the tables.

    Raises:
        ConfigError: wrong input, most of which is looked for before anything is computed.
    """
    probed = [read(folder, options.device) for folder in options.runs]
    if pd.DataFrame(run.facts for run in probed).duplicated(_KEY).any():
        raise ConfigError("RUN: two of the same task, method and seed; give one of them")
    best = best_policies(probed)
    if options.policy is not None:
        load_policy(options.policy, options.device)
        best = dict.fromkeys((run.place for run in probed), options.policy)
    for key, folder in (("out", options.out), ("cache", options.cache)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ConfigError(f"--{key}={folder}: cannot be written ({error})") from error
    chosen = Episodes(options.episodes, options.steps, options.seed)
    rows, signs = [], []
    for run in probed:
        rows.append(scored(run, best.get(run.place), chosen, options.cache).assign(**run.facts))
        signs.append(signs_of_collapse(run.folder, run.cfg.agent.objective).assign(**run.facts))
    scores = merged(options.out / "probe.csv", pd.concat(rows))
    collapse = merged(options.out / "collapse.csv", pd.concat(signs).drop(columns="score"))
    plots.save(figures.scores(scores), options.out / "probe")
    if len(collapse):
        plots.save(figures.collapse(collapse), options.out / "collapse")
    tables = figures.table(scores), figures.correlations(scores)
    text = "\n\n".join(one.to_markdown(index=False, disable_numparse=True) for one in tables)
    write_atomically(options.out / "probe.md", f"{text}\n")
    print(text)
    print(f"written to {options.out}: probe.csv, probe.png, probe.md, collapse.csv, collapse.png")


def read(folder: Path, device: str) -> Run:
    """What a run's folder says; ` alone` stands behind a method that was trained without RL.

    Raises:
        ConfigError: it is damaged, of the other benchmark, or no run's.
    """
    cfg = of_run(folder, device=device)
    row, _ = runs.read(folder)
    alone = figures.ALONE * (not cfg.agent.rl)
    method = row["method"].removesuffix(alone.replace(" ", "-")) + alone
    values = (row["task"], row["preset"], method, row["seed"], row["mean"])
    return Run(folder, cfg, dict(zip((*_KEY, "score"), values, strict=True)))


def best_policies(probed: Sequence[Run]) -> dict[Any, Path]:
    """By place the folder of its run with the best score; none where no run has ended."""
    ended = (run for run in probed if np.isfinite(run.facts["score"]))
    return {run.place: run.folder for run in sorted(ended, key=lambda run: run.facts["score"])}


def scored(run: Run, policy: Path | None, chosen: Episodes, cache: Path) -> pd.DataFrame:
    """A row for each variable: R² of the agent's latents, of untrained ones and of pixels.

    Args: `policy`: the folder of that whose actions are variables. Its own latents are not asked
    for them (NaN), which would favour it.

    Raises:
        ConfigError: nothing changes in these episodes, or the policy sees other pictures.
    """
    device = set_up_process(run.cfg)
    with closing(world.environment_of(run.cfg)) as env:
        recording = record(run.cfg, env, chosen, cache)
        agent, untrained = (agent_for(run.cfg, env, device) for _ in range(2))
    _newest(run).restore("agent", agent)
    targets = [REWARD if name == REWARD else "state" for name in recording.names]
    facts = {"target": targets, "variable": recording.names, "data": recording.key}
    rows, labels = pd.DataFrame(facts), recording.labels
    if policy is not None:
        actions, name = _actions(policy, recording.observations, str(device))
        numbers = [f"action {number + 1}" for number in range(actions.shape[1])]
        facts = {"target": "action", "variable": numbers, "data": f"{recording.key} {name}"}
        rows = pd.concat([rows, pd.DataFrame(facts)], ignore_index=True)
        labels = np.concatenate([labels, actions], axis=1)
    images = world.seen(agent, torch.from_numpy(recording.observations))
    latents, before = (
        np.concatenate([world.latents(each, part).numpy() for part in images.split(_BATCH)])
        for each in (agent, untrained)
    )
    split, width = split_by_episode(recording.episodes), latents.shape[1]
    pixels = components(images.numpy(), split.train, width)
    for name, features in (("r2", latents), ("untrained", before), ("pca", pixels)):
        rows[name] = readout(features, labels, split)
    if policy is not None and policy.samefile(run.folder):
        rows.loc[rows["target"] == "action", "r2"] = np.nan
    return rows.assign(updates=agent.update_step, dimensions=width)


def _actions(folder: Path, obs: NDArray[np.uint8], device: str) -> tuple[NDArray[np.floating], str]:
    """What a policy does at obs (N, ...), (N, A), 1 for a choice and else 0; whose policy it is."""
    policy = load_policy(folder, device)
    try:
        parts = [policy(part) for part in np.array_split(obs, -(-len(obs) // _BATCH))]
    except ValueError as error:
        raise ConfigError(f"--policy={folder}: sees other pictures ({error})") from error
    actions, config = np.concatenate(parts), policy.config
    name = f"{config['agent']['name']} {config['tag']} {config['seed']} {policy.agent_step}"
    return actions if actions.ndim > 1 else np.eye(policy.num_actions)[actions], one_line(name)


def _newest(run: Run) -> Checkpoint:
    """The newest checkpoint, with the agent's state.

    Raises:
        ConfigError: there is none. CheckpointError: none can be used.
    """
    checkpoint = agent_checkpoint(run.folder, plain(run.cfg))
    if not (run.folder / "final.json").is_file():
        warning = f"{run.folder} is not finished; its checkpoint of step {checkpoint.step} is used"
        print(f"warning: {warning}", file=sys.stderr)
    return checkpoint


def signs_of_collapse(run: Path, objective: str | None) -> pd.DataFrame:
    """`update` and `figures.SIGNS` along a run's train.csv; no rows without an objective.

    Raises:
        ConfigError: it is damaged.
    """
    names = {f"{objective}/{sign}": sign for sign in figures.SIGNS}
    names |= {"update_step": "update", f"loss/{objective}": "loss"}
    try:
        rows = pd.read_csv(io.StringIO(read_text(run / "train.csv"))).rename(columns=names)
        rows = rows.reindex(columns=["update", *figures.SIGNS]).dropna(subset="loss")
        return rows.astype(dict.fromkeys(figures.SIGNS, float))
    except ValueError as error:
        raise ConfigError(f"{run / 'train.csv'}: {error}") from error


def merged(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Add `rows` to the file in place of those of the same runs; everything that is then in it.

    Raises:
        ConfigError: the file holds other columns, or scores on other episodes or actions.
    """
    if path.is_file():
        before = pd.read_csv(path, dtype=_WORDS)
        if set(before) != set(rows):
            raise ConfigError(f"{path}: has other columns; choose another --out")
        new = pd.MultiIndex.from_frame(rows[_KEY])
        rows = pd.concat([before[~pd.MultiIndex.from_frame(before[_KEY]).isin(new)], rows])
    place = [*figures.PLACE, "target"]
    if "data" in rows and (rows.groupby(place)["data"].nunique() > 1).any():
        raise ConfigError(
            f"{path}: holds scores on other episodes, or actions of another policy; choose another "
            "--out, or that --policy"
        )
    rows = rows.sort_values(_KEY, kind="stable", ignore_index=True)
    rows = rows[[*_KEY, *rows.columns.difference(_KEY, sort=False)]]
    write_atomically(path, rows.to_csv(index=False, float_format="%.6g", na_rep="nan"))
    return rows
