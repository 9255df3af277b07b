"""One update of a run, from the draw to the watch for non-finite numbers, as fast as configured."""

from __future__ import annotations

import torch
from torch import Tensor

from .batch import Batch, UpdateNoise
from .device import OnDevice, compile_methods
from .parts import Parts
from .run.guard import NonFiniteGuard
from .run.progress import LastMetrics
from .run.seeding import Streams

_LOSSES = ("critic_terms", "actor_terms")


class Learner:
    """Improves the agent, an update at a time; never waits for the device."""

    def __init__(
        self,
        parts: Parts,
        streams: Streams,
        metrics: LastMetrics,
        guard: NonFiniteGuard,
        *,
        compile_losses: bool,
        cuda_graph: bool,
    ) -> None:
        """Args: `metrics`, `guard`: told of each update. The last two: see configs/train.yaml.

        Raises:
            ConfigError: a CUDA graph on another device.
        """
        self.parts, self.streams, self.metrics, self.guard = parts, streams, metrics, guard
        self.agent, self.replay = parts.agent, parts.replay
        if compile_losses:
            compile_methods(self.agent, *_LOSSES)
            if self.agent.objective is not None:
                compile_methods(self.agent.objective, "loss")
        self._learn = OnDevice(self.learn, self.agent.device, cuda_graph=cuda_graph)

    def update(self, agent_step: int, update_step: int) -> tuple[Batch, UpdateNoise]:
        """Draw a batch and its noise, and improve the agent.

        Returns:
            Both on the device, valid until the next update.
        """
        agent, size, draws = self.agent, self.agent.settings.batch_size, self.streams["replay"]
        transitions, windows = self.replay.draw(draws, size, self.parts.num_windows)
        inputs = {
            "transitions": transitions,
            "windows": windows,
            "noise": agent.draw_noise(self.streams),
            "update_step": torch.tensor(update_step),
        }
        agent.set_schedules()
        latest: tuple[Batch, UpdateNoise] = self._learn(inputs, **agent.due(agent_step))
        agent.update_step += 1
        return latest

    def learn(
        self,
        transitions: Tensor,
        windows: Tensor | None,
        noise: UpdateNoise,
        update_step: Tensor,
        *,
        actor_step: bool,
        target_step: bool,
    ) -> tuple[Batch, UpdateNoise]:
        """What the device does of an update: tensors in, tensors out, nothing fetched."""
        batch = self.replay.gather(transitions, windows)
        self.metrics.update(
            self.agent.compute_update(batch, noise, actor_step=actor_step, target_step=target_step)
        )
        self.guard.observe(update_step)
        return batch, noise
