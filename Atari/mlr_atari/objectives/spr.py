"""Self-predictive representations (Schwarzer et al. 2021): predict own latents."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..augmentation import Augmentation, AugmentationNoise
from ..batch import Batch
from ..networks import ConvEncoder, QNetwork
from ..ranges import bounded
from .heads import health_names
from .interface import Metrics, Objective, Streams
from .prediction import LatentPrediction, PredictionNoise


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Keys of configs/agent/spr.yaml, which says what each one is."""

    spr_weight: float = bounded(0)
    sequence_length: int = bounded(2)
    target_ema_tau: float = bounded(0, 1)
    strict_end_mask: bool


class SPR(Objective):
    """From the first latent and the actions, predict the projections of the next K latents.

    Momentum targets follow before the optimiser's step, as published; the predictor is unclipped.
    """

    settings_type = Settings
    metric_names = ("loss/spr",)
    diagnostic_names = health_names("spr")
    targets_move = "before_step"

    def __init__(
        self, settings: Settings, network: QNetwork, augmentation: Augmentation, batch_size: int
    ) -> None:
        super().__init__(settings, network, augmentation, batch_size)
        self.lead = (settings.sequence_length - 1, batch_size)
        self.prediction = LatentPrediction(
            network, augmentation, settings.target_ema_tau, settings.strict_end_mask
        )

    def draw_noise(self, streams: Streams, rl_view: AugmentationNoise) -> PredictionNoise:
        return self.prediction.draw_noise(streams, rl_view, self.lead)

    def loss(
        self, encoder: ConvEncoder, batch: Batch, noise: PredictionNoise
    ) -> tuple[Tensor, Metrics]:
        """Mean over K predictions, and over the batch by importance weight."""
        part = self.prediction
        target = part.target_projection(part.target_latents(batch, noise))
        start = part.encode(encoder, batch, noise)
        predictions = part.predictions(encoder, start, batch.action)
        losses = part.losses(predictions, target, batch.ends)
        return (losses * batch.importance_weights).mean(), {"loss/spr": losses.detach().mean()}

    def update_targets(self) -> None:
        self.prediction.update_targets()

    def clip_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"dynamics": list(self.prediction.dynamics.parameters())}

    def diagnostics(
        self, encoder: ConvEncoder, batch: Batch, noise: PredictionNoise
    ) -> dict[str, float]:
        return self.prediction.health("spr", encoder, batch, noise)

    def preview(self, batch: Batch, noise: PredictionNoise) -> Tensor:
        return self.prediction.preview(batch, noise)
