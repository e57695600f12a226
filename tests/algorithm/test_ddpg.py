"""The learner's parts: values of links, their losses, the deterministic policy and its target."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from conftest import problem_of
from torch import Tensor, nn

from d2rl.algorithm.ddpg import Critic, DeterministicActor, critic_loss, polyak_update, saturation
from d2rl.algorithm.networks import make_encoder, make_transition, make_view
from d2rl.config.defaults import NetworkConfig
from d2rl.problems.base import Observation
from d2rl.problems.full_duplex.observation import observe
from d2rl.problems.full_duplex.simulator import decided_rates
from d2rl.wireless import ChannelState, make_head

DOWN, UP = (3, 0, 5, 1, 4, 2), (2, 0, 3, 1)
ORDER = [*DOWN, *(6 + k for k in UP)]
KINDS = ["link_graph", "mlp"]
WIDTH = 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seen(channels: ChannelState, head: str = "structured") -> Observation:
    return observe(channels, torch.ones(channels.batch, channels.links), problem_of(channels, head).layout.numbers)


def draw_actions(channels: ChannelState, count: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(channels.batch, count, 2 * channels.links, generator=seeded(seed)) - 1


def look(observation: Observation, action: Tensor, sees: str = "powers") -> Tensor:
    return make_view(NetworkConfig(critic=sees), problem_of(observation.known.channels))[0](observation, action)


def build_critic(channels: ChannelState, kind: str = "link_graph", sees: str = "powers") -> Critic:
    config, problem = NetworkConfig(kind=kind, width=WIDTH, critic=sees), problem_of(channels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Critic(make_transition(config, problem, make_view(config, problem)[1]), WIDTH)


def build_actor(channels: ChannelState, kind: str = "link_graph", head: str = "structured") -> DeterministicActor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        problem = problem_of(channels, head)
        return DeterministicActor(make_encoder(NetworkConfig(kind=kind, width=WIDTH), problem), problem.layout, WIDTH)


# ------------------------------------------------------------------ critic


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_read_link_by_link_off_the_embeddings(channels, kind):
    critic, observation = build_critic(channels, kind), seen(channels)
    view = look(observation, draw_actions(channels, 3))
    values = critic(observation, view)
    assert values.shape == (16, 3, 10)
    weight, bias = critic.out.weight[0].double(), critic.out.bias.item()
    embedding = critic.transition(observation, view).double()
    for m, k in ((0, 0), (2, 9), (1, 6)):
        torch.testing.assert_close(values[:, m, k].double(), embedding[:, m, k] @ weight + bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sees", ["powers", "numbers"])
def test_values_follow_the_order_of_users(channels, sees):
    critic, action = build_critic(channels, sees=sees), draw_actions(channels, 2)
    permuted = action.unflatten(-1, (-1, 2))[:, :, ORDER].flatten(-2)
    first, second = seen(channels), seen(channels.permute_users(DOWN, UP))
    before, after = critic(first, look(first, action, sees)), critic(second, look(second, permuted, sees))
    torch.testing.assert_close(after, before[:, :, ORDER], rtol=0, atol=1e-4)
    assert (after - before).abs().max() > 1e-3


def test_loss_compares_links_or_their_sum(generator):
    value = torch.randn(5, 3, 4, generator=generator, requires_grad=True)
    links, total = torch.randn(5, 3, 4, generator=generator), torch.randn(5, 3, 1, generator=generator)
    by_link = by_sum = 0.0
    for b in range(5):
        for m in range(3):
            row = value[b, m].tolist()
            by_link += sum((q - r) ** 2 for q, r in zip(row, links[b, m].tolist(), strict=True)) / 60
            by_sum += (sum(row) - total[b, m].item()) ** 2 / 15
    assert critic_loss(value, links).item() == pytest.approx(by_link, rel=1e-5)
    assert critic_loss(value, total).item() == pytest.approx(by_sum, rel=1e-5)
    critic_loss(value, total).backward()  # a scalar reward cannot tell links apart
    assert torch.equal(value.grad, value.grad[..., :1].expand_as(value))


def test_a_critic_of_links_and_one_of_their_sum_agree_on_the_sum(channels):
    """A per-link target that leaves one link's error r: the same as a scalar one, up to the mean over K links."""
    observation = seen(channels)
    values = build_critic(channels)(observation, look(observation, draw_actions(channels, 2))).detach()
    target = values.clone()
    target[..., 3] += 0.7
    per_link, scalar = critic_loss(values, target), critic_loss(values, target.sum(-1, keepdim=True))
    assert scalar.item() == pytest.approx(0.49, rel=1e-3)
    assert per_link.item() == pytest.approx(0.049, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("links", [10, 1], ids=["designed", "raw"])
def test_calibration_meets_the_mean_reward_and_keeps_differences(channels, kind, links):
    critic, observation = build_critic(channels, kind), seen(channels)
    view = look(observation, draw_actions(channels, 2))
    reward = 40 + 3 * torch.randn(16, 2, links, generator=seeded(1))
    before = critic(observation, view)
    critic.calibrate(observation, view, reward)
    after = critic(observation, view)
    assert after.sum(-1).mean().item() == pytest.approx(reward.sum(-1).mean().item(), rel=1e-4)
    torch.testing.assert_close(after - before, (after - before).mean().expand_as(after), rtol=1e-3, atol=1e-3)
    critic.calibrate(observation, view, reward)
    torch.testing.assert_close(critic(observation, view), after, rtol=1e-4, atol=1e-4)
    assert critic.out.bias.requires_grad


# ------------------------------------------------------------------ actor


@pytest.mark.parametrize("head", ["structured", "beamforming"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_policy_is_near_the_middle_and_depends_on_the_state(channels, kind, head):
    actor = build_actor(channels, kind, head)
    output = actor(seen(channels, head))
    assert output.shape == (16, problem_of(channels, head).layout.size)
    assert output.abs().mean() < 0.2
    assert output.std(0).min() > 0


def test_each_direction_has_its_own_numbers_in_the_flat_action(channels):
    actor = build_actor(channels, head="beamforming")
    nn.init.zeros_(actor.output.linear.weight)
    with torch.no_grad():
        actor.output.linear.bias[:16], actor.output.linear.bias[16:] = 1.0, -1.0  # of downlink and of uplink users
    expected = torch.cat([torch.ones(6 * 16), -torch.ones(4)]).expand(16, 100)
    assert torch.equal(actor(seen(channels, "beamforming")), expected)


def test_the_policy_follows_the_order_of_users(channels):
    actor = build_actor(channels)
    before, after = (actor(seen(c)).unflatten(-1, (10, 2)) for c in (channels, channels.permute_users(DOWN, UP)))
    torch.testing.assert_close(after, before[:, ORDER], rtol=0, atol=1e-5)
    assert (after - before).abs().max() > 1e-3


def ascend(
    critic: Critic, actor: DeterministicActor, observation: Observation, reward, updates: int, sees: str = "powers"
) -> None:
    """Fit the critic to rewards of random actions alone, then the actor to the critic alone."""
    critics, actors = (torch.optim.Adam(module.parameters(), lr=5e-3) for module in (critic, actor))
    generator = seeded(2)
    size = observation.layout.size
    for number in range(updates):
        action = 2 * torch.rand(observation.batch, 4, size, generator=generator) - 1
        view = look(observation, action, sees)
        if number == 0:
            critic.calibrate(observation, view, reward(action))
        loss = critic_loss(critic(observation, view), reward(action))
        critics.zero_grad()
        loss.backward()
        critics.step()
    critic.requires_grad_(False)
    for _ in range(updates // 2):
        output = actor(observation)
        view = look(observation, output.tanh().unsqueeze(1), sees)
        objective = critic(observation, view).sum(-1).mean() - 3e-3 * saturation(output)
        actors.zero_grad()
        (-objective).backward()
        actors.step()


@pytest.mark.slow
def test_the_policy_finds_the_top_of_a_learned_quadratic(make_channels):
    observation = seen(make_channels(32, downlink_users=2, uplink_users=2))
    best = torch.tensor([0.5, -0.4]).repeat(4)

    def reward(action: Tensor) -> Tensor:
        return -(action - best).square().unflatten(-1, (4, 2)).sum(-1)

    actor = build_actor(observation.known.channels)
    before = reward(actor(observation).tanh()).sum(-1).mean().item()
    assert before == pytest.approx(-4 * (0.25 + 0.16), rel=0.2)
    ascend(build_critic(observation.known.channels, sees="numbers"), actor, observation, reward, 400, "numbers")
    after = reward(actor(observation).tanh()).sum(-1).mean().item()
    assert after > 0.5 * before  # both are negative
    assert actor(observation).tanh().mean(0).unflatten(-1, (4, 2)).sign().tolist() == [[1.0, -1.0]] * 4


def test_the_policy_raises_measured_rates_through_the_critic(make_channels):
    """No gradient of the simulator: the critic saw measured rates of random actions."""
    channels, unseen = make_channels(32), make_channels(64, seed=1)
    head, actor, critic = make_head("structured", 8), build_actor(channels), build_critic(channels)

    def measured() -> float:
        action = actor(seen(unseen)).detach().tanh().unsqueeze(1)
        return decided_rates(head, unseen, action).sum(-1).mean().item()

    before = measured()
    ascend(critic, actor, seen(channels), lambda action: decided_rates(head, channels, action) / 10, 100)
    assert measured() > before + 8  # bit/s/Hz


def test_saturation_is_the_mean_square_and_pulls_towards_the_middle(generator):
    output = (3 * torch.randn(4, 6, generator=generator)).requires_grad_()
    penalty = saturation(output)
    assert penalty.item() == pytest.approx(sum(x * x for x in output.flatten().tolist()) / 24, rel=1e-5)
    penalty.backward()
    torch.testing.assert_close(output.grad, 2 * output.detach() / 24)


# ------------------------------------------------------------------ target networks


def test_the_target_follows_by_a_fraction_of_the_distance(channels):
    source, target = build_critic(channels), deepcopy(build_critic(channels))
    for i, parameter in enumerate(source.parameters()):
        nn.init.normal_(parameter, generator=seeded(i))
    old = [p.detach().double().clone() for p in target.parameters()]
    new = [p.detach().double().clone() for p in source.parameters()]
    moved, towards = tuple(target.parameters()), tuple(source.parameters())
    polyak_update(moved, towards, 0.1)
    for p, was, goal in zip(target.parameters(), old, new, strict=True):
        torch.testing.assert_close(p.double(), 0.9 * was + 0.1 * goal, rtol=1e-5, atol=1e-6)
    for p, kept in zip(source.parameters(), new, strict=True):
        assert torch.equal(p.double(), kept)
    for _ in range(4):
        polyak_update(moved, towards, 0.1)
    for p, was, goal in zip(target.parameters(), old, new, strict=True):
        torch.testing.assert_close(p.double(), goal + 0.9**5 * (was - goal), rtol=1e-4, atol=1e-5)
        assert p.requires_grad
        assert p.grad_fn is None
    polyak_update(moved, towards, 1.0)
    for p, goal in zip(target.parameters(), new, strict=True):
        torch.testing.assert_close(p.double(), goal, rtol=1e-5, atol=1e-6)


def test_links_with_units_of_their_own_count_alike_however_small_their_rewards(channels):
    problem, observation = problem_of(channels), seen(channels)
    config = NetworkConfig(kind="mlp", width=WIDTH)
    transition = make_transition(config, problem, make_view(config, problem)[1])
    critic, view = Critic(transition, WIDTH, problem.layout.entities), look(observation, draw_actions(channels, 3))
    size = torch.logspace(-1, 2, 10)
    reward = size * (5 + torch.randn(16, 3, 10, generator=seeded(1)))
    critic.calibrate(observation, view, reward)
    torch.testing.assert_close(critic.level, reward.mean((0, 1)))
    error = torch.randn(16, 3, 10, generator=seeded(2))
    value = reward + error * critic.unit  # every link is wrong by as much of its own unit
    torch.testing.assert_close(critic_loss(value, reward, critic.unit), error.square().mean(), rtol=1e-3, atol=1e-4)
    plain = critic.out(critic.transition(observation, view)).squeeze(-1)
    torch.testing.assert_close(critic(observation, view), plain * critic.unit + critic.level)
