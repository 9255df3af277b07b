"""Score the policy of a run again, on new episodes, and film it.

python evaluate.py runs/cartpole_swingup/mlr/seed_1 --episodes 10 --video
python evaluate.py runs/cartpole_swingup/mlr/seed_1 --random      (what chance would get)
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

from mlr_dmcontrol import protocol
from mlr_dmcontrol.build import agent_for, evaluation_factory, set_up_process
from mlr_dmcontrol.environment import PixelControlEnv
from mlr_dmcontrol.errors import ConfigError, RunError
from mlr_dmcontrol.run.checkpoint import agent_checkpoint
from mlr_dmcontrol.run.evaluation import EvaluationEnvs, Policy, evaluate, record_video
from mlr_dmcontrol.run.schema import plain
from mlr_dmcontrol.run.seeding import Streams, episode_seed
from mlr_dmcontrol.settings import Config, of_run


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--episodes", type=int, default=10, help="episodes to play (10)")
    parser.add_argument("--seed", type=int, help="of the episodes (default: the run's)")
    parser.add_argument("--processes", type=int, default=0, help="simulators in own processes (0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--random", action="store_true", help="uniformly random actions instead")
    parser.add_argument("--video", action="store_true", help="film one episode, as mp4 and GIF")
    return parser.parse_args(argv)


def saved_policy(
    cfg: Config, run: Path, env: PixelControlEnv, device: torch.device
) -> tuple[Policy, int]:
    """The mean policy of the newest valid checkpoint, and its agent step."""
    checkpoint = agent_checkpoint(run, plain(cfg))
    agent = agent_for(cfg, env, device)
    checkpoint.restore("agent", agent)
    return agent.evaluation_policy, checkpoint.step


def random_policy(seed: int, env: PixelControlEnv) -> Policy:
    """Uniformly random actions."""
    draws = Streams(seed)["exploration"]

    def act(obs: np.ndarray, generators: object) -> np.ndarray:
        return (torch.rand(len(obs), env.action_dim, generator=draws) * 2 - 1).numpy()

    return act


def score(args: argparse.Namespace) -> None:
    """Play, film if asked to, and write what came of it into the run's folder."""
    if args.episodes < 1:
        raise ConfigError(f"--episodes={args.episodes}: must be at least 1")
    cfg = of_run(args.run, device=args.device)
    device, seed, step = set_up_process(cfg), cfg.seed if args.seed is None else args.seed, None
    make, seeds = evaluation_factory(cfg), partial(episode_seed, seed, "evaluation")
    places = min(args.episodes, cfg.evaluation.episodes)
    with (
        closing(make()) as env,
        closing(EvaluationEnvs(make, places, args.processes, full_batches=True)) as envs,
    ):
        if args.random:
            policy, name = random_policy(seed, env), "random"
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
