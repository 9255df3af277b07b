"""What frozen latents hold of the state, the reward and the best policy's action.

    python probe.py runs/*/*/seed_* --out results/probe

Ridge regression from the latents, scored by R² on held-out episodes that are the same for every
encoder, beside the untrained encoder and the pixels' principal components; and whether methods
rank by it as by their scores. Results of several commands gather in one folder.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlr_dmcontrol.build import agent_for, set_up_process
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.policy import SavedPolicy, load_policy
from mlr_dmcontrol.probe import figures, linear, world
from mlr_dmcontrol.probe.recording import REWARD, Recording, record, recording_key
from mlr_dmcontrol.report import plots, runs
from mlr_dmcontrol.run.checkpoint import agent_checkpoint
from mlr_dmcontrol.run.disk import one_line, results_folder, write_atomically
from mlr_dmcontrol.run.process import script, typed_path
from mlr_dmcontrol.settings import Config, of_run

_BATCH = 256  # images at a time
_KEY = [*figures.PLACE, "method", "seed"]  # of a run, in files
_WORDS = dict.fromkeys((*figures.PLACE, "method", "data", "target", "variable"), str)  # in files


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line. Raises: ConfigError: a number that is too small."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("runs", nargs="+", type=typed_path, metavar="RUN", help="folders of runs")
    add("--out", type=typed_path, default=Path("results/probe"), help="folder of results")
    add("--policy", type=typed_path, help="whose actions are predicted (the best of the RUNs)")
    add("--episodes", type=int, default=20, help="to probe on (20)")
    add("--steps", type=int, default=200, help="samples of an episode (200)")
    add("--seed", type=int, default=0, help="of the episodes (0)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    args = parser.parse_args(argv)
    if args.episodes < linear.MIN_EPISODES or args.steps < 1 or args.seed < 0:
        raise ConfigError(f"--episodes, --steps, --seed: at least {linear.MIN_EPISODES}, 1 and 0")
    return args


@script
def main(argv: Sequence[str]) -> int:
    """Exit code: 0, 2 where something cannot be probed, 3 storage."""
    probe(parse(argv))
    return 0


def probe(args: argparse.Namespace) -> None:
    """Probe runs, write files, print the tables.

    Raises: ConfigError: wrong input, most of which is looked for before anything is computed.
    """
    cfgs = [of_run(folder, device=args.device) for folder in args.runs]
    known = named(args.runs, cfgs)
    policies = acting(args, known)
    results_folder(args.out)
    chosen = {"episodes": args.episodes, "steps": args.steps, "seed": args.seed}
    states = [recording_key(cfg, chosen) for cfg in cfgs]
    asked = [_asked(key, policy, chosen) for key, policy in zip(states, policies, strict=True)]
    planned = known.assign(target="state", data=states), known.assign(target="action", data=asked)
    joined(args.out / "probe.csv", pd.concat(planned))
    played, rows = None, []
    actions: dict[SavedPolicy | None, NDArray[np.floating]] = {}
    records = known.to_dict("records")
    runs_of = zip(args.runs, cfgs, records, policies, asked, strict=True)
    for folder, cfg, row, policy, whose in runs_of:
        device = set_up_process(cfg)
        with closing(world.environment_of(cfg)) as env:
            if played != (cfg.subject, cfg.environment):
                played, recording = (cfg.subject, cfg.environment), record(cfg, env, chosen)
            agent, untrained = (agent_for(cfg, env, device) for _ in range(2))
        checkpoint = agent_checkpoint(folder, asdict(cfg))
        with checkpoint.fitting("agent"):
            agent.load_state_dict(checkpoint.items["agent"])
        if not (folder / "final.json").is_file():
            step = f"its checkpoint of step {checkpoint.step} is used"
            print(f"warning: {folder} is not finished; {step}", file=sys.stderr)
        if policy and policy not in actions:  # which are needed for every run
            actions[policy] = actions_of(policy, cfg, recording, chosen)
        rows.append(scored(agent, untrained, recording, actions.get(policy)).assign(**row))
        acted = rows[-1]["target"] == "action"
        rows[-1].loc[acted, "data"] = whose
        if policy and policy.facts.path.parent.samefile(folder):  # which would be favoured
            rows[-1].loc[acted, "r2"] = np.nan
    scores = merged(args.out / "probe.csv", pd.concat(rows))
    plots.save(figures.scores(scores), args.out / "probe")
    tables = figures.table(scores), figures.correlations(scores)
    text = "\n\n".join(table.to_markdown(index=False, disable_numparse=True) for table in tables)
    write_atomically(args.out / "probe.md", f"{text}\n")
    print(f"{text}\nwritten to {args.out}: probe.csv, probe.png, probe.pdf, probe.md")


def named(folders: Sequence[Path], cfgs: Sequence[Config]) -> pd.DataFrame:
    """A row for each run: `_KEY` and its `score`, NaN before its end.

    Raises: ConfigError: one cannot be read, or is given twice.
    """
    found = runs.load(folders)
    if found.unreadable or len(found.runs) != len(cfgs):
        raise ConfigError("; ".join(found.unreadable) or "RUN: folders of runs, each named once")
    known = found.runs.rename(columns={"task": "subject", "mean": "score"})[[*_KEY, "score"]]
    alone = known["method"].str.removesuffix("-alone") + " alone"  # trained without RL
    known["method"] = known["method"].where([cfg.agent.rl for cfg in cfgs], alone)
    if known.duplicated(_KEY).any():
        raise ConfigError("RUN: two of the same task, method and seed; give one of them")
    return known


def acting(args: argparse.Namespace, known: pd.DataFrame) -> list[SavedPolicy | None]:
    """For each run of `known` the policy whose actions are variables: that asked for, or the best
    of the runs on the same task; None where none has ended.
    """
    ended = known.assign(folder=args.runs).dropna(subset="score").sort_values("score")
    best = ended.groupby(figures.PLACE)["folder"].last()
    places = known[figures.PLACE].itertuples(index=False, name=None)
    folders = [args.policy or best.get(place) for place in places]
    load = cache(load_policy)  # each once
    return [load(folder, args.device) if folder else None for folder in folders]


def scored(
    agent: world.Agent,
    untrained: world.Agent,
    recording: Recording,
    actions: NDArray[np.floating] | None,
) -> pd.DataFrame:
    """A row for each variable: R² of the agent's latents, of untrained ones and of pixels.

    Args: `actions`: (N, A) at the recording's samples, which are variables too.
    """
    names, labels = list(recording.names), recording.labels
    targets = [REWARD if name == REWARD else "state" for name in names]
    if actions is not None:
        names += [f"action {number + 1}" for number in range(actions.shape[1])]
        targets += ["action"] * actions.shape[1]
        labels = np.concatenate([labels, actions], axis=1)
    rows = pd.DataFrame({"target": targets, "variable": names, "data": recording.key})
    images = world.seen(agent, recording.observations)
    latents, before = (
        np.concatenate([world.latents(encoder, part) for part in images.split(_BATCH)])
        for encoder in (agent, untrained)
    )
    split, width = linear.split_by_episode(recording.episodes), latents.shape[1]
    pixels = linear.components(images.numpy(), split[0], width)
    for name, features in (("r2", latents), ("untrained", before), ("pca", pixels)):
        rows[name] = linear.readout(features, labels, split)
    return rows.assign(updates=agent.update_step, dimensions=width)


def _asked(key: str, policy: SavedPolicy | None, chosen: dict[str, int]) -> str | None:
    """In which episodes whose actions are predicted, in files. Raises: ConfigError: in others."""
    if policy is None:
        return None
    folder, config = policy.facts.path.parent, policy.config
    if recording_key(of_run(folder), chosen) != key:
        raise ConfigError(f"--policy={folder}: decides at other moments; give one of RUN's setting")
    name = f"{config['agent']['name']} {config['tag']} {config['seed']} {policy.agent_step}"
    return one_line(f"{key} {name}")


def actions_of(
    policy: SavedPolicy, cfg: Config, recording: Recording, chosen: dict[str, int]
) -> NDArray[np.floating]:
    """What a policy does in the episodes, seen as it sees them: (N, A), 1 for a choice and else 0.

    Args: `recording`: as a run with `cfg` sees them; played again if the policy sees other
    pictures. `chosen`: as for `record`.
    """
    own = of_run(policy.facts.path.parent)
    if own.environment != cfg.environment:
        with closing(world.environment_of(own)) as env:
            recording = record(own, env, chosen)
    obs = recording.observations
    actions = np.concatenate([policy(part) for part in np.array_split(obs, -(-len(obs) // _BATCH))])
    return actions if actions.ndim > 1 else np.eye(policy.num_actions)[actions]


def joined(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """`rows`, and those of other runs in the file.

    Raises: ConfigError: the file is damaged, or holds other columns or other episodes or actions.
    """
    if path.is_file():
        try:
            before = pd.read_csv(path, dtype=_WORDS)
        except ValueError as error:  # pandas' own among them
            raise ConfigError(f"{path}: {one_line(error)}; choose another --out") from error
        if not set(rows) <= set(before):
            raise ConfigError(f"{path}: has other columns; choose another --out")
        new = pd.MultiIndex.from_frame(rows[_KEY])
        rows = pd.concat([before[~pd.MultiIndex.from_frame(before[_KEY]).isin(new)], rows])
    if (rows.groupby([*figures.PLACE, "target"])["data"].nunique() > 1).any():
        raise ConfigError(
            f"{path}: holds scores on other episodes, or actions of another policy; choose another "
            "--out, or that --policy"
        )
    return rows


def merged(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Add `rows` to the file in place of those of the same runs; everything that is then in it.

    Raises: ConfigError: as `joined`.
    """
    rows = joined(path, rows)
    rows = rows.sort_values(_KEY, kind="stable", ignore_index=True)
    rows = rows[[*_KEY, *rows.columns.difference(_KEY, sort=False)]]
    write_atomically(path, rows.to_csv(index=False, float_format="%.6g", na_rep="nan"))
    return rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
