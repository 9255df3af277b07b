"""Score the policy of a run again, on full games, and film it.

python evaluate.py runs/pong/mlr/seed_1 --episodes 100 --video
python evaluate.py runs/pong/mlr/seed_1 --random      (what chance would get)
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mlr_atari import protocol
from mlr_atari.build import agent_for, evaluation_factory, set_up_process
from mlr_atari.environment import GameEnv
from mlr_atari.errors import ConfigError, RunError
from mlr_atari.rainbow import evaluation_noise
from mlr_atari.run.checkpoint import agent_checkpoint
from mlr_atari.run.evaluation import EvaluationEnvs, Policy, evaluate, record_video
from mlr_atari.run.schema import plain
from mlr_atari.run.seeding import episode_seed
from mlr_atari.settings import Config, of_run


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--episodes", type=int, default=100, help="games to play (100)")
    parser.add_argument("--seed", type=int, help="of the games (default: the run's)")
    parser.add_argument("--processes", type=int, default=0, help="emulators in own processes (0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--random", action="store_true", help="uniformly random actions instead")
    parser.add_argument("--video", action="store_true", help="film one game, as mp4 and GIF")
    return parser.parse_args(argv)


def saved_policy(cfg: Config, run: Path, env: GameEnv, device: torch.device) -> tuple[Policy, int]:
    """The noise-free policy of the newest valid checkpoint, and its agent step."""
    checkpoint = agent_checkpoint(run, plain(cfg))
    agent = agent_for(cfg, env, device)
    checkpoint.restore("agent", agent)
    return agent.evaluation_policy, checkpoint.step


def random_policy(env: GameEnv) -> Policy:
    """Uniformly random actions."""

    def act(obs: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
        return evaluation_noise(generators, env.num_actions).random_action.numpy()

    return act


def score(args: argparse.Namespace) -> None:
    """Play, film if asked to, and write what came of it into the run's folder."""
    if args.episodes < 1:
        raise ConfigError(f"--episodes={args.episodes}: must be at least 1")
    cfg = of_run(args.run, device=args.device)
    device, seed, step = set_up_process(cfg), cfg.seed if args.seed is None else args.seed, None
    make, seeds = evaluation_factory(cfg), partial(episode_seed, seed, "evaluation")
    with (
        closing(make()) as env,
        closing(EvaluationEnvs(make, args.episodes, args.processes)) as envs,
    ):
        if args.random:
            policy, name = random_policy(env), "random"
        else:
            policy, step = saved_policy(cfg, args.run, env, device)
            name = f"step_{step}"
        result = evaluate(policy, envs, args.episodes, seeds)
        assert result is not None  # nothing asks it to stop
        values, metric = result.scores, protocol.METRIC
        out = unused(args.run / "evaluations", f"{name}_seed_{seed}")
        report = {"agent_step": step, "seed": seed, "values": values, "lengths": result.lengths}
        out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        mean, spread = statistics.fmean(values), np.std(values, ddof=1) if len(values) > 1 else 0.0
        print(f"{metric} {mean:.1f} ± {spread:.1f} over {len(values)}: {out}.json")
        if args.video:
            filmed = record_video(policy, env, seeds(0), out)
            print(f"filmed {metric} {filmed:.1f}: {out}.mp4, {out}.gif")


def unused(folder: Path, name: str) -> Path:
    """`folder`/`name`, or with the first number behind it that nothing is called yet."""
    folder.mkdir(exist_ok=True)
    taken = {path.stem for path in folder.iterdir()}
    names = (name, *(f"{name}_{number}" for number in range(2, len(taken) + 3)))
    return folder / next(name for name in names if name not in taken)


def main(argv: Sequence[str]) -> int:
    """Exit code 0, or 2 where there is nothing to score."""
    try:
        score(parse(argv))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
