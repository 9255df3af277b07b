"""Mask-based latent reconstruction (MLR): reinforcement learning from few pixels."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .policy import load_policy as load_policy

# Threads that wait for each other spin, which beside a busy neighbour costs up to 60 times what is
# gained; OpenMP reads how long when PyTorch is loaded. It changes no result. The user's word holds.
if not any(map(os.environ.get, ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"))):
    os.environ["GOMP_SPINCOUNT"] = "10000"


def __getattr__(name: str) -> Any:
    """`load_policy`, imported when it is asked for: most of this package needs no PyTorch."""
    if name != "load_policy":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from .policy import load_policy

    return load_policy
