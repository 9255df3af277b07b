"""What is timed: the parts of a training run, on a replay of random frames."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from omegaconf import DictConfig

from ..augmentation import Augmentation
from ..batch import Batch
from ..learner import Learner
from ..parts import Parts
from ..run.progress import LastMetrics
from ..run.seeding import Streams
from .reference import PlainRainbow
from .timing import Part, PartTimer

_EPISODE = 200  # steps of an episode of random frames
_TRANSITIONS = 600  # at least so many before anything is timed


class Workload:
    """Training's own update and step, as often as one likes.

    Attributes:
        block: updates after which the kinds of update repeat.
    """

    def __init__(self, cfg: DictConfig, parts: Parts) -> None:
        self.cfg, self.parts = cfg, parts
        self.agent, self.replay, self.env = parts.agent, parts.replay, parts.env
        self.device = self.agent.device
        self.block = self.agent.settings.target_update_interval
        self.streams = Streams(cfg.seed)
        self.updates = 0
        # As in most of a run: what acts is the network, with the noise of the latest update.
        self.agent.set_schedules(cfg.budget)
        self.fill()
        self.learner = self.make_learner(compile_losses=False, cuda_graph=False)

    def make_learner(self, *, compile_losses: bool, cuda_graph: bool) -> Learner:
        """As a run has it; the one without both is there from the beginning."""
        metrics = LastMetrics(self.agent.metric_names, self.device)
        flags = {"compile_losses": compile_losses, "cuda_graph": cuda_graph}
        return Learner(self.parts, self.streams, metrics, self.parts.guard(), **flags)

    def fill(self, transitions: int = 0) -> None:
        """Store random frames."""
        draws, shape = np.random.default_rng(0), self.env.obs_shape[1:]
        for step in range(min(max(transitions, _TRANSITIONS), self.parts.plan.capacity)):
            frame = draws.integers(0, 256, shape, np.uint8)
            action, reward = int(draws.integers(self.env.num_actions)), float(draws.integers(-1, 2))
            ends = (step + 1) % _EPISODE == 0
            self.replay.add(frame, action, reward, terminated=ends, truncated=False)

    def update(self) -> Batch:
        """One update."""
        batch, _ = self.learner.update(self.cfg.budget, self.updates)
        self.updates += 1
        return batch

    def update_block(self) -> None:
        """One update of each kind, in the proportion of a run."""
        for _ in range(self.block):
            self.update()

    def draw(self) -> Batch:
        """Draw a batch."""
        settings = self.agent.settings
        size, generator = (settings.batch_size,), self.streams["replay"]
        uniforms = torch.rand(size, generator=generator, dtype=torch.float64).to(self.device)
        exponent = torch.tensor(settings.importance_exponent(self.cfg.budget))
        return self.replay.gather(self.replay.draw(uniforms), exponent.to(self.device))

    def sample(self) -> None:
        """Draw a batch and read its observations."""
        batch = self.draw()
        batch.obs.dense()
        batch.n_step_obs.dense()

    def plain_update(self) -> Callable[[], object]:
        """What updates a copy of the agent once, the plain way.

        Raises:
            ConfigError: there is no plain code for one of the agent's options.
        """
        plain = PlainRainbow(self.agent)
        return lambda: plain.update(self.draw(), self.agent.draw_noise(self.streams))

    def act(self) -> int:
        """Choose an action on the latest observation, and wait for it."""
        obs = torch.from_numpy(self.env.observation)[None]
        return int(self.agent.act(obs, self.agent.draw_action_noise(self.streams, 1))[0])

    def environment_step(self, action: int | None = None) -> None:
        """Step the emulator, by a random action if none is given, and store what it showed."""
        if self.env.episode_over:
            self.env.reset()
        obs = self.env.observation
        if action is None:
            generator = self.streams["exploration"]
            action = int(torch.randint(self.env.num_actions, (), generator=generator))
        _, reward, terminated, truncated, _ = self.env.step(action)
        self.replay.add(obs[-1], action, reward, terminated=terminated, truncated=truncated)

    def step(self) -> None:
        """A whole step of training: act, step the emulator, store, learn."""
        if self.env.episode_over:
            self.env.reset()
        self.environment_step(self.act())
        for _ in range(self.cfg.agent.updates_per_step):
            self.update()

    def part_seconds(self, blocks: int) -> dict[str, float]:
        """Time of each part, in the mean of updates; only of updates that run as they are."""
        totals = self._timed(blocks)
        objective = self.agent.objective
        if objective is None:
            totals["RL backward"] = totals.pop("backward")
            return totals
        # The gradient of the sum is computed at once: without the objective, the RL loss remains.
        self.agent.objective = None
        try:
            without = self._timed(blocks)["backward"]
        finally:
            self.agent.objective = objective
        both = totals.pop("backward")
        return totals | {"RL backward": without, "objective backward": max(0.0, both - without)}

    def _timed(self, blocks: int) -> dict[str, float]:
        agent = self.agent
        parts = [
            Part(self.replay, "draw", "sampling"),
            Part(self.replay, "gather", "sampling"),
            Part(self.replay, "update_priorities", "sampling"),
            Part(agent, "draw_noise", "sampling"),
            Part(Augmentation, "__call__", "augmentation"),
            Part(agent, "rl_loss", "RL forward"),
            Part(torch.Tensor, "backward", "backward"),
            Part(agent.optimizer, "step", "optimizers"),
            Part(agent, "clip_gradients", "optimizers"),
            Part(agent, "copy_target", "targets"),
        ]
        if agent.objective is not None:
            parts.append(Part(agent.objective, "loss", "objective forward"))
            parts.append(Part(agent.objective, "update_targets", "targets"))
        with PartTimer(parts, self.device) as timer:
            for _ in range(blocks):
                self.update_block()
        return {name: value / (blocks * self.block) for name, value in timer.seconds().items()}

    @property
    def optimizer_bytes(self) -> float:
        """Memory traffic of Adam in an update, if all is read and written once."""
        return 7 * 4.0 * self.agent.num_parameters  # reads p, g, m and v, writes p, m and v
