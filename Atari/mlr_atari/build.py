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
from .environment import GameEnv
from .kernels import switch
from .networks import QNetwork, make_values
from .objectives import objective_type
from .rainbow import Rainbow
from .replay import SequenceReplay
from .run.evaluation import EvaluationEnvs
from .run.seeding import episode_seed, initialisation
from .settings import AgentSettings, Config, agent_settings, objective_weight

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True)
class Parts:
    """What a run is made of; evaluation has games of its own."""

    env: GameEnv
    evaluation_envs: EvaluationEnvs
    agent: Rainbow
    replay: SequenceReplay

    def facts(self, cfg: Config) -> dict[str, Any]:
        """What `run.json` and the banner say of a run beside its status, versions and times."""
        workload, env, agent = cfg.workload, self.env, self.agent
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
            "actions": env.num_actions,
            "parameters": agent.num_parameters,
            "replay": f"{self.replay.nbytes / 1e6:,.0f} MB for {workload.capacity:,} transitions",
            "device": str(agent.device),
            "precision": cfg.precision,
            "hardware": hardware(agent.device),
            "evaluation_processes": self.evaluation_envs.processes,
        }

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers and close the games."""
        self.env.close()
        self.evaluation_envs.close()


def set_up_process(cfg: Config) -> torch.device:
    """Choose what holds for the whole process, before anything else is built; returns the device.

    On the CPU runs are bit-identical with any kernels, at a fixed number of threads.
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
    return device


def build_parts(cfg: Config, device: torch.device) -> Parts:
    """Everything with its initial state, which the seed fixes.

    Raises: ConfigError: settings that do not fit each other, missing ROM or emulator.
    """
    evaluation, env = cfg.evaluation, training_environment(cfg)
    agent = agent_for(cfg, env, device)
    replay = replay_for(agent, cfg.workload.capacity)
    num_envs = max(evaluation.episodes, evaluation.final_episodes)
    processes = processes_beside(device, evaluation.processes)
    places = EvaluationEnvs(evaluation_factory(cfg), num_envs, processes)
    return Parts(env, places, agent, replay)


def replay_for(agent: Rainbow, capacity: int) -> SequenceReplay:
    """Room for so many steps, of which the agent's batches are made."""
    settings, side = agent.settings, agent.augmentation.image_size
    assert isinstance(settings, AgentSettings)  # as `build_agent` has made it
    stack = agent.encoder.convs[0].get_parameter("weight").shape[1]
    shape: Any = {"frame_stack": stack, "frame_shape": (1, side, side)}
    return SequenceReplay(capacity, settings, **shape, device=agent.device)


def training_environment(cfg: Config) -> GameEnv:
    """The run's game to train in; an own one is tried out. Raises: ConfigError: as the class."""
    seeds: Any = {"seed": cfg.seed, "episode_seed": partial(episode_seed, cfg.seed, "train")}
    return GameEnv(cfg.game.name, cfg.environment, training=True, **seeds)


def evaluation_factory(cfg: Config) -> Callable[[], GameEnv]:
    """Makes the game to evaluate in, whole, with raw rewards; can be sent to processes."""
    settings = cfg.environment
    return partial(GameEnv, cfg.game.name, settings, training=False, seed=cfg.seed)


def agent_for(cfg: Config, env: GameEnv, device: torch.device) -> Rainbow:
    """The run's agent; raises as `build_agent`."""
    shape: Any = {"obs_shape": env.obs_shape, "num_actions": env.num_actions}
    return build_agent(cfg.agent, **shape, device=device, seed=cfg.seed, precision=cfg.precision)


def build_agent(
    agent: AgentSettings | Mapping[str, Any],
    *,
    obs_shape: tuple[int, int, int],
    num_actions: int,
    device: torch.device,
    seed: int,
    precision: str = "fp32",
) -> Rainbow:
    """An agent with its initial weights.

    Args:
        agent: the section `agent` of the configuration, or its plain values.
        obs_shape: (S*C, H, W), H = W, of uint8 observations.
        seed: the run's; weights are drawn on the CPU and do not depend on the device.
        precision: `fp32`, `tf32` (matrix products of CUDA; elsewhere fp32) or `bf16`.

    Raises: ConfigError: settings that do not fit each other or the observations.
    """
    settings = agent_settings(agent)
    with initialisation(seed, "agent"):
        network = QNetwork(settings, obs_shape, num_actions, precision)
    augmentation = Augmentation(
        settings.augmentation, obs_shape[-1], settings.shift_pad, settings.intensity_scale
    )
    weight, objective = objective_weight(settings), None
    if weight > 0:
        # A seed of its own, so that adding an objective leaves the agent's weights alone.
        with initialisation(seed, "objective"):
            objective = objective_type(str(settings.objective))(settings, network, augmentation)
    values = make_values(settings)
    return Rainbow(settings, network, values, augmentation, objective, weight, device)
