"""The compared methods by brute force, and what is published of them in detail."""

from __future__ import annotations

import math

import pytest
import torch
from small_agents import TINY, agent_cfg, make_agent, make_batch
from test_objectives import objective_of, tiny
from torch import Tensor, nn

from mlr_dmcontrol.augmentation import AugmentationNoise, center_crop, to_float
from mlr_dmcontrol.losses import critic_loss, soft_target, squashed_gaussian
from mlr_dmcontrol.networks import Encoder, initialise_orthogonal
from mlr_dmcontrol.objectives.curl import info_nce, similarities
from mlr_dmcontrol.objectives.heads import distance, normalise
from mlr_dmcontrol.objectives.playvirtual import PlayVirtual, cycle_ramp
from mlr_dmcontrol.objectives.spr import SPR
from mlr_dmcontrol.objectives.transition import TransitionModel, cycle, rollout
from mlr_dmcontrol.optimization import Optimizer, ParameterGroup
from mlr_dmcontrol.run.seeding import Streams
from mlr_dmcontrol.sac import SAC


def still(*lead: int) -> AugmentationNoise:
    """Centre crops of images of 32 to 28 pixels."""
    return AugmentationNoise(offsets=torch.full((*lead, 2), 2))


# --- CURL -----------------------------------------------------------------------------------------


def test_info_nce() -> None:
    anchor = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    key = torch.tensor([[1.0, 0], [1, 1], [0, 2]])
    weight = torch.tensor([[2.0, 1], [0, 1]])
    logits = torch.tensor([[2.0, 3, 2], [0, 1, 2], [2, 4, 4]])
    expected = logits - torch.tensor([[3.0], [2], [4]])
    assert torch.equal(similarities(anchor, key, weight), expected)
    assert info_nce(anchor, key, weight).item() == pytest.approx(1.239225, abs=1e-6)
    # What it is not: the map transposed, a softmax over the anchors, a temperature of 0.1.
    columns = nn.functional.cross_entropy(logits.T, torch.arange(3))
    assert info_nce(anchor, key, weight.T).item() == pytest.approx(1.342741, abs=1e-6)
    assert columns.item() == pytest.approx(1.449060, abs=1e-6)
    assert info_nce(anchor, key, 0.1 * weight).item() == pytest.approx(1.090433, abs=1e-6)


def test_curl_contrasts_the_critics_view_with_another_by_the_target() -> None:
    agent = tiny("curl", batch_size=50)
    batch, noise = make_batch(agent, size=32), agent.draw_noise(Streams(0))
    drawn = noise.objective
    assert torch.equal(drawn.anchor.offsets, noise.obs.offsets[0])
    assert not torch.equal(drawn.key.offsets, drawn.anchor.offsets)
    with torch.no_grad():
        agent.networks.encoder.head.linear.weight.mul_(2)  # now the target's is another
    obs = batch.obs
    images = [
        torch.stack(
            [to_float(obs.dense()[i, None, :, r : r + 28, c : c + 28])[0] for i, (r, c) in picks]
        )
        for picks in (enumerate(each.offsets.tolist()) for each in (drawn.anchor, drawn.key))
    ]
    anchor = agent.networks.encoder(images[0])
    key = agent.networks.encoder_target.target(images[1])
    objective = objective_of(agent)
    expected = info_nce(anchor, key, objective.bilinear)
    loss, _ = objective.loss(agent.networks.encoder, batch, drawn)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("name", ["curl", "curl_published"])
