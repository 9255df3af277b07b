"""What parity is checked by from outside: names and arguments that stay."""

import torch

from mlr_dmcontrol.augmentation import AugmentationNoise
from mlr_dmcontrol.batch import Batch, SequenceBatch, UpdateNoise
from mlr_dmcontrol.build import build_agent
from mlr_dmcontrol.environment import EnvironmentSettings, PixelControlEnv
from mlr_dmcontrol.frames import FrameStacks
from mlr_dmcontrol.objectives.mlr import MLRNoise
from mlr_dmcontrol.official import export_official, load_official
from mlr_dmcontrol.settings import compose


def test_a_whole_update_and_each_loss_by_these_names() -> None:
    cfg = compose(words=["agent=mlr_official", "preset=smoke", "task=walker_walk"])
    settings = EnvironmentSettings(
        image_size=32, frame_stack=3, action_repeat=2, camera_id=0, fast_render=True
    )
    env = PixelControlEnv(task="walker_walk", settings=settings, episode_seed=None)
    shape, actions = env.obs_shape, env.action_dim
    obs = torch.from_numpy(env.reset(seed=0)[0])
    env.close()
    sizes = {"obs_shape": shape, "action_dim": actions, "device": "cpu", "precision": "fp32"}
    agent, other = (build_agent(agent=cfg.agent, seed=seed, **sizes) for seed in (0, 1))
    load_official(agent=agent, tensors=export_official(agent=other, of=None))

    batch_size, length = 2, cfg.agent.sequence_length
    lead = (length, 3)
    sequence = SequenceBatch(
        obs=FrameStacks.from_dense(obs=obs.expand(*lead, *shape), channels=3),
        action=torch.zeros(*lead, actions),
        reward=torch.zeros(lead),
    )
    batch = Batch(
        obs=FrameStacks.from_dense(obs.expand(batch_size, *shape), channels=3),
        next_obs=FrameStacks.from_dense(obs.expand(batch_size, *shape), channels=3),
        action=torch.zeros(batch_size, actions),
        reward=torch.ones(batch_size),
        terminated=torch.zeros(batch_size),
        sequence=sequence,
    )

    def still(*lead: int) -> AugmentationNoise:
        offsets = torch.zeros(*lead, 2, dtype=torch.int64)
        return AugmentationNoise(offsets=offsets, intensity=torch.ones(lead))

    side = settings.image_size // cfg.agent.patch_size
    grid = torch.zeros(-(-length // cfg.agent.cube_depth), side, side, dtype=torch.bool)
    noise = UpdateNoise(
        obs=still(1, batch_size),
        next_obs=still(1, batch_size),
        next_action=torch.zeros(1, batch_size, actions),
        action=torch.zeros(batch_size, actions),
        objective=MLRNoise(grid=grid, online=still(*lead), target=still(*lead)),
    )
    own = {"encoder": agent.encoder, "batch": batch, "noise": noise.objective}
    terms = {
        "loss/critic": agent.critic_terms(batch=batch, noise=noise)[0],
        "loss/actor": agent.actor_terms(batch=batch, noise=noise)[0],
        "loss/mlr": agent.objective.loss(**own)[0],
    }
    agent.set_schedules(agent_step=0)
    metrics = agent.update(batch=batch, noise=noise, actor_step=True, target_step=True)
    torch.testing.assert_close(metrics["loss/critic"], terms["loss/critic"].detach())
    assert all(metrics[key].isfinite() for key in terms)  # the others are later
    agent.objective.loss(**own)[0].backward()
    gradient = export_official(agent, lambda parameter: parameter.grad)
    assert gradient["MTM/global_classifier.0.weight"].any()
