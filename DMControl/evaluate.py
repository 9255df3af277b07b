"""Score the policies of runs again, on new episodes, and film or watch them.

python evaluate.py runs/cartpole_swingup/mlr/seed_1 --episodes 10 --video
python evaluate.py runs/*/mlr/seed_* --out results     (several runs, results elsewhere)
python evaluate.py runs/cartpole_swingup/mlr/seed_1 --random      (what chance would get)
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from mlr_dmcontrol import protocol  # first: it says how the threads of PyTorch wait

# isort: split
import numpy as np
import torch

from mlr_dmcontrol.build import evaluation_factory, set_up_process
from mlr_dmcontrol.device import processes_beside
from mlr_dmcontrol.errors import ConfigError, RunError
from mlr_dmcontrol.policy import claim, is_exported, load_policy
from mlr_dmcontrol.run import evaluation
from mlr_dmcontrol.run.process import script, tell, typed_path
from mlr_dmcontrol.run.schema import LARGEST
from mlr_dmcontrol.run.seeding import Streams, episode_seed
from mlr_dmcontrol.settings import of_run


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=typed_path, metavar="RUN", help="folders of runs")
    parser.add_argument("--episodes", type=int, default=10, help="episodes to play (10)")
    parser.add_argument("--seed", type=int, help="of the episodes (default: the run's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--out", type=typed_path, help="folder for results (default: in the run's)")
    parser.add_argument("--export", type=typed_path, help="new folder for weights and score")
    parser.add_argument("--own", default="", help="your own environment, where it is one's")
    parser.add_argument("--random", action="store_true", help="uniformly random actions instead")
    parser.add_argument("--video", action="store_true", help="film one episode, as mp4 and GIF")
    parser.add_argument("--watch", action="store_true", help="first show one episode in a window")
    return parser.parse_args(argv)


def random_actions(draws: torch.Generator, size: int, obs: np.ndarray, _: object) -> np.ndarray:
    """Uniform ones for observations (N, ...): (N, A)."""
    return (torch.rand(len(obs), size, generator=draws) * 2 - 1).numpy()


def score(run: Path, args: argparse.Namespace) -> None:
    """Play, film if asked to, and keep what came of it."""
    cfg, step = of_run(run, args.own, device=args.device), None
    device, seed = set_up_process(cfg), cfg.seed if args.seed is None else args.seed
    make, seeds = evaluation_factory(cfg), partial(episode_seed, seed, "evaluation")
    places, processes = min(args.episodes, cfg.evaluation.episodes), processes_beside(device)
    with (
        closing(make()) as env,
        closing(evaluation.EvaluationEnvs(make, places, processes, full_batches=True)) as envs,
    ):
        if args.random:
            draws, name = Streams(seed)["exploration"], "random"
            policy: evaluation.Policy = partial(random_actions, draws, env.action_dim)
        else:
            policy = saved = load_policy(run, args.device)
            if (saved.obs_shape, saved.num_actions) != (env.obs_shape, env.action_dim):
                raise ConfigError(f"RUN={run}: its policy has other sizes than {cfg.subject}")
            step, name = saved.agent_step, f"step_{saved.agent_step}"
        folder, name = run / "evaluations", f"{name}_seed_{seed}"
        if args.out is not None or is_exported(run):
            name = f"{'-'.join(run.resolve().parts[-3:])}-{name}"
            folder = args.out.resolve() if args.out is not None else Path("evaluations")
        with evaluation.kept(folder, name) as (path, report):
            if args.export is not None:
                claim(args.export)  # not the folder of results
            if args.watch:
                evaluation.watch_episode(policy, env, seeds(0))
            told = evaluation.teller(protocol.METRIC)
            result = evaluation.evaluate(policy, envs, args.episodes, seeds, told)
            report |= {"agent_step": step, "seed": seed}
            report |= {"values": result.scores, "lengths": result.lengths}
        scores = result.scores
        mean, spread = statistics.fmean(scores), statistics.stdev(scores) if len(scores) > 1 else 0
        print(f"{protocol.METRIC} {mean:.1f} ± {spread:.1f} over {len(scores)}: {path}")
        if args.export is not None:
            saved.export(args.export, scores, seed)
        if args.video:
            filmed = evaluation.record_video(policy, env, seeds(0), path.with_suffix(""))
            print(f"filmed {protocol.METRIC} {filmed:.1f}: {path.stem}.mp4, {path.stem}.gif")


@script
def main(argv: Sequence[str]) -> int:
    """Exit code: 0, or 2 where there is nothing to score, 3 storage, 4 non-finite: the highest."""
    args, codes = parse(argv), []
    if args.export is not None and (args.random or len(args.runs) > 1):
        raise ConfigError(f"--export={args.export}: is for the policy of one run; name that alone")
    if not (1 <= args.episodes <= 10**6 and 0 <= (args.seed or 0) <= LARGEST):
        wrong = f"--episodes={args.episodes}, --seed={args.seed}"
        raise ConfigError(f"{wrong}: must be at least 1 and 0, at most {10**6} and {LARGEST}")
    for run in args.runs:
        try:
            score(run, args)
        except (RunError, OSError) as error:  # one of several takes no other down
            codes.append(tell(error))
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
