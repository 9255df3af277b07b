"""Score the policy of a run again, on new episodes, and film it.

python evaluate.py runs/cartpole_swingup/mlr/seed_1 --episodes 10 --video
python evaluate.py runs/cartpole_swingup/mlr/seed_1 --random      (what chance would get)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from mlr_dmcontrol.build import build_agent, set_up_process, settings_from
from mlr_dmcontrol.environment import EnvironmentSettings, PixelControlEnv
from mlr_dmcontrol.errors import ConfigError, RunError
from mlr_dmcontrol.run.checkpoint import Checkpointer
from mlr_dmcontrol.run.evaluation import Policy, evaluate, record_video
from mlr_dmcontrol.run.seeding import Streams, episode_seed
from mlr_dmcontrol.run.workers import EvaluationEnvs


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


def saved_policy(cfg: DictConfig, run: Path, env: PixelControlEnv) -> tuple[Policy, int]:
    """The mean policy of the newest valid checkpoint, and its agent step."""
    checkpoint = Checkpointer(run).newest(["agent"])
    if checkpoint is None:
        raise ConfigError(f"RUN={run}: holds no checkpoint; train it first")
    agent = build_agent(
        cfg.agent,
        obs_shape=env.obs_shape,
        action_dim=env.action_dim,
        device=set_up_process(cfg),
        seed=cfg.seed,
        precision=cfg.precision,
    )
    agent.load_state_dict(checkpoint.items["agent"])
    return agent.evaluation_policy, checkpoint.step


def random_policy(seed: int, action_dim: int) -> Policy:
    """Uniformly random actions."""
    generator = Streams(seed)["exploration"]

    def act(obs: np.ndarray) -> np.ndarray:
        return (torch.rand(len(obs), action_dim, generator=generator) * 2 - 1).numpy()

    return act


def score(args: argparse.Namespace) -> None:
    """Play, film if asked to, and write what came of it into the run's folder."""
    path = args.run / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"RUN={args.run}: has no config.yaml; give the folder of a run")
    if args.episodes < 1:
        raise ConfigError(f"--episodes={args.episodes}: must be at least 1")
    cfg = OmegaConf.merge(OmegaConf.load(path), {"device": args.device})
    assert isinstance(cfg, DictConfig)
    seed = cfg.seed if args.seed is None else args.seed
    settings = settings_from(EnvironmentSettings, cfg.environment)
    env = PixelControlEnv(cfg.task.name, settings)
    step = None
    if args.random:
        policy, name = random_policy(seed, env.action_dim), "random"
    else:
        policy, step = saved_policy(cfg, args.run, env)
        name = f"step_{step}"
    seeds = partial(episode_seed, seed, "evaluation")
    places = min(args.episodes, cfg.evaluation.episodes)
    with EvaluationEnvs(cfg.task.name, settings, places, args.processes) as envs:
        result = evaluate(policy, envs, args.episodes, seeds)
    assert result is not None  # nothing asks it to stop
    report = {"agent_step": step, "seed": seed, "values": result.returns, "lengths": result.lengths}
    out = unused(args.run / "evaluations", f"{name}_seed_{seed}")
    out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    spread = np.std(result.returns, ddof=1) if args.episodes > 1 else 0.0
    print(f"return {result.mean_return:.1f} ± {spread:.1f} over {args.episodes}: {out}.json")
    if args.video:
        print(f"filmed return {record_video(policy, env, seeds(0), out):.1f}: {out}.mp4, {out}.gif")
    env.close()


def unused(folder: Path, name: str) -> Path:
    """`folder`/`name`, or with the first number behind it that nothing is called yet."""
    folder.mkdir(exist_ok=True)
    taken = {each.stem for each in folder.iterdir()}
    numbered = (f"{name}_{number}" for number in range(2, len(taken) + 3))
    return folder / next(each for each in (name, *numbered) if each not in taken)


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
