"""Train an agent on an Atari game from pixels. To begin, one of:

  python train.py game=pong preset=smoke     seconds: everything runs, nothing is learnt
  python train.py game=pong preset=laptop    about an hour on one CPU core
  python train.py game=pong agent=mlr seed=1  the published setting, on a GPU
  python train.py -m game=all seed=1,2,3 plan=true   what a sweep would take; without plan=, run it

The same command again goes on where the run stopped, or says that it is finished.
All choices and keys: python train.py --help. Would it work here: python doctor.py preset=laptop
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from operator import methodcaller

from mlr_atari import protocol  # first: it says how the threads of PyTorch wait

# isort: split
import torch

from mlr_atari.build import Parts, build_parts, set_up_process, training_environment
from mlr_atari.cost import check_memory, estimate
from mlr_atari.errors import ConfigError, Preempted, RunError
from mlr_atari.learner import Learner
from mlr_atari.run import sweep
from mlr_atari.run.checkpoint import Checkpointer, Stateful
from mlr_atari.run.disk import one_line
from mlr_atari.run.evaluation import EvaluationResult, evaluate
from mlr_atari.run.folder import RunFolder, look
from mlr_atari.run.process import StopRequest, script
from mlr_atari.run.records import Progress, Records, SaveSchedule
from mlr_atari.run.seeding import Streams, episode_seed
from mlr_atari.settings import LAYOUT, Config, compose, load


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
        """Act, step the emulator, store, learn; in this order, as published."""
        progress, stopwatch = self.progress, self.folder.stopwatch
        agent_step = progress.agent_step
        while self.env.episode_over:
            if self.env.game_over:
                progress.begin_episode()
                self.replay.truncate_newest()  # nothing, unless the last one broke off
            with progress.simulator_may_fail():
                self.env.reset()
        frame, action = self.env.frame, self.act()
        info = {"raw_reward": 0.0, "game_over": True}  # of a step in which the emulator fails
        with stopwatch("environment"), progress.simulator_may_fail():
            _, reward, terminated, truncated, info = self.env.step(action)
            self.replay.add(frame, action, reward, terminated=terminated, truncated=truncated)
        progress.step(info["raw_reward"], self.cfg.environment.frame_skip)
        if agent_step >= self.cfg.agent.learning_starts and self.replay.can_draw:
            with stopwatch("update"):
                for _ in range(self.cfg.agent.updates_per_step):
                    self.learner.update(agent_step)
                    progress.update_step += 1
        if info["game_over"]:
            self.records.episode_ended()

    def act(self) -> int:
        """The greedy action of the noisy network, or a random one, as epsilon says."""
        obs, stopwatch = torch.from_numpy(self.env.observation)[None], self.folder.stopwatch
        noise = self.agent.draw_action_noise(self.streams, 1)
        epsilon = torch.tensor(self.agent.settings.epsilon(self.progress.agent_step))
        with stopwatch("act"):
            action = self.learner.act({"obs": obs, "noise": noise, "epsilon": epsilon})[0]
        with stopwatch("update"):  # which a GPU has to finish first
            self.learner.wait()
        with stopwatch("act"):
            return int(action)

    def evaluate(self) -> None:
        """Score the noise-free policy on its own games, always the same ones; changes nothing."""
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
