"""The command line of probe.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..build import set_up_process
from ..errors import ConfigError
from ..parts import build_parts
from ..report import plots
from ..run.checkpoint import Checkpointer
from ..run.sweep import read
from ..settings import LAYOUT
from . import output, world
from .alone import along_run, train_alone
from .measure import Episodes, Prober

Compose = Callable[[Sequence[str]], DictConfig]
Row = dict[str, Any]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line.

    Raises:
        ConfigError: a number that is too small, or nothing to probe.
    """
    parser = argparse.ArgumentParser(
        usage="%(prog)s RUN... [options]  or  %(prog)s --objective-alone key=value... [options]"
    )
    parser.add_argument("words", nargs="*", help="folders of runs; or keys as for train.py -m")
    parser.add_argument("--out", type=Path, default=Path("results/probe"), help="folder of results")
    parser.add_argument("--objective-alone", action="store_true", help="train it without RL first")
    parser.add_argument("--updates", type=int, default=5000, help="of an objective alone (5000)")
    parser.add_argument("--frames", type=int, default=5000, help="that it learns from (5000)")
    parser.add_argument("--every", type=int, default=100, help="updates between two rows (100)")
    parser.add_argument("--episodes", type=int, default=20, help="to probe on (20)")
    parser.add_argument("--steps", type=int, default=200, help="samples of an episode (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes (0)")
    parser.add_argument("--cache", type=Path, default=Path("runs/.probe"), help="their folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    options = parser.parse_intermixed_args(argv)
    if min(options.updates, options.frames, options.every) < 1:
        raise ConfigError("--updates, --frames, --every: must be at least 1")
    if not options.words:
        raise ConfigError("RUN: give the folder of at least one run; see --help")
    return options


def run(argv: Sequence[str], compose: Compose) -> None:
    """Probe what `argv` names, write files, print the table.

    Args: `compose`: the checked configuration of one job's overrides.

    Raises:
        ConfigError: no run, no checkpoint, an unknown key, or other episodes than before.
    """
    options = parse(argv)
    prober = Prober(Episodes(options.episodes, options.steps, options.seed, options.cache))
    each = _alone if options.objective_alone else _trained
    done = [each(item, options, prober) for item in _items(options, compose)]
    scores = output.merge(options.out / "probe.csv", [row for rows, _ in done for row in rows])
    signs = output.merge(options.out / "collapse.csv", [row for _, rows in done for row in rows])
    plots.save(output.figure(scores), options.out / "probe")
    if signs:
        plots.save(output.collapse_figure(signs), options.out / "collapse")
    text = output.table(output.summaries(scores))
    (options.out / "probe.md").write_text(f"{text}\n", encoding="utf-8")
    print(text)
    print(f"written to {options.out}: probe.csv, probe.png, probe.md, collapse.csv, collapse.png")


def _items(options: argparse.Namespace, compose: Compose) -> list[tuple[DictConfig, Path | None]]:
    """Configurations to probe, with the folders of those that are runs."""
    if options.objective_alone:
        device = [] if options.device == "auto" else [f"device={options.device}"]
        jobs = read(["-m", *options.words, *device], LAYOUT)[0]
        return [(compose(job), None) for job in jobs]
    items: list[tuple[DictConfig, Path | None]] = []
    for word in options.words:
        path = Path(word) / "config.yaml"
        if not path.is_file():
            raise ConfigError(f"RUN={word}: has no config.yaml; give the folder of a run")
        cfg = OmegaConf.merge(OmegaConf.load(path), {"device": options.device})
        assert isinstance(cfg, DictConfig)
        items.append((cfg, Path(word)))
    return items


def _trained(
    item: tuple[DictConfig, Path | None], options: argparse.Namespace, prober: Prober
) -> tuple[list[Row], list[Row]]:
    """Scores of a run's newest checkpoint, and its signs of a collapse."""
    cfg, folder = item
    assert folder is not None
    checkpoint = Checkpointer(folder).newest(["agent"])
    if checkpoint is None:
        raise ConfigError(f"RUN={folder}: holds no checkpoint; train it first")
    if not (folder / "final.json").is_file():
        print(
            f"warning: {folder} is not finished; its checkpoint of step {checkpoint.step} is used"
        )
    env = world.environment_of(cfg)
    agent = world.agent_of(cfg, env)
    env.close()
    agent.load_state_dict(checkpoint.items["agent"])
    facts = _facts(cfg)
    rows = prober.rows(cfg, agent, facts | {"updates": agent.update_step})
    return rows, [facts | row for row in along_run(cfg, folder)]


def _alone(
    item: tuple[DictConfig, Path | None], options: argparse.Namespace, prober: Prober
) -> tuple[list[Row], list[Row]]:
    """Scores of an objective that was trained by itself, and its signs of a collapse."""
    cfg, _ = item
    with closing(world.environment_of(cfg)) as env:
        prober.recording(cfg, env)  # refused, if so, before anything is trained
    with build_parts(cfg, set_up_process(cfg)) as parts:
        signs = train_alone(cfg, parts, options.updates, options.frames, options.every)
        facts = _facts(cfg)
        facts["method"] += output.ALONE
        rows = prober.rows(cfg, parts.agent, facts | {"updates": options.updates})
    return rows, [facts | row for row in signs]


def _facts(cfg: DictConfig) -> Row:
    method = f"{cfg.agent.name}-{cfg.tag}" if cfg.tag else cfg.agent.name
    subject = cfg[LAYOUT.subject].name
    return {"subject": subject, "preset": cfg.preset, "method": method, "seed": cfg.seed}
