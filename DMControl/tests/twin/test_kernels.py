"""Kernels that replace several operations compute the same, as far as a CPU can say.

Triton's kernels run on the CPU in its interpreter (conftest.py switches it on) where it is
installed: PyTorch's builds for CPUs come without it.
"""

from typing import Any

import pytest
import torch
from test_learner import make_learner, updated
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from mlr_dmcontrol import augmentation, kernels
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.frames import FrameStacks

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def results(images: Tensor, layer: nn.Conv2d) -> list[Tensor]:
    """Outputs and the gradients of images, weight and bias."""
    images = images.detach().requires_grad_()
    outputs = kernels.convolution_relu(images, layer)
    gradients = torch.autograd.grad(outputs.square().sum(), [images, layer.weight, layer.bias])
    return [outputs.detach(), *gradients]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_and_relu_in_one(
    device: str, bf16: bool, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # which each rounds its way
    images = draw(3, 5, 11, 11).to(device, memory_format=torch.channels_last)
    layer = nn.Conv2d(5, 8, 3, stride).to(device, memory_format=torch.channels_last)  # type: ignore
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        plain = results(images, layer)
        monkeypatch.setattr(kernels, "fused", lambda _: True)
        fused = results(images, layer)
    assert fused[0].dtype == (torch.bfloat16 if bf16 else torch.float32)
    assert 0.2 < (fused[0] == 0).float().mean() < 0.8
    for mine, theirs in zip(fused, plain, strict=True):
        assert device != "cpu" or torch.equal(mine, theirs)
        torch.testing.assert_close(mine, theirs, rtol=2e-2 if bf16 else 1e-4, atol=1e-2)


def test_zeros_behind_the_channels_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    padded = F.pad(draw(2, 8, 8, 9), (0, 7)).permute(0, 3, 1, 2)[:, :9]
    layer = nn.Conv2d(9, 4, 3)
    expected = kernels.convolution_relu(padded.contiguous(), layer)
    monkeypatch.setattr(kernels, "fused", lambda _: True)
    torch.testing.assert_close(kernels.convolution_relu(padded, layer), expected)


def stacks(device: str) -> tuple[FrameStacks, FrameStacks, Tensor, Tensor]:
    """Observations of any lead, what hides their pixels, and factors; and offsets up to 8."""
    frames = draw(20, 3, 20, 20, seed=1).mul(99).to(torch.uint8).to(device)
    masks = (draw(5, 1, 20, 20, seed=2) > 0).to(torch.uint8).to(device)
    lead = torch.arange(6, device=device).view(3, 2)
    hidden = FrameStacks(masks, lead[..., None] % 5)
    obs = FrameStacks(frames, lead[..., None] * 3 + torch.arange(3, device=device))
    offsets = torch.stack([lead, 8 - lead], dim=-1)
    return obs, hidden, offsets, draw(3, 2, seed=3).to(device)


def plain_views(
    obs: FrameStacks, offsets: Tensor, factor: Any, hidden: FrameStacks | None, size: int, pad: int
) -> Tensor:
    """As `kernels.views`, operation by operation."""

    def placed(stacks: FrameStacks) -> Tensor:
        images = stacks.shift(offsets, pad) if pad else stacks.crop(offsets, size)
        return images.flatten(0, -4)

    images = placed(obs) if hidden is None else placed(obs) * (1 - placed(hidden))
    factors = factor.view(-1, 1, 1, 1) if isinstance(factor, Tensor) else factor
    return (images.float() * factors).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_images_in_one_pass(device: str, hides: bool) -> None:
    if kernels.triton is None or (device == "cpu" and torch.cuda.is_available()):
        pytest.skip("needs the package triton; beside a GPU it is compiled")
    obs, hidden, offsets, factor = stacks(device)
    for size, pad, scale in ((12, 0, factor), (20, 4, factor), (12, 0, 1 / 255)):
        inputs = obs, offsets, scale, hidden if hides else None, size, pad
        images = kernels.views(*inputs)
        assert torch.equal(images, plain_views(*inputs))
        assert images.stride() == (16 * size**2, 1, 16 * size, 16)
        whole = images.as_strided((6, 16, size, size), images.stride())
        assert not whole[:, 9:].any()


def test_whole_updates_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, other = make_learner("mlr"), make_learner("mlr")
    expected = [updated(plain, 2000 + step) for step in range(2)]
    for module in (kernels, augmentation):
        monkeypatch.setattr(module, "fused", lambda _: True)
    if kernels.triton is None:
        monkeypatch.setattr(augmentation, "views", plain_views)
    for step, metrics in enumerate(expected):
        torch.testing.assert_close(updated(other, 2000 + step), metrics, rtol=1e-4, atol=1e-6)


def test_a_dry_run_counts_what_they_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels._switch, "on", True)
    with FakeTensorMode():
        assert not kernels.fused(torch.empty(1, device="cuda"))


def test_without_triton_they_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "triton", None)
    with pytest.raises(ConfigError, match=r"^fused_kernels=true: "):
        kernels.switch(True)
