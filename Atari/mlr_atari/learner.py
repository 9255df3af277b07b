"""One update of a run, from the draw to the new priorities, as fast as configured."""

from __future__ import annotations

import torch
from torch import Tensor

from .batch import Batch, UpdateNoise
from .device import OnDevice, compile_methods
from .rainbow import Rainbow
from .replay import SequenceReplay
from .run.guard import NonFiniteGuard
from .run.progress import LastMetrics
from .run.seeding import Streams

_LOSSES = ("rl_loss",)


class Learner:
    """Improves the agent, an update at a time; never waits for the device.

    Attributes:
        metrics: the latest values of all that updates report. guard: watches them.
        latest: batch and noise of the last update, on the device; None before the first.
    """

    def __init__(
        self,
        agent: Rainbow,
        replay: SequenceReplay,
        streams: Streams,
        *,
        compile_losses: bool,
        cuda_graph: bool,
    ) -> None:
        """Args: `streams`: all randomness. The last two: see configs/train.yaml."""
        self.agent, self.replay, self.streams = agent, replay, streams
        self.metrics = LastMetrics(agent.metric_names, agent.device)
        self.guard = NonFiniteGuard(self.metrics.values)
        self.latest: tuple[Batch, UpdateNoise] | None = None
        if compile_losses:
            compile_methods(agent, *_LOSSES)
            if agent.objective is not None:
                compile_methods(agent.objective, "loss")
        self._update = OnDevice(self._on_device, agent.device, cuda_graph=cuda_graph)

    @property
    def diagnostic_names(self) -> tuple[str, ...]:
        """Names of what `diagnostics` reports."""
        return () if self.agent.objective is None else self.agent.objective.diagnostic_names

    def update(self, agent_step: int) -> None:
        """Draw a batch and its noise, improve the agent, rate the batch."""
        agent, settings = self.agent, self.agent.settings
        inputs = {
            "uniforms": self.replay.draw(self.streams["replay"], settings.batch_size),
            "importance_exponent": torch.tensor(settings.importance_exponent(agent_step)),
            "noise": agent.draw_noise(self.streams),
            "update_step": torch.tensor(agent.update_step),
        }
        agent.set_schedules(agent_step)
        self.latest = self._update(inputs, **agent.due())
        agent.update_step += 1

    def _on_device(
        self,
        uniforms: Tensor,
        importance_exponent: Tensor,
        noise: UpdateNoise,
        update_step: Tensor,
        **due: bool,
    ) -> tuple[Batch, UpdateNoise]:
        """What the device does of an update: tensors in, tensors out, nothing fetched."""
        slots = self.replay.find(uniforms)
        batch = self.replay.gather(slots, importance_exponent)
        metrics, priorities = self.agent.update(batch, noise, **due)
        self.replay.update_priorities(slots, priorities)
        self.metrics.update(metrics)
        self.guard.observe(update_step)
        return batch, noise

    def diagnostics(self) -> dict[str, float]:
        """The objective's signs of health on the latest batch; synchronises."""
        if self.latest is None or self.agent.objective is None:
            return {}
        batch, noise = self.latest
        return self.agent.objective.diagnostics(self.agent.encoder, batch, noise.objective)

    def preview(self) -> Tensor | None:
        """What the objective sees of the latest batch, uint8 RGB (3, H, W), if there is any."""
        if self.latest is None or self.agent.objective is None:
            return None
        batch, noise = self.latest
        return self.agent.objective.preview(batch, noise.objective)
