"""What is timed: the parts of a training run, on a replay of random frames."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from omegaconf import DictConfig

from ..augmentation import Augmentation
from ..batch import Batch
from ..environment import COLOURS
from ..learner import Learner
from ..optimization import Optimizer
from ..parts import Parts
from ..run.progress import LastMetrics
from ..run.seeding import Streams
from .reference import PlainReplay, PlainSAC
from .timing import Part, PartTimer

_EPISODE = 1000  # env steps
_EPISODES = 4  # in the replay before anything is timed, and at least so many transitions:
_TRANSITIONS = 600


class Workload:
    """Training's own update and step, as often as one likes.

    Attributes:
        block: updates after which the kinds of update repeat.
    """

    def __init__(self, cfg: DictConfig, parts: Parts) -> None:
        self.cfg, self.parts = cfg, parts
        self.agent, self.replay, self.env = parts.agent, parts.replay, parts.env
        self.device = self.agent.device
        settings = self.agent.settings
        self.block = math.lcm(settings.actor_update_every, settings.target_update_every)
        self.streams = Streams(cfg.seed)
        self.updates = 0
        self.fill()
        self.learner = self.make_learner(compile_losses=False, cuda_graph=False)

    def make_learner(self, *, compile_losses: bool, cuda_graph: bool) -> Learner:
        """As a run has it; the one without both is there from the beginning."""
        metrics = LastMetrics(self.agent.metric_names, self.device)
        flags = {"compile_losses": compile_losses, "cuda_graph": cuda_graph}
        return Learner(self.parts, self.streams, metrics, self.parts.guard(), **flags)

    def fill(self, transitions: int = 0) -> None:
        """Store random frames, in episodes as long as real ones."""
        draws, shape = np.random.default_rng(0), (COLOURS, *self.env.obs_shape[1:])
        length = max(_EPISODE // self.cfg.environment.action_repeat, 2)
        count = max(transitions, _TRANSITIONS, _EPISODES * length)
        for step in range(min(count, self.parts.plan.capacity)):
            if step % length == 0:
                self.replay.start_episode(draws.integers(0, 256, shape, np.uint8))
            action = draws.uniform(-1, 1, self.env.action_dim).astype(np.float32)
            frame = draws.integers(0, 256, shape, np.uint8)
            self.replay.add(action, float(draws.random()), frame, False, (step + 1) % length == 0)

    def update(self) -> Batch:
        """One update."""
        batch, _ = self.learner.update(self.updates, self.updates)
        self.updates += 1
        return batch

    def update_block(self) -> None:
        """One update of each kind, in the proportion of a run; the first one has all parts."""
        for _ in range(self.block):
            self.update()

    def sample(self) -> None:
        """Draw a batch and read its observations."""
        size, windows = self.agent.settings.batch_size, self.parts.num_windows
        batch = self.replay.gather(*self.replay.draw(self.streams["replay"], size, windows))
        for stacks in (batch.obs, batch.next_obs, batch.sequence and batch.sequence.obs):
            if stacks:
                stacks.dense()

    def plain_update(self) -> Callable[[], object]:
        """What updates a copy of the agent once, the plain way; kinds in turn, as in a block.

        Raises:
            ConfigError: there is no plain code for one of the agent's options.
        """
        plain, stored, agent = PlainSAC(self.agent), PlainReplay(self.replay), self.agent
        size, windows = agent.settings.batch_size, self.parts.num_windows
        steps = itertools.count()

        def run() -> None:
            chosen, starts = self.replay.draw(self.streams["replay"], size, windows)
            noise = agent.draw_noise(self.streams)
            plain.update(stored, chosen, starts, noise, **agent.due(next(steps)))

        return run

    def act(self) -> np.ndarray:
        """Choose an action on the latest observation, and wait for it."""
        noise = torch.randn(self.env.action_dim, generator=self.streams["exploration"])
        obs = torch.from_numpy(self.env.observation)
        return self.agent.act(obs[None], noise[None])[0].cpu().numpy()

    def environment_step(self, action: np.ndarray | None = None) -> None:
        """Step the simulator, by a random action if none is given, and store what it showed."""
        if self.env.episode_over:
            self.replay.start_episode(self.env.reset()[0][-COLOURS:])
        if action is None:
            generator = self.streams["exploration"]
            action = (torch.rand(self.env.action_dim, generator=generator) * 2 - 1).numpy()
        obs, reward, terminated, truncated, _ = self.env.step(action)
        self.replay.add(action, reward, obs[-COLOURS:], terminated, truncated)

    def step(self) -> None:
        """A whole step of training: act, learn, step the simulator, store."""
        if self.env.episode_over:
            self.replay.start_episode(self.env.reset()[0][-COLOURS:])
        action = self.act()
        self.update()
        self.environment_step(action)

    def part_seconds(self, blocks: int) -> dict[str, float]:
        """Time of each part, in the mean of updates; only of updates that run as they are."""
        agent, objective = self.agent, self.agent.objective_optimizer
        parts = [
            Part(self.replay, "draw", "sampling"),
            Part(self.replay, "gather", "sampling"),
            Part(agent, "draw_noise", "sampling"),
            Part(Augmentation, "__call__", "augmentation"),
            Part(agent, "update_critic", "RL forward"),
            Part(agent, "update_actor", "RL forward"),
            Part(agent.critic_optimizer, "accumulate", "RL backward"),
            Part(agent.actor_optimizer, "accumulate", "RL backward"),
            Part(agent, "update_objective", "objective forward"),
            Part(Optimizer, "step", "optimizers"),
            Part(agent, "update_targets", "targets"),
        ]
        if objective is not None:
            parts.append(Part(objective, "accumulate", "objective backward"))
        with PartTimer(parts, self.device) as timer:
            for _ in range(blocks):
                self.update_block()
        return {name: value / (blocks * self.block) for name, value in timer.seconds().items()}

    @property
    def optimizer_bytes(self) -> float:
        """Memory traffic of Adam in the mean update, if all is read and written once."""
        agent = self.agent
        often = [agent.critic_optimizer, agent.objective_optimizer]
        numbers = 1.0 * sum(each.numel() for some in often if some for each in some.parameters)
        rare = [*agent.actor_optimizer.parameters, *agent.temperature_optimizer.parameters]
        numbers += sum(each.numel() for each in rare) / agent.settings.actor_update_every
        return 7 * 4.0 * numbers  # reads p, g, m and v, writes p, m and v; float32
