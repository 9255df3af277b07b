"""Shared by all tests: one thread, signals that are heard, stored published numbers (goldens)."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import mlr_dmcontrol  # noqa: F401 (first: it says how the threads of PyTorch wait)

# isort: split
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def pytest_configure() -> None:
    torch.set_num_threads(1)
    if not torch.cuda.is_available():  # Triton's kernels run on the CPU, where it is installed
        os.environ["TRITON_INTERPRET"] = "1"
    # As in a run, before anything renders: this loads Triton, where there is one, whose LLVM
    # crashes if a software OpenGL has loaded its own first.
    torch.use_deterministic_algorithms(False)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(autouse=True)
def _without_nohup() -> Iterator[None]:
    """Tests are about a signal that is heard, also where nohup started them."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


class Golden:
    """One file of goldens. Parameters are stored as float16 but exact; they come as float32."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.arrays: dict[str, Any] = {name: file[name] for name in file.files}

    def __getitem__(self, name: str) -> Any:
        """The raw numpy array."""
        return self.arrays[name]

    def names(self, prefix: str) -> list[str]:
        """Names below `prefix`, without it and without `|stats` and its like, in file order."""
        found = (name for name in self.arrays if name.startswith(prefix))
        return list(dict.fromkeys(name.removeprefix(prefix).split("|")[0] for name in found))

    def tensor(self, name: str) -> torch.Tensor:
        """Array `name` as a tensor; any floating type becomes float32."""
        tensor = torch.from_numpy(np.array(self.arrays[name]))
        return tensor.float() if tensor.is_floating_point() else tensor

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """All complete arrays below `prefix`, by the rest of their names."""
        return {
            name.removeprefix(prefix): self.tensor(name)
            for name in self.arrays
            if name.startswith(prefix) and "|" not in name
        }

    def check(
        self, name: str, value: torch.Tensor | None, rtol: float = 2e-4, atol: float = 0.0
    ) -> None:
        """Compare `value` with what is stored: all of it, or its `|stats` and `|sample`.

        `rtol` is relative to the stored array's largest magnitude, as the goldens' README
        suggests; None matches a gradient stored as `|none`.
        """
        if f"{name}|none" in self.arrays:
            assert value is None, f"{name} must receive no gradient"
            return
        assert value is not None, f"{name} must receive a gradient"
        mine = value.detach().double().cpu().contiguous().numpy()
        whole, stats, sample = (self.arrays.get(name + of) for of in ("", "|stats", "|sample"))
        assert any(part is not None for part in (whole, stats, sample)), f"no golden is {name}"
        if whole is not None:
            _close(name, mine, whole, rtol, atol)
        if stats is not None:
            sums = [mine.sum(), np.abs(mine).sum(), np.sqrt((mine**2).sum())]
            # The plain sum may cancel, so its error is measured against the absolute sum.
            allowed = rtol * stats[[1, 1, 2]] + atol * mine.size
            assert np.all(np.abs(sums - stats) <= allowed + 1e-12), (name, sums, stats)
        if sample is not None:
            places = np.unique(np.linspace(0, mine.size - 1, min(mine.size, 48)).astype(np.int64))
            _close(name, mine.ravel()[places], sample, rtol, atol)


def _close(name: str, mine: Any, stored: Any, rtol: float, atol: float) -> None:
    assert mine.shape == stored.shape, (name, mine.shape, stored.shape)
    stored = np.asarray(stored, np.float64)
    allowed = rtol * np.abs(stored).max(initial=0.0) + atol
    difference = np.abs(mine - stored).max(initial=0.0)
    assert difference <= allowed, f"{name}: off by {difference:.3g}, allowed {allowed:.3g}"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """`golden("dmc_b_latent_decoder")`; from $MLR_GOLDENS, or beside the repository."""
    folder = Path(os.environ.get("MLR_GOLDENS") or ROOT.parent / "shared" / "goldens")
    if not folder.is_dir():
        pytest.skip(f"no goldens at {folder}; set MLR_GOLDENS")
    return cache(lambda name: Golden(folder / f"{name}.npz"))