def test_when_curl_is_stepped(name: str) -> None:
    """The published code contrasts after the momentum targets moved, so with newer keys."""
    whole, parts = tiny(name, encoder_tau=0.5), tiny(name, encoder_tau=0.5)
    batch, noise = make_batch(whole, size=32), whole.draw_noise(Streams(0))
    metrics = whole.update(batch, noise, actor_step=True, target_step=True)
    parts.update_critic(batch, noise)
    if name == "curl":
        by_hand = parts.update_objective(batch, noise)
        parts.update_actor(batch, noise)
        parts.update_targets()
    else:
        parts.update_actor(batch, noise)
        parts.update_targets()
        by_hand = parts.update_objective(batch, noise)
    assert metrics["loss/curl"] == by_hand["loss/curl"]
    mine, theirs = (each.networks.state_dict() for each in (whole, parts))
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_curl_published_draws_both_views_off_by_one() -> None:
    for name, last in (("curl", 4), ("curl_published", 3)):
        drawn = tiny(name, batch_size=500).draw_noise(Streams(0)).objective
        assert drawn.anchor.offsets.max() == drawn.key.offsets.max() == last


# --- dynamics, cycles, distance -------------------------------------------------------------------


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_rollout_indexing() -> None:
    def model(latent: Tensor, action: Tensor) -> Tensor:
        return 10 * latent + action

    assert rollout(model, numbers(0)[0], numbers(1, 2, 3)).flatten().tolist() == [1, 12, 123]


def test_cycle_takes_actions_back_last_first() -> None:
    def forward(latent: Tensor, action: Tensor) -> Tensor:
        return 10 * latent + action

    def backward(latent: Tensor, action: Tensor) -> Tensor:
        return (latent - action) / 10

    start, actions = numbers(0)[0], numbers(1, 2)
    assert cycle(forward, backward, start, actions).item() == 0
    wrong = rollout(backward, rollout(forward, start, actions)[-1], actions)[-1]
    assert wrong.item() == pytest.approx(-0.09)


def test_distance_of_short_vectors() -> None:
    short = torch.tensor([5e-4, 0.0])
    assert normalise(short).norm().item() == pytest.approx(0.5)
    assert distance(short, torch.tensor([0.0, 2.0])).item() == pytest.approx(1.25)


@pytest.mark.parametrize(
    "step, expected",
    [
        (0, 0.006739),
        (2000, 0.009974),
        (12_000, 0.055696),
        (25_000, 0.286533),
        (40_000, 0.818764),
        (49_999, 1),
        (50_000, 1),
        (400_000, 1),
    ],
)
def test_cycle_ramp(step: int, expected: float) -> None:
    assert cycle_ramp(step, 50_000) == pytest.approx(expected, abs=1e-6)


def test_the_ramp_counts_env_steps_from_the_start_of_the_run() -> None:
    agent = tiny("playvirtual", cycle_ramp_action_repeat=8, cycle_ramp_learning_starts=1000)
    assert agent_cfg("playvirtual")["cycle_ramp_env_steps"] == 50_000
    objective = objective_of(agent)
    for update_step, env_step in ((0, 8000), (3000, 32_000), (5250, 50_000)):
        agent.update_step = update_step
        agent.set_schedules()
        assert objective.ramp.item() == pytest.approx(cycle_ramp(env_step, 50_000))


def test_weight_counts() -> None:
    def count(module: nn.Module) -> int:
        return sum(each.numel() for each in module.parameters())

    assert count(TransitionModel(50, 4, 512)) == 54_834
    for actions in (1, 6, 21):
        assert count(TransitionModel(50, actions, 512)) == 52_786 + 512 * actions
    agent = make_agent("playvirtual", transition_hidden_dim=512)
    objective = objective_of(agent)
    assert isinstance(objective, PlayVirtual)
    assert count(objective.projection) == count(objective.predictor) == 10_150
    assert count(objective.transition) == count(objective.reverse_transition) == 54_322
    assert objective_of(make_agent("curl")).bilinear.shape == (50, 50)


# --- SPR and PlayVirtual --------------------------------------------------------------------------


