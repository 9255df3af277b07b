"""What parity is checked by from outside: names and arguments that stay."""

import torch

from mlr_atari.augmentation import AugmentationNoise
from mlr_atari.batch import Batch, UpdateNoise
from mlr_atari.build import build_agent
from mlr_atari.environment import EnvironmentSettings, make_environment
from mlr_atari.frames import FrameStacks
from mlr_atari.objectives.mlr import MLRNoise
from mlr_atari.official import export_official, head_normals, load_official
from mlr_atari.settings import compose


def test_a_whole_update_and_each_loss_by_these_names() -> None:
    words = ["agent=mlr_official", "agent.decoder_width=null", "preset=smoke", "game=pong"]
    cfg = compose(words=words)
    settings = EnvironmentSettings(
        protocol="atari100k", emulator="ale_py", image_size=44, frame_stack=4, frame_skip=4
    )
    env = make_environment(game="pong", settings=settings, training=True, seed=0, episode_seed=None)
    sizes = {"obs_shape": env.obs_shape, "num_actions": env.num_actions, "precision": "fp32"}
    obs = torch.from_numpy(env.reset(seed=0)[0])
    env.close()
    agent, other = (
        build_agent(agent=cfg.agent, seed=seed, device=torch.device("cpu"), **sizes)
        for seed in (0, 1)
    )
    tensors = export_official(agent=other, of=None)
    load_official(agent=agent, tensors=tensors, target=None)

    lead = (length, size) = (cfg.agent.sequence_length, 3)
    stacks = FrameStacks.from_dense(obs=obs.expand(*lead, *env.obs_shape), channels=1)
    batch = Batch(
        obs=stacks,
        n_step_obs=stacks.select(0),
        action=torch.zeros(lead, dtype=torch.int64),
        n_step_return=torch.ones(size),
        bootstrap_discount=torch.ones(size),
        ends=torch.zeros(lead, dtype=torch.bool),
        importance_weights=torch.ones(size),
    )

    def still(*lead: int) -> AugmentationNoise:
        offsets = torch.full((*lead, 2), cfg.agent.shift_pad)
        return AugmentationNoise(offsets=offsets, intensity=torch.ones(lead))

    side = settings.image_size // cfg.agent.patch_size
    grid = torch.ones(-(-length // cfg.agent.cube_depth), side, side, dtype=torch.bool)
    noise = UpdateNoise(
        head=head_normals(tensors=tensors),
        target_head=None,
        obs=still(1, size),
        n_step_obs=still(1, size),
        selection=still(1, size),
        objective=MLRNoise(grid=grid, online=still(*lead), target=still(*lead)),
    )
    own = {"encoder": agent.encoder, "batch": batch, "noise": noise.objective}
    terms = {
        "loss/rl": agent.rl_loss(batch=batch, noise=noise)[0],
        "loss/mlr": agent.objective.loss(**own)[0],
    }
    agent.set_schedules(agent_step=2000)
    metrics, priorities = agent.update(batch=batch, noise=noise, copy_target=True)
    for key, term in terms.items():
        torch.testing.assert_close(metrics[key], term.detach())
    assert priorities.shape == (size,)
    gradient = export_official(agent, lambda parameter: parameter.grad)
    assert gradient["conv.conv.0.weight"].any()
