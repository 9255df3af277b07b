"""What parity is checked by from outside: the names and arguments in official.py's docstring."""

from __future__ import annotations

import inspect
import pkgutil
import re
from typing import Any

import pytest
import torch

from mlr_dmcontrol import official

_LINE = re.compile(r"^    ([a-z_]+\.[\w.]+)\(([^()]*)\)$", re.MULTILINE)
LISTED = {path: " ".join(words.split()) for path, words in _LINE.findall(str(official.__doc__))}


class Names:
    """Resolves the listed paths, and knows which were asked for."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def __getitem__(self, path: str) -> Any:
        assert path in LISTED
        self.used.add(path)
        return pkgutil.resolve_name(f"mlr_dmcontrol.{path}")


@pytest.mark.parametrize("path", LISTED)
def test_arguments_are_those_that_the_docstring_gives(path: str) -> None:
    parameters = inspect.signature(Names()[path]).parameters
    assert ", ".join(name for name in parameters if name != "self") == LISTED[path]


def test_a_whole_update_and_each_loss_by_these_names() -> None:
    names = Names()
    cfg = names["settings.compose"](["agent=mlr_official", "preset=smoke", "task=walker_walk"])
    settings = names["environment.EnvironmentSettings"](
        image_size=32, frame_stack=3, action_repeat=2, camera_id=0, fast_render=True
    )
    env = names["environment.PixelControlEnv"]("walker_walk", settings)
    shape, actions = env.obs_shape, env.action_dim
    obs = torch.from_numpy(env.reset(seed=0)[0])
    env.close()
    agent, other = (
        names["build.build_agent"](
            cfg.agent, obs_shape=shape, action_dim=actions, device="cpu", seed=seed
        )
        for seed in (0, 1)
    )
    names["official.load_official"](agent, names["official.export_official"](other))

    batch_size, windows, length = 2, 3, cfg.agent.sequence_length
    stacks = names["frames.FrameStacks.from_dense"]
    still = names["augmentation.AugmentationNoise"]
    lead = (length, windows)
    sequence = names["batch.SequenceBatch"](
        stacks(obs.expand(*lead, *shape), channels=3),
        torch.zeros(*lead, actions),
        torch.zeros(lead),
    )
    batch = names["batch.Batch"](
        obs=stacks(obs.expand(batch_size, *shape), channels=3),
        next_obs=stacks(obs.expand(batch_size, *shape), channels=3),
        action=torch.zeros(batch_size, actions),
        reward=torch.ones(batch_size),
        terminated=torch.zeros(batch_size),
        sequence=sequence,
    )
    side = settings.image_size // cfg.agent.patch_size
    views = [still(torch.zeros(*lead, 2, dtype=torch.int64), torch.ones(lead)) for _ in range(2)]
    grid = torch.zeros(-(-length // cfg.agent.cube_depth), side, side, dtype=torch.bool)
    noise = names["batch.UpdateNoise"](
        obs=still(offsets=torch.zeros(1, batch_size, 2, dtype=torch.int64)),
        next_obs=still(offsets=torch.zeros(1, batch_size, 2, dtype=torch.int64)),
        next_action=torch.zeros(1, batch_size, actions),
        action=torch.zeros(batch_size, actions),
        objective=names["objectives.mlr.MLRNoise"](grid, *views),
    )
    loss = names["objectives.interface.Objective.loss"].__name__  # which an objective overrides
    terms = {
        "loss/critic": names["sac.SAC.critic_terms"](agent, batch, noise)[0],
        "loss/actor": names["sac.SAC.actor_terms"](agent, batch, noise)[0],
        "loss/mlr": getattr(agent.objective, loss)(agent.encoder, batch, noise.objective)[0],
    }
    names["sac.SAC.set_schedules"](agent, agent_step=0)
    metrics = names["sac.SAC.update"](agent, batch, noise, actor_step=True, target_step=True)
    torch.testing.assert_close(metrics["loss/critic"], terms["loss/critic"].detach())
    assert all(metrics[key].isfinite() for key in terms)  # the others are later
    getattr(agent.objective, loss)(agent.encoder, batch, noise.objective)[0].backward()
    gradient = names["official.export_official"](agent, lambda parameter: parameter.grad)
    assert gradient["MTM/global_classifier.0.weight"].any()
    assert names.used == set(LISTED)
