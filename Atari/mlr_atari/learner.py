"""One update of a run, from the draw to the new priorities, as fast as configured."""

from typing import Any

import torch
from torch import Tensor

from .batch import Batch, UpdateNoise
from .device import OnDevice, compile_methods
from .rainbow import Rainbow
from .replay import SequenceReplay
from .run.metrics import LatestMetrics
from .run.seeding import Streams


class Learner:
    """Improves the agent, an update at a time; never waits for the device.

    Attributes:
        act: the agent's `act`; its arguments are one mapping of CPU tensors.
        metrics: the latest values of all that updates report, and a watch over them.
    """

    def __init__(
        self, agent: Rainbow, replay: SequenceReplay, streams: Streams, compiled: bool, graph: bool
    ) -> None:
        self.agent, self.replay, self.streams = agent, replay, streams
        self.metrics = LatestMetrics(agent.metric_names, agent.device)
        if compiled:
            compile_methods(agent, "rl_loss")
            if agent.objective is not None:
                compile_methods(agent.objective, "loss")
        self.act = OnDevice(agent.act, agent.device, cuda_graph=graph)
        self._update = OnDevice(self._on_device, agent.device, cuda_graph=graph)
        self._latest: tuple[Batch, Any] | None = None  # and the objective's noise, on the device

    @property
    def diagnostic_names(self) -> tuple[str, ...]:
        """Names of what `diagnostics` reports."""
        return () if self.agent.objective is None else self.agent.objective.diagnostic_names

    def update(self, agent_step: int) -> None:
        """Draw a batch and its noise, improve the agent, rate the batch."""
        agent, settings, size = self.agent, self.agent.settings, self.agent.settings.batch_size
        inputs = {
            "uniforms": torch.rand(size, generator=self.streams["replay"], dtype=torch.float64),
            "exponent": torch.tensor(settings.importance_exponent(agent_step)),
            "noise": agent.draw_noise(self.streams),
            "step": torch.tensor(agent.update_step),
        }
        agent.set_schedules(agent_step)
        self._latest = self._update(inputs, **agent.due(agent_step))
        agent.update_step += 1

    def wait(self) -> None:
        """Let the host wait until the last update is computed."""
        self._update.wait()

    def _on_device(
        self, uniforms: Tensor, exponent: Tensor, noise: UpdateNoise, step: Tensor, **due: bool
    ) -> tuple[Batch, Any]:
        """What the device does of an update: tensors in, tensors out, nothing fetched."""
        slots = self.replay.draw(uniforms)
        batch = self.replay.gather(slots, exponent)
        metrics, priorities = self.agent.update(batch, noise, **due)
        self.replay.update_priorities(slots, priorities)
        self.metrics.update(metrics, step)
        return batch, noise.objective

    def diagnostics(self) -> dict[str, float]:
        """The objective's signs of health on the latest batch; synchronises."""
        if self._latest is None or self.agent.objective is None:
            return {}
        return self.agent.objective.diagnostics(self.agent.encoder, *self._latest)

    def preview(self) -> Tensor | None:
        """What the objective sees of the latest batch, uint8 RGB (3, H, W), if there is any."""
        if self._latest is None or self.agent.objective is None:
            return None
        return self.agent.objective.preview(*self._latest)
