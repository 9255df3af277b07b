"""Puts an agent together from a checked config; the only reader of `cfg` besides train.py."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from .augmentation import Augmentation
from .machine import keep_freed_memory
from .networks import Encoder, Networks
from .objectives import objective_type
from .renderer import choose_renderer
from .run.seeding import initialisation
from .sac import SAC, SACSettings
from .settings import AgentSettings, Config, agent_settings, objective_weight


def set_up_process(cfg: Config) -> torch.device:
    """Choose what holds for the whole process, before anything else is built; returns the device.

    These are the device, the renderer, bit-identical or fastest kernels, the precision of CUDA's
    matrix products, the CPU's threads and memory. On the CPU runs are bit-identical either way, at
    a fixed number of threads.

    Raises:
        ConfigError: no renderer works.
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
    choose_renderer(device.index)
    return device


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", 0) if name == "cuda" else torch.device(name)


def build_agent(
    agent: AgentSettings | Mapping[str, Any],
    *,
    obs_shape: tuple[int, int, int],
    action_dim: int,
    device: torch.device | str,
    seed: int,
    precision: str = "fp32",
) -> SAC:
    """The agent of a run, with its initial weights.

    Args:
        agent: the section `agent` of the configuration, or its plain values.
        obs_shape: (S*C, H, W), H = W, of uint8 observations as rendered.
        seed: the run's; weights are drawn on the CPU and do not depend on the device.
        precision: `fp32`, `tf32` (matrix products of CUDA; elsewhere fp32) or `bf16`.

    Raises:
        ConfigError: settings that do not fit each other or the observations.
    """
    settings = agent_settings(agent)
    with initialisation(seed, "agent"):
        networks = _networks(settings, obs_shape[0], action_dim, precision)
    image_size = obs_shape[-1]
    augmentation = _augmentation(
        settings,
        settings.augmentation,
        image_size,
        "agent.augmentation",
        skip_last_offset=settings.skip_last_crop_offset,
    )
    weight = objective_weight(settings)
    objective = None
    if weight > 0:
        kind = objective_type(str(settings.objective))
        menu, key = (
            getattr(settings, "objective_augmentation", None),
            "agent.objective_augmentation",
        )
        views = augmentation if menu is None else _augmentation(settings, menu, image_size, key)
        # A seed of its own, so that adding an objective leaves the agent's weights alone.
        with initialisation(seed, "objective"):
            objective = kind(settings, networks, views)
    return SAC(settings, networks, augmentation, objective, weight, device)


def _networks(settings: SACSettings, channels: int, action_dim: int, precision: str) -> Networks:
    encoder = Encoder(
        channels,
        settings.crop_size,
        settings.num_filters,
        settings.conv_strides,
        settings.latent_dim,
        precision,
        settings.latent_tanh,
    )
    return Networks(
        encoder,
        action_dim,
        hidden_dim=settings.hidden_dim,
        log_std=(settings.log_std_min, settings.log_std_max),
        initial_temperature=settings.initial_temperature,
        critic_tau=settings.critic_tau,
        encoder_tau=settings.encoder_tau,
        conv_init=settings.conv_init,
    )


def _augmentation(
    settings: SACSettings,
    menu: tuple[str, ...],
    image_size: int,
    key: str,
    skip_last_offset: bool = False,
) -> Augmentation:
    return Augmentation(
        menu,
        image_size,
        settings.crop_size,
        shift_pad=settings.shift_pad,
        intensity_scale=settings.intensity_scale,
        skip_last_offset=skip_last_offset,
        key=key,
    )
