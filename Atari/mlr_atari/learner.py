"""One update of a run, from the draw to the new priorities, as fast as configured."""

from __future__ import annotations

import torch
from torch import Tensor

from .batch import Batch, UpdateNoise
from .device import OnDevice, compile_methods
from .parts import Parts
from .run.guard import NonFiniteGuard
from .run.progress import LastMetrics
from .run.seeding import Streams

_LOSSES = ("rl_loss",)


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
        self.streams, self.metrics, self.guard = streams, metrics, guard
        self.agent, self.replay = parts.agent, parts.replay
        if compile_losses:
            compile_methods(self.agent, *_LOSSES)
            if self.agent.objective is not None:
                compile_methods(self.agent.objective, "loss")
        self._learn = OnDevice(self.learn, self.agent.device, cuda_graph=cuda_graph)

    def update(self, agent_step: int, update_step: int) -> tuple[Batch, UpdateNoise]:
        """Draw a batch and its noise, improve the agent, rate the batch.

        Returns:
            Both on the device, valid until the next update.
        """
        agent, draws = self.agent, self.streams["replay"]
        size = (agent.settings.batch_size,)
        inputs = {
            "uniforms": torch.rand(size, generator=draws, dtype=torch.float64),
            "importance_exponent": torch.tensor(agent.settings.importance_exponent(agent_step)),
            "noise": agent.draw_noise(self.streams),
            "update_step": torch.tensor(update_step),
        }
        latest: tuple[Batch, UpdateNoise] = self._learn(inputs, **agent.due())
        agent.update_step += 1
        return latest

    def learn(
        self,
        uniforms: Tensor,
        importance_exponent: Tensor,
        noise: UpdateNoise,
        update_step: Tensor,
        *,
        copy_target: bool,
    ) -> tuple[Batch, UpdateNoise]:
        """What the device does of an update: tensors in, tensors out, nothing fetched."""
        indices = self.replay.draw(uniforms)
        batch = self.replay.gather(indices, importance_exponent)
        metrics, priorities = self.agent.compute_update(batch, noise, copy_target=copy_target)
        self.replay.update_priorities(indices, priorities)
        self.metrics.update(metrics)
        self.guard.observe(update_step)
        return batch, noise