def spr_loss_by_hand(agent: SAC, first: list[Tensor], later: list[list[Tensor]], actions) -> Tensor:
    """Window by window, step by step; `first` (B'), `later` (K)(B') images of each window."""
    objective, encoder = agent.objective, agent.networks.encoder
    assert isinstance(objective, SPR)
    terms = []
    for b, image in enumerate(first):
        latent = encoder(image[None])
        for k, images in enumerate(later):
            latent = objective.transition(latent, actions[k, b][None])
            y = objective.predictor(objective.projection(latent))[0]
            target = objective.target_encoder.target(images[b][None])
            target = objective.target_projection.target(target)[0].detach()
            y, target = (v / max(v.norm().item(), 1e-3) for v in (y, target))
            terms.append((y - target).square().sum())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("name", ["spr", "playvirtual"])
def test_spr_by_hand(name: str) -> None:
    agent = tiny(name)
    objective, batch = objective_of(agent), make_batch(agent, size=32)
    assert isinstance(objective, SPR)
    with torch.no_grad():
        for each in agent.networks.encoder.parameters():
            each.add_(0.01)  # online and momentum networks differ
    noise = agent.draw_noise(Streams(0)).objective
    assert noise.first.offsets.shape == (3, 2)
    assert noise.target.offsets.shape == (3, 3, 2)
    obs, dense = batch.sequence.obs, batch.sequence.obs.dense()

    def image(k: int, b: int, draw: AugmentationNoise, *key: int) -> Tensor:
        row, column = draw.offsets[key].tolist()
        return (
            to_float(dense[k, b, None, :, row : row + 28, column : column + 28])[0]
            * (draw.intensity[key])
        )

    first = [image(0, b, noise.first, b) for b in range(3)]
    later = [[image(k + 1, b, noise.target, k, b) for b in range(3)] for k in range(3)]
    expected = spr_loss_by_hand(agent, first, later, batch.sequence.action)
    latent = objective.first_latent(agent.networks.encoder, batch.sequence, noise)
    found = objective.prediction_loss(latent, batch.sequence, noise)
    torch.testing.assert_close(found, expected)
    assert obs.lead == (4, 3)


def test_the_last_action_of_a_window_and_the_first_observation_do_not_count() -> None:
    agent = tiny("spr")
    batch, noise = make_batch(agent, size=32), agent.draw_noise(Streams(0)).objective
    loss = objective_of(agent).loss(agent.networks.encoder, batch, noise)[0]
    batch.sequence.action[-1] = 0.5
    same = objective_of(agent).loss(agent.networks.encoder, batch, noise)[0]
    batch.sequence.action[-2] = 0.5
    other = objective_of(agent).loss(agent.networks.encoder, batch, noise)[0]
    assert loss == same != other


