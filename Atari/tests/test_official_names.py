"""What parity is checked by from outside: the names and arguments in official.py's docstring."""

from __future__ import annotations

import inspect
import pkgutil
import re
from typing import Any

import pytest
import torch

from mlr_atari import official

_LINE = re.compile(r"^    ([a-z_]+\.[\w.]+)\(([^()]*)\)$", re.MULTILINE)
LISTED = {path: " ".join(words.split()) for path, words in _LINE.findall(str(official.__doc__))}


class Names:
    """Resolves the listed paths, and knows which were asked for."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def __getitem__(self, path: str) -> Any:
        assert path in LISTED
        self.used.add(path)
        return pkgutil.resolve_name(f"mlr_atari.{path}")


@pytest.mark.parametrize("path", LISTED)
def test_arguments_are_those_that_the_docstring_gives(path: str) -> None:
    parameters = inspect.signature(Names()[path]).parameters
    assert ", ".join(name for name in parameters if name != "self") == LISTED[path]


def test_a_whole_update_and_each_loss_by_these_names() -> None:
    names = Names()
    cfg = names["settings.compose"](
        ["agent=mlr_official", "agent.decoder_width=null", "preset=smoke", "game=pong"]
    )
    settings = names["environment.EnvironmentSettings"](
        protocol="atari100k", emulator="ale_py", image_size=44, frame_stack=4, frame_skip=4
    )
    env = names["environment.GameEnv"]("pong", settings, training=True, seed=0)
    shape, actions = env.obs_shape, env.num_actions
    obs = torch.from_numpy(env.reset(seed=0)[0])
    env.close()
    agent, other = (
        names["build.build_agent"](
            cfg.agent, obs_shape=shape, num_actions=actions, device=torch.device("cpu"), seed=seed
        )
        for seed in (0, 1)
    )
    tensors = names["official.export_official"](other)
    names["official.load_official"](agent, tensors)

    lead = (length, size) = (cfg.agent.sequence_length, 3)
    stacks = names["frames.FrameStacks.from_dense"](obs.expand(*lead, *shape), channels=1)
    batch = names["batch.Batch"](
        obs=stacks,
        n_step_obs=stacks.select(0),
        action=torch.zeros(lead, dtype=torch.int64),
        n_step_return=torch.ones(size),
        bootstrap_discount=torch.ones(size),
        ends=torch.zeros(lead, dtype=torch.bool),
        importance_weights=torch.ones(size),
    )

    def still(*lead: int) -> Any:
        offsets = torch.full((*lead, 2), cfg.agent.shift_pad)
        return names["augmentation.AugmentationNoise"](offsets, torch.ones(lead))

    side = settings.image_size // cfg.agent.patch_size
    grid = torch.ones(-(-length // cfg.agent.cube_depth), side, side, dtype=torch.bool)
    noise = names["batch.UpdateNoise"](
        head=names["official.head_normals"](tensors),
        target_head=None,
        obs=still(1, size),
        n_step_obs=still(1, size),
        selection=still(1, size),
        objective=names["objectives.mlr.MLRNoise"](grid, still(*lead), still(*lead)),
    )
    loss = names["objectives.interface.Objective.loss"].__name__  # which an objective overrides
    terms = {
        "loss/rl": names["rainbow.Rainbow.rl_loss"](agent, batch, noise)[0],
        "loss/mlr": getattr(agent.objective, loss)(agent.encoder, batch, noise.objective)[0],
    }
    names["rainbow.Rainbow.set_schedules"](agent, agent_step=2000)
    metrics, priorities = names["rainbow.Rainbow.update"](agent, batch, noise, copy_target=True)
    for key, term in terms.items():
        torch.testing.assert_close(metrics[key], term.detach())
    assert priorities.shape == (size,)
    gradient = names["official.export_official"](agent, lambda parameter: parameter.grad)
    assert gradient["conv.conv.0.weight"].any()
    assert names.used == set(LISTED)
