"""What test_probe_command.py needs to know of this benchmark."""

from __future__ import annotations

from torch import Tensor

from mlr_dmcontrol.parts import build_parts
from mlr_dmcontrol.probe import alone, output, world
from mlr_dmcontrol.sac import SAC

__all__ = ["alone", "build_parts", "output", "world"]

METHOD = "curl"
_SMALL = ("preset=smoke", "task=cartpole_swingup", "device=cpu")
RUN = (*_SMALL, "budget=1500", "evaluation.final_episodes=1")
ALONE = (*_SMALL, f"agent={METHOD}", "seed=1")
VARIABLES = {
    *("slider", "hinge_1 sine", "hinge_1 cosine", "slider velocity", "hinge_1 velocity"),
}


def rl_weights(agent: SAC) -> list[Tensor]:
    """Copies of what RL alone trains."""
    networks = agent.networks
    parameters = [*networks.actor.parameters(), *networks.critic.parameters()]
    return [each.detach().clone() for each in [*parameters, networks.log_temperature]]
