"""Pixels from latents, for the ablation that reconstructs images instead of latents."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ..networks import Encoder


class PixelDecoder(nn.Module):
    """The encoder's convolutions backwards: transposed, of the same kernels and strides."""

    def __init__(self, encoder: Encoder, image_size: int) -> None:
        super().__init__()
        self.feature_shape = encoder.feature_shape
        side, layers = image_size, list[nn.Module]()
        for each in encoder.modules():
            if isinstance(each, nn.Conv2d):
                kernel, stride = int(each.kernel_size[0]), int(each.stride[0])
                # What the encoder's layer leaves over at the border is put back.
                rest, wide = (side - kernel) % stride, each.out_channels
                back = nn.ConvTranspose2d(
                    wide, each.in_channels, kernel, stride, output_padding=rest
                )
                layers.insert(0, back)
                side = (side - kernel) // stride + 1
        self.layers = nn.ModuleList(layers)

    def forward(self, latents: Tensor) -> Tensor:
        """(N, Z) -> (N, S*C, H, W)."""
        images = latents.unflatten(1, self.feature_shape)
        for i, layer in enumerate(self.layers):
            images = layer(F.relu(images) if i else images)
        return images


def pixel_errors(images: Tensor, target: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Mean squared error of each image: (N, C, H, W) twice -> (N).

    Args: `hidden`: bool (N, 1, H, W), the pixels that count; None: all.
    """
    errors = (images - target).square().mean(dim=1)
    if hidden is None:
        return errors.mean(dim=(1, 2))
    counts = hidden.squeeze(1)
    return (errors * counts).sum(dim=(1, 2)) / counts.sum(dim=(1, 2)).clamp_min(1)
