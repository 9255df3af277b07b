"""Train an agent on a DMControl task from pixels. To begin, one of:

  python train.py task=cartpole_swingup preset=smoke     seconds: everything runs, nothing is learnt
  python train.py task=cartpole_swingup preset=laptop    about an hour on one CPU core
  python train.py task=cartpole_swingup agent=mlr seed=1  the published setting, on a GPU
  python train.py -m task=all seed=1,2,3 plan=true   what a sweep would take; without plan=, run it

The same command again goes on where the run stopped, or says that it is finished.
All choices and keys: python train.py --help. Would it work here: python doctor.py preset=laptop
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from operator import methodcaller

from mlr_dmcontrol import protocol  # first: it says how the threads of PyTorch wait

# isort: split
import numpy as np
import torch

from mlr_dmcontrol.build import Parts, build_parts, set_up_process, training_environment
from mlr_dmcontrol.cost import check_memory, estimate
from mlr_dmcontrol.errors import ConfigError, Preempted, RunError
from mlr_dmcontrol.learner import Learner
from mlr_dmcontrol.run import sweep
from mlr_dmcontrol.run.checkpoint import Checkpointer, Stateful
from mlr_dmcontrol.run.disk import one_line
from mlr_dmcontrol.run.evaluation import EvaluationResult, evaluate
from mlr_dmcontrol.run.folder import RunFolder, look
from mlr_dmcontrol.run.process import StopRequest, script
from mlr_dmcontrol.run.records import Progress, Records, SaveSchedule
from mlr_dmcontrol.run.seeding import Streams, episode_seed
from mlr_dmcontrol.settings import LAYOUT, Config, compose, load


class Trainer:
    """The loop, and everything of the run that outlives one of its steps: `state`."""

    def __init__(self, cfg: Config, parts: Parts, folder: RunFolder, stop: StopRequest) -> None:
        self.cfg, self.parts, self.folder, self.stop = cfg, parts, folder, stop
        self.env, self.agent, self.replay = parts.env, parts.agent, parts.replay
        self.streams, self.progress = Streams(cfg.seed), Progress()
        self.learner = Learner(
            self.agent, self.replay, self.streams, compiled=cfg.compile, graph=cfg.cuda_graph
        )
        self.records = Records(
            folder,
            self.progress,
            self.learner.metrics,
            self.learner.diagnostic_names,
            protocol,
            subject=cfg.subject,
            budget=cfg.budget,
            sinks=cfg.logging.sinks,
        )
        self.checkpointer = Checkpointer(folder.path, cfg.checkpoint.keep, folder.identity)
        self.schedule = SaveSchedule(cfg.checkpoint.every_minutes, cfg.checkpoint.every_steps)
        self.state: dict[str, Stateful] = {
            "agent": self.agent,
            "replay": self.replay,
            "environment": self.env,
            "progress": self.progress,
            "metrics": self.learner.metrics,
            "records": self.records,
            "streams": self.streams,  # last: nothing may draw after it was restored
        }

    def run(self, work: Callable[["Trainer"], None]) -> None:
        """Restore what an earlier process saved and start to write down, then do the `work`."""
        cfg, facts = self.cfg, self.parts.facts(self.cfg)
        if self.agent.device.type == "cpu" and cfg.preset == "paper":
            facts["expected"] = f"{sweep.hours_text(estimate(cfg).hours)} without a GPU"
        with self.records:
            self.checkpointer.load(self.state, self.replay)
            self.folder.begin(protocol.PACKAGES, **facts)
            self.schedule.saved(self.progress.agent_step)
            self.records.open(facts)
            work(self)

    def train(self) -> None:
        """Until the budget is spent: evaluate, interact and learn, write down, save."""
        progress, workload = self.progress, self.cfg.workload
        while True:
            if progress.agent_step in workload.evaluations:
                self.evaluate()
            if progress.agent_step == workload.agent_steps:
                break
            # After the evaluation, so that what is saved at a step is all that belongs to it.
            if self.stop.requested or self.schedule.due(progress.agent_step):
                self.save()
            self.step()
            if progress.agent_step % self.cfg.logging.every == 0:
                self.check()
                self.records.log(self.learner.diagnostics())
        self.save(final=True)
        self.records.finish()

    def step(self) -> None:
        """Act, learn, step the simulator, store; in this order, as published."""
        progress, stopwatch = self.progress, self.folder.stopwatch
        while self.env.episode_over:
            progress.begin_episode()
            with progress.simulator_may_fail():
                self.env.reset()
                self.replay.start_episode(self.env.frame)
        action = self.act()
        if not np.isfinite(action).all():  # the simulator would fail
            self.check(action=math.nan)
        if progress.agent_step >= self.cfg.agent.learning_starts:
            with stopwatch("update"):
                self.learner.update(progress.agent_step)
                progress.update_step += 1
        reward, terminated, truncated = 0.0, False, True  # of a step in which the simulator fails
        with stopwatch("environment"), progress.simulator_may_fail():
            _, reward, terminated, truncated, _ = self.env.step(action)
            self.replay.add(action, reward, self.env.frame, terminated, truncated)
        progress.step(reward, self.cfg.environment.action_repeat)
        if terminated or truncated:
            self.records.episode_ended()

    def act(self) -> np.ndarray:
        """A random action until learning starts, then a sample of the policy, if there is one."""
        explore, size = self.streams["exploration"], self.env.action_dim
        if self.progress.agent_step < self.cfg.agent.learning_starts or not self.cfg.agent.rl:
            return (torch.rand(size, generator=explore) * 2 - 1).numpy()
        obs, noise = torch.from_numpy(self.env.observation), torch.randn(size, generator=explore)
        stopwatch = self.folder.stopwatch
        with stopwatch("act"):
            action = self.learner.act({"obs": obs[None], "noise": noise[None]})[0]
        with stopwatch("update"):  # which a GPU has to finish first
            self.learner.wait()
        with stopwatch("act"):
            return action.cpu().numpy()

    def evaluate(self) -> None:
        """Score the mean policy on its own episodes, always the same ones; changes nothing."""
        progress, evaluation = self.progress, self.cfg.evaluation
        if progress.evaluated_at == progress.agent_step:
            return
        self.check()
        last = progress.agent_step == self.cfg.workload.agent_steps
        try:
            with self.folder.stopwatch("evaluation"):
                result = evaluate(
                    self.agent.evaluation_policy,
                    self.parts.evaluation_envs,
                    evaluation.final_episodes if last else evaluation.episodes,
                    partial(episode_seed, self.cfg.seed, "evaluation"),
                    self.watch,
                )
        except RunError:
            self.save()  # whatever ended it, what was trained is kept
            raise
        self.records.evaluated(result)
        self.records.preview(self.learner.preview())

    def watch(self, result: EvaluationResult) -> None:
        """Show how an evaluation goes on. Raises: Preempted: the process was asked to stop."""
        if self.stop.requested:
            raise Preempted(f"{self.stop.reason} while the policy was scored")
        self.records.evaluating(result)

    def check(self, **more: float) -> None:
        """Raise NonFiniteError if a loss, gradient norm, return or one of `more` is no number."""
        self.learner.metrics.check(self.folder.path, self.progress.watched() | more)

    def save(self, *, final: bool = False) -> None:
        """Write a checkpoint; raises Preempted after it if the process was asked to stop."""
        self.check()
        step, stopping = self.progress.agent_step, self.stop.requested and not final
        required = final or stopping
        with self.folder.stopwatch("checkpoint"):
            self.checkpointer.save(step, self.state, self.replay, final=final, required=required)
        self.schedule.saved(step)
        if stopping:
            self.stop.fulfilled()
            raise Preempted(f"{self.stop.reason} at agent step {step}; the same command goes on")


def train(cfg: Config, work: Callable[["Trainer"], None] = methodcaller("train")) -> None:
    """Claim the run's folder and bring its run to the end, from wherever it stands.

    Args: `work`: what is done once the trainer is ready; `benchmark.py` measures instead.
    """
    device, settings = None, asdict(cfg)
    if look(cfg.path, settings, cfg.resume)[0] == "waiting":  # what is refused leaves no folder
        check_memory(cfg)
        device = set_up_process(cfg)
        training_environment(cfg).close()
    with (
        RunFolder(cfg.path, settings, cfg.resume) as folder,
        StopRequest(last=__name__ == "__main__") as stop,
    ):
        if folder.finished:
            print(f"{folder.path} is finished: see final.json; nothing to do")
            return
        try:
            with build_parts(cfg, device or set_up_process(cfg)) as parts:
                Trainer(cfg, parts, folder, stop).run(work)
        except torch.OutOfMemoryError as error:  # of a GPU, which others may use too
            needs = "a smaller scale.batch_size, or another GPU"
            raise ConfigError(f"device={cfg.device}: {one_line(error)}; take {needs}") from error


@script
def main(argv: Sequence[str]) -> int:
    """Exit code: 0 done, 1 our fault, 2 wrong input, 3 storage, 4 non-finite, 75 preempted."""
    if not set(argv) - {"-m", "--multirun"}:
        print(str(__doc__).strip())
        return 0
    if sweep.wanted(argv):
        last = __name__ == "__main__"
        return sweep.main(argv, LAYOUT, compose=compose, estimate=estimate, last=last)
    train(load(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
