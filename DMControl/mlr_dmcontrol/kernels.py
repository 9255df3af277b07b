"""Fewer, larger kernels of a GPU, in place of several operations of PyTorch each.

`fused_kernels=true` switches them on; they have not been measured on a GPU yet. What they replace
stays on the CPU and with torch.compile, which fuses by itself; tests compare the two.
"""

from __future__ import annotations  # in which tl may be missing

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import ConfigError

if TYPE_CHECKING:
    from .frames import FrameStacks

try:
    import triton
    from triton import language as tl
except ImportError:  # as with PyTorch's builds for CPUs
    triton = None

_BLOCK = 128  # pixels that a program of the kernel writes
_switch = {"on": False}


def switch(on: bool) -> None:
    """Use these kernels in this process, or do not. Raises: ConfigError: Triton is missing."""
    if on and triton is None:
        raise ConfigError("fused_kernels=true: needs the package triton; set fused_kernels=false")
    _switch["on"] = on


def fused(tensor: Tensor) -> bool:
    """Whether what is computed from `tensor` is to use the kernels of this file."""
    if torch.compiler.is_compiling() or type(tensor) is not Tensor:  # as in a dry run
        return False
    return _switch["on"] and tensor.is_cuda


# ---- convolution, bias and ReLU ----------------------------------------------------------------


def convolution_relu(images: Tensor, layer: nn.Conv2d) -> Tensor:
    """max(0, layer(images)), (N, C, H, W): with `fused` one call of cuDNN, its gradient two.

    Images as `views` makes them are read with the zeros behind their channels.
    """
    if not fused(images):
        return F.relu(layer(images), inplace=True)
    weight, bias, kind = layer.weight, layer.bias, images.device.type
    spare = images.stride(3) - images.shape[1] if images.stride(1) == 1 else 0
    if spare > 0:
        number, channels, *size = images.shape
        images = images.as_strided((number, channels + spare, *size), images.stride())
        weight = F.pad(weight, (0, 0, 0, 0, 0, spare))
    assert bias is not None
    if torch.is_autocast_enabled(kind):  # which knows the convolution alone, not this call
        dtype = torch.get_autocast_dtype(kind)
        images, weight, bias = images.to(dtype), weight.to(dtype), bias.to(dtype)
    options = layer.stride, layer.padding, layer.dilation, layer.groups
    return _ConvolutionReLU.apply(images, weight, bias, options)


class _ConvolutionReLU(torch.autograd.Function):
    """Keeps the output instead of what came before the ReLU: where it is 0, so is the gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, options: Any) -> Tensor:
        if images.is_cuda:
            outputs = torch.cudnn_convolution_relu(images, weight, bias, *options)
        else:
            outputs = F.conv2d(images, weight, bias, *options).relu_()
        ctx.options = options
        ctx.save_for_backward(images, weight, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        images, weight, outputs = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        gradient = torch.ops.aten.threshold_backward(gradient, outputs, 0)
        shared = (gradient, images, weight, [len(weight)], stride, padding, dilation)
        wanted = list(ctx.needs_input_grad[:3])
        return *torch.ops.aten.convolution_backward(*shared, False, [0, 0], groups, wanted), None


# ---- images, from the ring of frames to the encoder ----------------------------------------------


def views(
    obs: FrameStacks,
    offsets: Tensor,
    factor: Tensor | float,
    hidden: FrameStacks | None,
    size: int,
    pad: int,
) -> Tensor:
    """Gather, crop or shift, hide, scale, and lay out for the convolutions, in one pass.

    Args:
        obs, offsets, hidden: as `Augmentation` has them, N stacks in all.
        factor: float32 (*lead), from bytes to the network's input, or one for all.
        size: side of the result in pixels. pad: pixels that the border is repeated first.

    Returns:
        float32 (N, S*C, size, size), channels last. In memory as many zeros follow a pixel's
        channels as make their number a power of 2, which is what tensor cores read fastest.
    """
    index = obs.index.flatten(0, -2).contiguous()
    number, stack = index.shape
    channels, height, width = obs.frames.shape[1:]
    width_of_pixel = triton.next_power_of_2(stack * channels)
    shape = (number, size, size, width_of_pixel)
    images = torch.empty(shape, dtype=torch.float32, device=index.device)
    if not isinstance(factor, Tensor):
        factor = torch.full((number,), factor, dtype=torch.float32, device=index.device)
    covers, cover = (index, index) if hidden is None else (hidden.frames, hidden.index)
    _views[number, triton.cdiv(size * size, _BLOCK)](
        obs.frames.contiguous(), index, offsets.contiguous(), factor.contiguous(),
        covers.contiguous(), cover.contiguous(), images, height, width, size, pad,
        channels, stack, width_of_pixel, hidden is not None, _BLOCK,
    )  # fmt: skip
    return images.permute(0, 3, 1, 2)[:, : stack * channels]


def _views_kernel(  # type: ignore[no-untyped-def]
    frames, index, offsets, factor, covers, cover, images, height, width, size, pad,
    CHANNELS: tl.constexpr, STACK: tl.constexpr, WIDTH: tl.constexpr, HIDES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of pixels of one image; places in the ring need 64 bits."""
    image = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size * size
    row = tl.load(offsets + 2 * image) + pixel // size - pad
    column = tl.load(offsets + 2 * image + 1) + pixel % size - pad
    row = tl.minimum(tl.maximum(row, 0), height - 1)
    column = tl.minimum(tl.maximum(column, 0), width - 1)
    place = row * width + column
    channel = tl.arange(0, WIDTH)
    real = channel < STACK * CHANNELS
    frame = tl.load(index + image * STACK + channel // CHANNELS, mask=real, other=0)
    plane = (frame * CHANNELS + channel % CHANNELS) * height * width
    shown = inside[:, None] & real[None, :]
    values = tl.load(frames + plane[None, :] + place[:, None], mask=shown, other=0)
    values = values.to(tl.float32) * tl.load(factor + image)
    if HIDES:
        start = tl.load(cover + image) * height * width
        hides = tl.load(covers + start + place, mask=inside, other=0)
        values = tl.where(hides[:, None] != 0, 0.0, values)
    target = (image * size * size + pixel[:, None]) * WIDTH + channel[None, :]
    tl.store(images + target, values, mask=inside[:, None])


_views: Any = None if triton is None else triton.jit(_views_kernel)
