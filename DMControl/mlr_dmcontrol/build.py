"""From a checked configuration to the device, the environments, the agent and the replay."""

import ctypes
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .augmentation import Augmentation
from .device import hardware, named_device, processes_beside
from .environment import COLOURS, PixelControlEnv
from .errors import ConfigError
from .kernels import switch
from .names import is_own
from .networks import Networks
from .objectives import objective_type
from .renderer import choose_renderer
from .replay import UniformReplay
from .run.evaluation import EvaluationEnvs
from .run.seeding import episode_seed, initialisation
from .sac import SAC
from .settings import AgentSettings, Config, agent_settings, objective_weight

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True)
class Parts:
    """What a run is made of; evaluation has environments of its own."""

    env: PixelControlEnv
    evaluation_envs: EvaluationEnvs
    agent: SAC
    replay: UniformReplay

    def facts(self, cfg: Config) -> dict[str, Any]:
        """What `run.json` and the banner say of a run beside its status, versions and times."""
        workload, env, agent = cfg.workload, self.env, self.agent
        at_once = getattr(agent.objective, "sequences_at_once", None)
        return {
            "method": cfg.agent.name,
            **env.identity(),
            "seed": cfg.seed,
            "preset": cfg.preset,
            "budget": cfg.budget,
            "agent_steps": workload.agent_steps,
            "env_steps": workload.env_steps,
            "updates": workload.updates,
            "evaluations": len(workload.evaluations),
            "observation": env.obs_shape,
            "actions": env.action_dim,
            "parameters": agent.num_parameters,
            "replay": f"{self.replay.nbytes / 1e6:,.0f} MB for {workload.capacity:,} transitions",
            "device": str(agent.device),
            "precision": cfg.precision,
            "hardware": hardware(agent.device),
            "evaluation_processes": self.evaluation_envs.processes,
            **({} if at_once is None else {"sequences_at_once": at_once}),
        }

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_: object) -> None:
        """Free the simulators and end the workers."""
        self.env.close()
        self.evaluation_envs.close()


def set_up_process(cfg: Config) -> torch.device:
    """Choose what holds for the whole process, before anything else is built; returns the device.

    On the CPU runs are bit-identical with any kernels, at a fixed number of threads.

    Raises: ConfigError: no renderer works.
    """
    device = named_device(cfg.device)
    if device.type == "cuda":  # of several the one that events and kernels mean
        torch.cuda.set_device(device)
    if cfg.deterministic:
        workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG") or ":4096:8"
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace
    torch.use_deterministic_algorithms(cfg.deterministic)
    # Filling fresh memory guards against reading it, costs a kernel each, and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = cfg.deterministic
    torch.backends.cudnn.benchmark = not cfg.deterministic
    torch.backends.cuda.matmul.allow_tf32 = cfg.precision != "fp32"
    torch.backends.cudnn.allow_tf32 = cfg.precision != "fp32"
    switch(cfg.fused_kernels)
    # The encoder's linear map sums tens of thousands of products: not in bf16, also where it is on.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    if device.type == "cpu" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        # glibc: reuse large blocks instead of returning each to the system. Fresh pages for every
        # activation would cost a fifth of the time of an update.
        mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)
        mallopt(_M_TRIM_THRESHOLD, -1)
    try:
        choose_renderer(device.index)
    except ConfigError:
        if not is_own(cfg.task.name):  # which may need none
            raise
    return device


def build_parts(cfg: Config, device: torch.device) -> Parts:
    """Everything with its initial state, which the seed fixes.

    Raises: ConfigError: settings that do not fit each other.
    """
    evaluation, env = cfg.evaluation, training_environment(cfg)
    agent = agent_for(cfg, env, device)
    replay = replay_for(agent, cfg.workload.capacity)
    make, processes = evaluation_factory(cfg), processes_beside(device, evaluation.processes)
    places = EvaluationEnvs(make, evaluation.episodes, processes, full_batches=True)
    return Parts(env, places, agent, replay)


def replay_for(agent: SAC, capacity: int) -> UniformReplay:
    """Room for so many transitions, of which the agent's batches are made."""
    objective, side = agent.objective, agent.augmentation.image_size
    length = objective.sequence_length if objective and objective.sequence_batch_size else None
    return UniformReplay(
        capacity,
        frame_shape=(COLOURS, side, side),
        action_dim=agent.networks.action_dim,
        frame_stack=agent.networks.encoder.channels // COLOURS,
        sequence_length=length,
        device=agent.device,
    )


def training_environment(cfg: Config) -> PixelControlEnv:
    """The run's task to train in; an own one is tried out. Raises: ConfigError: as the class."""
    seeds = partial(episode_seed, cfg.seed, "train")
    return PixelControlEnv(cfg.task.name, cfg.environment, seeds)


def evaluation_factory(cfg: Config) -> Callable[[], PixelControlEnv]:
    """Makes environments of the run's task to evaluate in; can be sent to processes."""
    return partial(PixelControlEnv, cfg.task.name, cfg.environment)


def agent_for(cfg: Config, env: PixelControlEnv, device: torch.device) -> SAC:
    """The run's agent; raises as `build_agent`."""
    shape: Any = {"obs_shape": env.obs_shape, "action_dim": env.action_dim}
    return build_agent(cfg.agent, **shape, device=device, seed=cfg.seed, precision=cfg.precision)


def build_agent(
    agent: AgentSettings | Mapping[str, Any],
    *,
    obs_shape: tuple[int, int, int],
    action_dim: int,
    device: torch.device | str,
    seed: int,
    precision: str = "fp32",
) -> SAC:
    """An agent with its initial weights.

    Args:
        agent: the section `agent` of the configuration, or its plain values.
        obs_shape: (S*C, H, W), H = W, of uint8 observations as rendered.
        seed: the run's; weights are drawn on the CPU and do not depend on the device.
        precision: `fp32`, `tf32` (matrix products of CUDA; elsewhere fp32) or `bf16`.

    Raises: ConfigError: settings that do not fit each other or the observations.
    """
    settings = agent_settings(agent)
    with initialisation(seed, "agent"):
        networks = Networks(settings, obs_shape[0], action_dim, precision)
    views = partial(
        Augmentation,
        image_size=obs_shape[-1],
        crop_size=settings.crop_size,
        shift_pad=settings.shift_pad,
        intensity_scale=settings.intensity_scale,
    )
    augmentation = views(settings.augmentation, skip_last_offset=settings.skip_last_crop_offset)
    weight, objective = objective_weight(settings), None
    if weight > 0:
        menu = getattr(settings, "objective_augmentation", None)
        own = augmentation if menu is None else views(menu, key="agent.objective_augmentation")
        # A seed of its own, so that adding an objective leaves the agent's weights alone.
        with initialisation(seed, "objective"):
            objective = objective_type(str(settings.objective))(settings, networks, own)
    return SAC(settings, networks, augmentation, objective, weight, device)