class _Same(nn.Module):
    """Dynamics that ignore the action, or add a map of it."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        return latent + self.weight * action.sum(-1, keepdim=True)


@pytest.mark.parametrize("cycles, steps", [(1, 1), (3, 2), (2, 5)])
def test_identical_dynamics_return_home(cycles: int, steps: int) -> None:
    agent = tiny("playvirtual", num_cycles=cycles, cycle_steps=steps)
    objective, batch = objective_of(agent), make_batch(agent, size=32)
    assert isinstance(objective, PlayVirtual)
    noise = agent.draw_noise(Streams(0)).objective
    assert noise.virtual_actions.shape == (steps, cycles, 3, 3)
    assert noise.virtual_actions.abs().max() <= 1
    noise = type(noise)(still(3), still(3, 3), noise.virtual_actions, still(cycles, 3), still(2, 3))
    objective.predictor = nn.Sequential()
    losses = []
    for weight in (0.0, 0.7):
        objective.transition = objective.reverse_transition = _Same(weight)
        latent = objective.first_latent(agent.networks.encoder, batch.sequence, noise)
        losses.append(objective.cycle_loss(latent, batch.sequence, noise).item())
    assert losses[0] == pytest.approx(0, abs=1e-9)
    assert losses[1] > 1e-3


def test_each_cycle_has_its_own_target_and_actions() -> None:
    agent = tiny("playvirtual", num_cycles=4)
    noise = agent.draw_noise(Streams(0)).objective
    batch = make_batch(agent, size=32)
    objective, encoder = objective_of(agent), agent.networks.encoder
    assert isinstance(objective, PlayVirtual)
    assert len(noise.home.offsets.flatten(0, 1).unique(dim=0)) > 3
    latent = objective.first_latent(encoder, batch.sequence, noise)
    terms = []
    for m in range(4):
        end = cycle(
            objective.transition, objective.reverse_transition, latent, noise.virtual_actions[:, m]
        )
        images = objective.augmentation(batch.sequence.obs.select(0), noise.home.select(m))
        target = objective.target_projection(objective.target_encoder(images))
        terms.append(distance(objective.predictor(objective.projection(end)), target))
    torch.testing.assert_close(
        objective.cycle_loss(latent, batch.sequence, noise), torch.stack(terms).mean()
    )


def test_playvirtual_adds_up_its_parts() -> None:
    weights = {
        "prediction_weight": 3.0,
        "cycle_weight": 2.0,
        "backward_weight": 0.5,
        "real_cycle_weight": 0.25,
    }
    agent = tiny("playvirtual", **weights)
    objective, batch = objective_of(agent), make_batch(agent, size=32)
    assert isinstance(objective, PlayVirtual)
    noise, encoder = agent.draw_noise(Streams(0)).objective, agent.networks.encoder
    objective.ramp.fill_(0.3)
    latent = objective.first_latent(encoder, batch.sequence, noise)
    expected = (
        3.0 * objective.prediction_loss(latent, batch.sequence, noise)
        + 0.3 * 2.0 * objective.cycle_loss(latent, batch.sequence, noise)
        + 0.5 * objective.backward_loss(encoder, batch.sequence, noise)
        + 0.3 * 0.25 * objective.real_cycle_loss(latent, batch.sequence, noise)
    )
    torch.testing.assert_close(objective.loss(encoder, batch, noise)[0], expected)


def test_without_cycles_playvirtual_is_spr() -> None:
    spr = tiny("spr", seed=2)
    same = tiny("playvirtual", seed=2, cycle_weight=0.0, prediction_weight=1.0)
    same.objective.load_state_dict(spr.objective.state_dict(), strict=False)
    batch, noise = make_batch(spr, size=32), same.draw_noise(Streams(0)).objective
    losses = [each.objective.loss(each.networks.encoder, batch, noise)[0] for each in (spr, same)]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("name", ["spr", "spr_published", "playvirtual", "playvirtual_published"])
def test_how_momentum_networks_start(name: str) -> None:
    objective = objective_of(tiny(name))
    assert isinstance(objective, SPR)
    online, target = objective.projection, objective.target_projection.target
    pairs = zip(online.parameters(), target.parameters(), strict=True)
    copied = all(torch.equal(first, second) for first, second in pairs)
    assert copied != name.endswith("published")
    # PyTorch's default: uniform within 1/sqrt(inputs).
    assert objective.transition.first.weight.abs().max().item() == pytest.approx(53**-0.5, rel=0.05)
    assert objective.predictor[0].weight.abs().max().item() == pytest.approx(50**-0.5, rel=0.05)


def test_clipping_of_each_objective() -> None:
    found = {}
    for name in ("curl", "spr", "spr_published", "playvirtual"):
        agent = tiny(name)
        encoder = agent.networks.encoder
        groups = objective_of(agent).clip_groups(encoder)
        own = len([each for each in objective_of(agent).parameters() if each.requires_grad])
        sizes = {len(list(encoder.parameters())): "encoder"}
        sizes[len(list(encoder.parameters())) + own] = "all"
        found[name] = [(sizes[len(group.parameters)], group.max_norm) for group in groups]
    assert found == {
        "curl": [],
        "spr": [("all", 10.0)],
        "spr_published": [],
        "playvirtual": [("encoder", 10.0), ("all", 10.0)],
    }


# --- two optimisers, momentum ---------------------------------------------------------------------


def test_two_adams_on_one_gradient_are_one_at_the_sum_of_their_rates() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(30, generator=generator)
    twice, once = (nn.Parameter(start.clone()) for _ in range(2))
    adams = [torch.optim.Adam([twice], lr=rate) for rate in (1e-3, 5e-4)]
    one = Optimizer([ParameterGroup([once], scale=1.5)], 1e-3)
    for _ in range(200):
        gradient = torch.randn(30, generator=generator)
        twice.grad = gradient.clone()
        for adam in adams:
            adam.step()
        one.accumulate((once * gradient).sum())
        one.step()
    assert (twice - once).abs().max() < 1e-5


def test_momentum_after_n_updates() -> None:
    agent = tiny("spr", target_ema_tau=0.05)
    objective = objective_of(agent)
    with torch.no_grad():
        objective.target_projection.target[0].weight.zero_()
        objective.projection[0].weight.fill_(1.0)
    for _ in range(7):
        agent.update_targets()
    weight = objective.target_projection.target[0].weight
    torch.testing.assert_close(weight, torch.full_like(weight, 1 - 0.95**7))


# --- DrQ and plain SAC ----------------------------------------------------------------------------


def test_drq_target_and_loss() -> None:
    next_values = torch.tensor([[[10.0], [12.0]], [[11.0], [9.0]]])
    log_prob, one, zero = torch.tensor([[-1.0], [-2.0]]), torch.ones(1), torch.zeros(1)

    def target(views: slice) -> Tensor:
        values = next_values[:, views], log_prob[views]
        return soft_target(*values, torch.tensor(0.1), one, zero, 0.99)

    assert target(slice(0, 1)).item() == pytest.approx(10.999)
    assert target(slice(1, 2)).item() == pytest.approx(10.108)
    assert target(slice(0, 2)).item() == pytest.approx(10.5535)
    values = torch.tensor([[[10.0], [11.0]], [[10.0], [10.0]]])  # of both critics, on both views
    loss = critic_loss(values, target(slice(0, 2)))
    assert loss.item() == pytest.approx(1.118449, abs=1e-5)
    # Not with a target of its own for each view:
    own = [critic_loss(values[:, [m]], target(slice(m, m + 1))).item() for m in range(2)]
    assert sum(own) == pytest.approx(2.80333, abs=1e-4)


def test_drq_with_one_draw_and_no_shift_is_sac() -> None:
    size = TINY["crop_size"]
    drq = tiny("drq", num_target_augmentations=1, num_q_augmentations=1)
    sac = tiny("sac", size=size)
    batch, noise = make_batch(drq, size=size), sac.draw_noise(Streams(0))
    unmoved = AugmentationNoise(offsets=torch.full((1, 6, 2), drq.settings.shift_pad))
    shifted = type(noise)(unmoved, unmoved, noise.next_action, noise.action, None)
    mine, theirs = drq.update_critic(batch, shifted), sac.update_critic(batch, noise)
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    weights = [each.networks.state_dict() for each in (drq, sac)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_what_drq_draws() -> None:
    agent = tiny("drq", batch_size=200)
    assert agent.augmentation.image_size == agent.settings.crop_size
    noise = agent.draw_noise(Streams(0))
    for each in (noise.obs, noise.next_obs):
        assert each.offsets.shape == (2, 200, 2)
        assert (each.offsets.min(), each.offsets.max()) == (0, 8)
        assert not torch.equal(each.offsets[0], each.offsets[1])
        assert each.intensity is None
    assert noise.next_action.shape == (2, 200, 3)
    assert not torch.equal(noise.next_action[0], noise.next_action[1])


def test_plain_sac_sees_the_centre_only() -> None:
    agent = tiny("sac_plain")
    noise, batch = agent.draw_noise(Streams(0)), make_batch(agent, size=32)
    assert noise.obs.offsets is None
    images = agent.augmentation(batch.obs, noise.obs.select(0))
    assert torch.equal(images, to_float(center_crop(batch.obs.dense(), 28)))


def test_exact_log_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = (torch.randn(5, 3, generator=generator) for _ in range(3))
    action, log_prob = squashed_gaussian(mean, log_std, noise, exact=True)
    normal = torch.distributions.Normal(mean.double(), log_std.double().exp())
    squash = torch.distributions.TanhTransform(cache_size=1)
    sample = normal.mean + normal.stddev * noise
    expected = torch.distributions.TransformedDistribution(normal, squash).log_prob(squash(sample))
    torch.testing.assert_close(log_prob.double(), expected.sum(-1), rtol=1e-5, atol=1e-5)
    assert torch.equal(action, squashed_gaussian(mean, log_std, noise)[0])
    # Where tanh is 1 to all digits, only the exact form still knows how far out a sample is.
    far = torch.tensor([[12.0]])
    zero = torch.zeros(1, 1)
    gaussian = -0.5 * math.log(2 * math.pi)
    exact = squashed_gaussian(far, zero, zero, exact=True)[1].item()
    assert exact == pytest.approx(gaussian + 24 - 2 * math.log(2), rel=1e-5)
    bounded = squashed_gaussian(far, zero, zero)[1].item()
    assert bounded == pytest.approx(gaussian - math.log(1e-6), rel=1e-5)


def test_networks_of_drq_published() -> None:
    agent = tiny("drq_published")
    encoder = agent.networks.encoder
    images = torch.rand(4, 9, 28, 28, generator=torch.Generator().manual_seed(0))
    latent = encoder(images)
    assert latent.abs().max() < 1
    torch.testing.assert_close(
        latent, encoder.head.norm(encoder.head.linear(encoder.features(images))).tanh()
    )
    assert agent.networks.actor.head.tanh
    assert agent.settings.exact_log_prob
    assert agent.networks.encoder_target.tau == agent.networks.critic_target.tau == 0.01
    assert agent.settings.temperature_learning_rate == 1e-3
    assert agent.settings.temperature_beta1 == 0.9
    published = agent_cfg("drq_published")
    assert published["num_filters"] == agent_cfg("curl_published")["num_filters"] == 32


def test_orthogonal_convolutions() -> None:
    torch.manual_seed(0)
    encoder = Encoder(9, 28, 8, (2, 1), 10)
    initialise_orthogonal(encoder, "orthogonal")
    for layer in encoder.convolutions:
        if isinstance(layer, nn.Conv2d):
            kernel = layer.weight.flatten(1)
            torch.testing.assert_close(kernel @ kernel.T, 2 * torch.eye(8), atol=1e-5, rtol=0)
            assert layer.weight[:, :, 0, 0].abs().max() > 0.01
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)


# --- costs ----------------------------------------------------------------------------------------

B, W, K, M = 6, 3, 3, 2  # transitions, windows, steps predicted, cycles


@pytest.mark.parametrize(
    "name, with_gradient, without",
    [
        ("sac", B, 2 * B),
        ("sac_plain", B, 2 * B),
        ("drq", 2 * B, 4 * B),
        ("curl", 2 * B, 3 * B),
        ("spr", B + W, 2 * B + K * W),
        ("playvirtual", B + W, 2 * B + K * W + M * W),
        ("mlr", B + (K + 1) * W, 2 * B + (K + 1) * W),
    ],
)
def test_images_of_an_update(name: str, with_gradient: int, without: int) -> None:
    agent, seen = tiny(name), {True: 0, False: 0}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[output.requires_grad] += len(output)

    encoders = [agent.networks, *([agent.objective] if agent.objective else [])]
    for encoder in (each for part in encoders for each in part.modules()):
        if isinstance(encoder, Encoder):
            encoder.convolutions.register_forward_hook(count)
    batch = make_batch(agent, size=agent.augmentation.image_size)
    agent.update(batch, agent.draw_noise(Streams(0)), actor_step=False, target_step=False)
    assert seen == {True: with_gradient, False: without}
