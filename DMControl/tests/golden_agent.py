"""The agent of the goldens, with the published weights; what it is given, what comes of it."""

from collections.abc import Callable
from typing import Any

import torch
from small_agents import GOLDEN, agent_cfg, build_agent

from mlr_dmcontrol.augmentation import AugmentationNoise
from mlr_dmcontrol.batch import Batch
from mlr_dmcontrol.frames import FrameStacks
from mlr_dmcontrol.official import export_official, load_official
from mlr_dmcontrol.sac import SAC, UpdateNoise

Load = Callable[[str], Any]
LENGTH, SEQUENCES = 8, 3


def published_agent(golden: Load, name: str = "mlr_official") -> SAC:
    cfg = agent_cfg(
        name, **GOLDEN, sequence_length=LENGTH, sequence_batch_size=SEQUENCES, cube_depth=4
    )
    agent = build_agent(cfg, obs_shape=(9, 100, 100), action_dim=3, device="cpu", seed=3)
    tensors = golden("dmc_agent_weights").tensors("")
    if agent.objective is None:
        tensors = {key: value for key, value in tensors.items() if not key.startswith("MTM/")}
    load_official(agent, tensors)
    return agent


def transitions(golden: Load) -> tuple[Batch, Any]:
    """Five transitions of 84x84 images, and the file of their random numbers."""
    file = golden("dmc_e_inputs")
    obs, next_obs = (FrameStacks.from_dense(file.tensor(key), 3) for key in ("obs", "next_obs"))
    reward, not_done = file.tensor("reward").flatten(), file.tensor("not_done").flatten()
    batch = Batch(obs, next_obs, file.tensor("action"), reward, 1 - not_done, None)
    return batch, file


def sac_noise(
    next_action: torch.Tensor, action: torch.Tensor, objective: Any = None
) -> UpdateNoise:
    still = AugmentationNoise(offsets=torch.zeros(1, len(action), 2, dtype=torch.int64))
    return UpdateNoise(still, still, next_action[None], action, objective)


def gradients(agent: SAC) -> dict[str, torch.Tensor | None]:
    return export_official(agent, lambda parameter: parameter.grad)


def check_steps(
    file: Any, prefix: str, after: dict[str, Any], gradient: dict[str, torch.Tensor | None]
) -> None:
    """Weights after an Adam step; where the gradient is noise, so is the step's sign."""
    for name, value in after.items():
        mine, seen = value.detach().clone(), gradient.get(name)
        stored = f"{prefix}{name}|sample"
        if stored not in file.arrays:
            file.check(f"{prefix}{name}", mine, rtol=0, atol=2e-5)
            continue
        if seen is None:
            file.check(f"{prefix}{name}", mine, rtol=1e-6)
            continue
        places = torch.linspace(0, mine.numel() - 1, min(mine.numel(), 48), dtype=torch.float64)
        places = places.long().unique()
        clear = seen.flatten()[places].abs() > 1e-7
        difference = mine.flatten()[places] - file.tensor(stored)
        assert clear.any(), name
        assert difference[clear].abs().max() < 2e-5, (name, difference)
