"""Mask-based latent reconstruction (MLR): reinforcement learning from few pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .policy import load_policy

__all__ = ["load_policy"]


def __getattr__(name: str) -> Any:
    """`load_policy`, imported when it is asked for: most of this package needs no PyTorch."""
    if name != "load_policy":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from .policy import load_policy

    return load_policy
