"""Puts an agent together from a checked config; the only reader of `cfg` besides train.py."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from .augmentation import Augmentation
from .losses import ActionValues, CategoricalValues, ScalarValues
from .machine import keep_freed_memory
from .networks import DuelingHead, Encoder, QNetwork
from .objectives import objective_type
from .rainbow import Rainbow, RainbowSettings
from .run.seeding import initialisation
from .settings import AgentSettings, Config, agent_settings, objective_weight


def set_up_process(cfg: Config) -> torch.device:
    """Choose what holds for the whole process, before anything else is built; returns the device.

    These are the device, bit-identical or fastest kernels, the precision of CUDA's matrix products,
    the CPU's threads and memory. On the CPU runs are bit-identical either way, at a fixed number of
    threads.
    """
    device = _device(cfg.device)
    if cfg.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(cfg.deterministic)
    # Filling fresh memory guards against reading it, costs a kernel each, and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = cfg.deterministic
    torch.backends.cudnn.benchmark = not cfg.deterministic
    torch.backends.cuda.matmul.allow_tf32 = cfg.precision != "fp32"
    torch.backends.cudnn.allow_tf32 = cfg.precision != "fp32"
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", 0) if name == "cuda" else torch.device(name)


def build_agent(
    agent: AgentSettings | Mapping[str, Any],
    *,
    obs_shape: tuple[int, int, int],
    num_actions: int,
    device: torch.device,
    seed: int,
    precision: str = "fp32",
) -> Rainbow:
    """The agent of a run, with its initial weights.

    Args:
        agent: the section `agent` of the configuration, or its plain values.
        obs_shape: (S*C, H, W), H = W, of uint8 observations.
        seed: the run's; weights are drawn on the CPU and do not depend on the device.
        precision: `fp32`, `tf32` (matrix products of CUDA; elsewhere fp32) or `bf16`.

    Raises:
        ConfigError: settings that do not fit each other or the observations.
    """
    settings = agent_settings(agent)
    with initialisation(seed, "agent"):
        network, values = _build_network(settings, obs_shape, num_actions, precision)
    augmentation = Augmentation(
        settings.augmentation, obs_shape[-1], settings.shift_pad, settings.intensity_scale
    )
    weight = objective_weight(settings)
    objective = None
    if weight > 0:
        kind = objective_type(str(settings.objective))
        # A seed of its own, so that adding an objective leaves the agent's weights alone.
        with initialisation(seed, "objective"):
            objective = kind(settings, network, augmentation, settings.batch_size)
    return Rainbow(settings, network, values, augmentation, objective, weight, device)


def _build_network(
    settings: RainbowSettings, obs_shape: tuple[int, int, int], num_actions: int, precision: str
) -> tuple[QNetwork, ActionValues]:
    """The Q network, and how its outputs are read; weights from torch's global generator."""
    values: ActionValues = (
        CategoricalValues(settings.num_atoms, settings.v_min, settings.v_max)
        if settings.values == "categorical"
        else ScalarValues(settings.huber_delta)
    )
    encoder = Encoder(
        obs_shape, settings.encoder, settings.num_filters, settings.renormalize, precision
    )
    head = DuelingHead(
        encoder.latent_dim,
        num_actions,
        values.num_atoms,
        settings.hidden_dim,
        settings.noisy_sigma,
    )
    return QNetwork(encoder, head), values
