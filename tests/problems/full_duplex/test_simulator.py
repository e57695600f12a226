"""The cell as an environment: who decides on what, how time passes, what is random and what is not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.full_duplex.env import FullDuplexEnv
from d2rl.problems.full_duplex.simulator import CellState, decided_rates, evaluation_states, rates_of
from d2rl.wireless import link_rates
from d2rl.wireless.fading import scale, whiten

NAMES = ("downlink", "uplink", "cross", "self_interference")


def build(num_envs: int = 6, seed: int = 0, **scenario) -> FullDuplexEnv:
    return FullDuplexEnv(FullDuplexConfig(**scenario), num_envs, seed)


def random_actions(env: FullDuplexEnv, *lead: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(*(lead or (env.num_envs,)), env.action_size, generator=generator) - 1


def everything(state: CellState) -> list[Tensor]:
    parts = (state.channels.tensors(), state.estimate.tensors(), state.gains.tensors())
    return [*(tensor for part in parts for tensor in part.values()), state.weights]


def copy(state: CellState) -> list[Tensor]:
    return [tensor.clone() for tensor in everything(state)]


def identical(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def advances(env: FullDuplexEnv, slots: int) -> Iterator[CellState]:
    for _ in range(slots):
        yield env.advance()[0]


def bessel_j0(x: float) -> float:
    """J_0 from its integral, (1 / pi) int_0^pi cos(x sin t) dt; the midpoint rule converges at once."""
    return sum(math.cos(x * math.sin(math.pi * (i + 0.5) / 200)) for i in range(200)) / 200


def correlation(first: Tensor, second: Tensor) -> float:
    power = (first.abs().square().mean() * second.abs().square().mean()).sqrt()
    return ((first.conj() * second).mean().real / power).item()


# ------------------------------------------------------------------ actions and rates


@pytest.mark.parametrize("head", ["structured", "beamforming"])
def test_decisions_use_the_estimate_and_rates_the_truth(head):
    env = build(head=head, csi_error=0.3)
    state, action = env.state, random_actions(env)
    rates = env.measure(state, action)
    torch.testing.assert_close(rates, link_rates(state.channels, *env.head.decode(state.estimate, action)))
    believed = link_rates(state.estimate, *env.head.decode(state.estimate, action))
    assert (rates - believed).abs().max() > 0.1
    if head == "structured":  # its beams follow the channels that it is shown
        informed = link_rates(state.channels, *env.head.decode(state.channels, action))
        assert (rates - informed).abs().max() > 0.1


@pytest.mark.parametrize("head", ["structured", "beamforming"])
def test_candidates_are_measured_as_if_each_were_alone(head):
    env = build(head=head, csi_error=0.2)
    action = random_actions(env, 6, 5)
    together = env.measure(env.state, action)
    assert together.shape == (6, 5, 10)
    for m in range(5):
        torch.testing.assert_close(together[:, m], env.measure(env.state, action[:, m]), rtol=0, atol=1e-4)
    assert together.std(dim=1).min() > 0


def test_rates_can_be_climbed_through_the_decision():
    env = build()
    channels, action = env.state.channels, (0.5 * random_actions(env, 6, 2)).requires_grad_()
    rates = decided_rates(env.head, channels, action)
    torch.testing.assert_close(rates, env.measure(env.state, action), rtol=0, atol=1e-3)
    rates.sum().backward()
    assert torch.isfinite(action.grad).all()
    direction = action.grad / action.grad.norm(dim=-1, keepdim=True)
    ahead, behind = (decided_rates(env.head, channels, action.detach() + s * 1e-2 * direction) for s in (1, -1))
    slope = (ahead - behind).sum(-1) / 2e-2
    torch.testing.assert_close(slope, action.grad.norm(dim=-1), rtol=0.05, atol=0.05)


def decided(env: FullDuplexEnv, action: Tensor) -> tuple[Tensor, Tensor]:
    """The decision of actions [B, size] in the present state."""
    return env.problem.decode(env.problem.observe(env.state), action.unsqueeze(1))


def test_a_step_rates_the_decision_on_the_state_before_it():
    env, twin = build(csi_error=0.1), build(csi_error=0.1)
    before, action = env.state, random_actions(env)
    step = env.step(decided(env, action))
    expected, ended = twin.advance()
    torch.testing.assert_close(step.utility.squeeze(1), env.measure(before, action), rtol=0, atol=1e-3)
    assert identical(everything(step.state), everything(expected))
    assert torch.equal(step.truncated, ended)
    assert not bool(step.terminated.any())
    assert env.state is step.state


def test_several_decisions_of_a_state_are_rated_as_if_each_were_alone():
    env = build(csi_error=0.1)
    before, action = env.state, random_actions(env, 6, 3)
    decision = env.problem.decode(env.problem.observe(before), action)
    torch.testing.assert_close(env.step(decision).utility, env.measure(before, action), rtol=0, atol=1e-3)


def test_channels_do_not_depend_on_actions():
    busy, idle = build(), build()
    for i in range(3):
        acted = busy.step(decided(busy, random_actions(busy, seed=i))).state
        left, _ = idle.advance()
        assert identical(everything(acted), everything(left))


# ------------------------------------------------------------------ time


@pytest.mark.parametrize(("cells", "length"), [(7, 5), (3, 10), (20, 10), (4, 1)])
def test_each_cell_is_dropped_anew_once_an_episode_and_the_others_are_left_alone(cells, length):
    env = build(cells, episode_length=length, priority_user=1.0, downlink_users=2, uplink_users=2)
    history = []
    for _ in range(3 * length):
        before = env.state
        positions = [place.clone() for place in before.positions]
        state, truncated = env.advance()
        for old, new in zip(positions, state.positions, strict=True):
            assert torch.equal((old != new).flatten(1).all(1), truncated)
            assert torch.equal((old != new).flatten(1).any(1), truncated)
        for name in ("downlink", "uplink", "cross"):
            changed = (getattr(before.gains, name) != getattr(state.gains, name)).flatten(1)
            assert torch.equal(changed.all(1), truncated)
            assert torch.equal(changed.any(1), truncated)
        assert torch.equal((before.weights != state.weights).all(1), truncated)
        assert torch.equal((before.weights != state.weights).any(1), truncated)
        history.append(truncated)
    slots = torch.stack(history)
    assert torch.equal(slots.sum(0), torch.full((cells,), 3))
    assert torch.equal(slots[length:], slots[:-length])
    counts = slots.sum(1)
    assert counts.max() - counts.min() <= 1  # staggered


def test_gains_are_those_of_the_positions_after_many_drops():
    env = build(5, episode_length=2)
    for _ in range(7):
        env.advance()
    down, up = (place.double() for place in env.state.positions)
    distance = down.norm(dim=-1) / 1000
    noise = -174 + 70 + 9
    expected = 10 ** ((26 - 103.8 - 20.9 * torch.log10(distance) - noise) / 10)
    torch.testing.assert_close(env.state.gains.downlink.double(), expected, rtol=1e-4, atol=0)
    between = torch.cdist(up, down).clamp_min(1) / 1000
    expected = 10 ** ((23 - 145.4 - 37.5 * torch.log10(between) - noise) / 10)
    torch.testing.assert_close(env.state.gains.cross.double(), expected, rtol=1e-3, atol=0)


def test_what_follows_a_cut_episode_is_its_own_last_state_and_elsewhere_the_present_one():
    """The users stay where they are for one more slot of fading; then others are dropped in their place."""
    env, ended = build(7, episode_length=5, speed=6.0, csi_error=0.1), 0
    for _ in range(10):
        before, step = env.state, env.step(decided(env, random_actions(env)))
        cut, following = step.truncated, step.following
        assert all(
            torch.equal(a[~cut], b[~cut]) for a, b in zip(*map(everything, (following, step.state)), strict=True)
        )
        for name in ("downlink", "uplink", "cross"):
            assert torch.equal(getattr(following.gains, name), getattr(before.gains, name))
        assert torch.equal(following.weights, before.weights)
        assert all(torch.equal(a, b) for a, b in zip(following.positions, before.positions, strict=True))
        small = [whiten(state.channels[cut], state.gains[cut]).downlink for state in (before, following, step.state)]
        if bool(cut.any()):
            ended += int(cut.sum())
            assert correlation(small[0], small[1]) > 0.7
            assert abs(correlation(small[0], small[2])) < 0.5
            assert not (following.estimate.downlink[cut] == following.channels.downlink[cut]).any()
        assert following.slot == step.state.slot == before.slot + 1
    assert ended == 2 * 7


@pytest.mark.parametrize("speed", [3.0, 12.0])
def test_fading_between_drops_has_the_jakes_correlation(speed):
    env = build(600, speed=speed, episode_length=10**6)
    env.advance()  # of 600 staggered cells only some end
    states = [env.state, *advances(env, 3)]
    kept = (states[0].gains.downlink == states[-1].gains.downlink).all(1)
    assert kept.sum() >= 590
    small = [whiten(state.channels[kept], state.gains[kept]) for state in states]
    doppler = speed / 3.6 * 2e9 / 299_792_458
    rho = bessel_j0(2 * math.pi * doppler * 0.01)
    for slots in (1, 3):  # first-order Gauss-Markov: rho^n
        for name in ("downlink", "uplink", "cross"):
            found = correlation(getattr(small[0], name), getattr(small[slots], name))
            assert found == pytest.approx(rho**slots, abs=0.025), name
        k = 10**0.1  # the line of sight of self-interference does not fade
        found = correlation(small[0].self_interference, small[slots].self_interference)
        assert found == pytest.approx((k + rho**slots) / (k + 1), abs=0.025)
    for name in NAMES:  # unit power is kept
        assert getattr(small[-1], name).abs().square().mean().item() == pytest.approx(1, abs=0.03), name


def test_without_motion_channels_stand_still_until_the_drop():
    env = build(5, speed=0.0, episode_length=4)
    before = env.state
    for state in advances(env, 1):
        same = (state.channels.downlink == before.channels.downlink).flatten(1).all(1)
        assert torch.equal(same, (state.gains.downlink == before.gains.downlink).all(1))
        assert same.sum() in (3, 4)


@pytest.mark.parametrize("scenario", [{}, {"rician": 10.0}, {"csi_error": 0.2}, {"stored_states": 3}])
def test_a_state_once_returned_never_changes(scenario):
    env = build(4, episode_length=2, priority_user=0.5, **scenario)
    states = [env.state, *advances(env, 3)]
    copies = [copy(state) for state in states]
    for _ in range(6):
        env.advance()
    env.reset()
    for state, kept in zip(states, copies, strict=True):
        assert identical(everything(state), kept)


# ------------------------------------------------------------------ randomness


CONTINUED = [
    {},
    {"csi_error": 0.2, "priority_direction": 0.5},
    {"stored_states": 5, "priority_user": 0.5},
    {"stored_states": 5, "csi_error": 0.2},
    {"rician": 3.0},
    {"episode_length": 1},
]


@pytest.mark.parametrize("through_file", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize("scenario", CONTINUED)
def test_a_saved_environment_continues_bit_for_bit(scenario, through_file, tmp_path):
    scenario = {"episode_length": 3, **scenario}
    env = build(5, **scenario)
    for _ in range(4):
        env.advance()
    saved = env.state_dict()
    if through_file:
        torch.save(saved, tmp_path / "env.pt")
        saved = torch.load(tmp_path / "env.pt", weights_only=True)
    now = copy(env.state)
    future = [(copy(state), ended) for state, ended in (env.advance() for _ in range(7))]
    for seed in (1, 2):  # twice: the first continuation must not write into what was saved
        again = build(5, seed=seed, **scenario)
        again.load_state_dict(saved)
        assert identical(everything(again.state), now)
        for expected, ended in future:
            state, truncated = again.advance()
            assert identical(everything(state), expected)
            assert torch.equal(truncated, ended)


@pytest.mark.parametrize("scenario", CONTINUED)
def test_the_seed_decides_everything(scenario):
    env, same, other = build(seed=3, **scenario), build(seed=3, **scenario), build(seed=4, **scenario)
    for _ in range(3):
        state = env.advance()[0]
        assert identical(everything(state), everything(same.advance()[0]))
        assert not (state.channels.uplink == other.advance()[0].channels.uplink).any()


def test_the_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(csi_error=0.1, priority_user=1.0)
    first.advance()
    evaluation_states(first.config, 4, 0)
    first.problem.cells.with_channels(first.state, first.state.channels, first.generator)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = build(csi_error=0.1, priority_user=1.0)
    second.advance()
    evaluation_states(first.config, 4, 0)
    second.problem.cells.with_channels(second.state, second.state.channels, second.generator)
    assert identical(everything(first.advance()[0]), everything(second.advance()[0]))


def fingerprints(state: CellState) -> set[bytes]:
    return {row.numpy().tobytes() for row in torch.view_as_real(state.channels.downlink).flatten(1)}


def test_scarce_csi_shows_a_fixed_number_of_states_and_never_those_of_the_evaluation():
    env = build(16, stored_states=5, csi_error=0.1, priority_user=0.5)
    seen, believed = fingerprints(env.state), set()
    for i in range(30):
        state = env.reset() if i == 20 else env.advance()[0]
        seen |= fingerprints(state)
        believed |= {row.numpy().tobytes() for row in torch.view_as_real(state.estimate.downlink).flatten(1)}
    assert len(seen) == len(believed) == 5
    for seed in range(3):
        held_out = fingerprints(evaluation_states(env.config, 64, seed))
        assert len(held_out) == 64
        assert not held_out & seen


def test_training_never_meets_the_evaluation_states_whatever_the_seeds():
    config = FullDuplexConfig()
    held_out = fingerprints(evaluation_states(config, 16, 0))
    for seed in range(3):
        assert not held_out & fingerprints(FullDuplexEnv(config, 16, seed).state)


def test_evaluation_states_are_frozen_and_all_links_weigh_the_same():
    config = FullDuplexConfig(priority_direction=1.0, priority_user=1.0, stored_states=3, csi_error=0.1)
    first, again, other = (evaluation_states(config, 8, seed) for seed in (0, 0, 1))
    assert identical(everything(first), everything(again))
    assert not (first.channels.downlink == other.channels.downlink).any()
    assert torch.equal(first.weights, torch.ones(8, 10))
    assert not torch.equal(first.estimate.downlink, first.channels.downlink)
    plain = evaluation_states(FullDuplexConfig(csi_error=0.1), 8, 0)
    assert identical(everything(first), everything(plain))  # so variants in training meet the same test


# ------------------------------------------------------------------ scenarios


@pytest.mark.parametrize("error", [0.0, 0.3, 1.0])
def test_the_estimate_has_the_asked_correlation_and_the_power_of_the_truth(error):
    env = build(400, csi_error=error)
    true, known = (whiten(channels, env.state.gains) for channels in (env.state.channels, env.state.estimate))
    for name in NAMES:
        assert getattr(known, name).abs().square().mean().item() == pytest.approx(1, abs=0.05), name
        # a part e of noise beside a part 1 - e of the truth
        found = correlation(getattr(true, name), getattr(known, name))
        assert found == pytest.approx(math.sqrt(1 - error), abs=0.02), name


SCENARIOS = [
    {"path_loss": "nlos", "bs_power": 30.0},
    {"self_interference": -80.0},
    {"self_interference": -130.0},
    {"self_interference": 0.0, "minimum_distance": 1.0, "cell_radius": 2.0},
    {"downlink_users": 3, "uplink_users": 5, "transmit_antennas": 4, "receive_antennas": 2},
    {"downlink_users": 1, "uplink_users": 1, "transmit_antennas": 1, "receive_antennas": 1},
    {"rician": 10.0},
    {"rician": -100.0, "csi_error": 1.0},
    {"cell_radius": 5000.0, "path_loss": "nlos"},
]


@pytest.mark.parametrize("head", ["structured", "beamforming"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_rates_are_finite_in_every_scenario(scenario, head):
    env = build(8, head=head, episode_length=2, **scenario)
    for _ in range(3):
        corners = torch.tensor([-1.0, 0.0, 1.0])[:, None].expand(3, env.action_size)
        actions = torch.cat([corners.expand(8, -1, -1), random_actions(env, 8, 2)], dim=1)
        rates = env.measure(env.state, actions)
        assert rates.shape == (8, 5, env.config.downlink_users + env.config.uplink_users)
        assert torch.isfinite(rates).all()
        assert (rates > -1e-5).all()
        assert rates.sum() > 0
        env.advance()


def test_no_line_of_sight_costs_what_the_model_says():
    near, far = build(32), build(32, path_loss="nlos")
    distance = near.state.positions.downlink.norm(dim=-1) / 1000
    lost = 145.4 - 103.8 + (37.5 - 20.9) * torch.log10(distance)  # dB
    gained = 10 * torch.log10(near.state.gains.downlink / far.state.gains.downlink)
    torch.testing.assert_close(gained, lost, rtol=0, atol=1e-2)
    assert torch.equal(near.state.gains.cross, far.state.gains.cross)
    action = torch.zeros(32, near.action_size)
    strong, weak = near.measure(near.state, action).mean(0), far.measure(far.state, action).mean(0)
    assert (strong - weak).min() > 0.5


def test_less_self_interference_helps_the_uplink_and_leaves_the_downlink():
    """The beamforming head does not look at the channels, so the decision is the same at every level."""
    levels = {si: build(16, head="beamforming", self_interference=si) for si in (-80.0, -90.0, -110.0, -200.0)}
    action = random_actions(levels[-80.0])
    rates = [env.measure(env.state, action) for env in levels.values()]
    for worse, better in itertools.pairwise(rates):
        torch.testing.assert_close(worse[:, :6], better[:, :6], rtol=0, atol=1e-5)
        assert (better[:, 6:] - worse[:, 6:]).min() > -1e-4
    assert (rates[2] - rates[0])[:, 6:].mean() > 1
    quiet = levels[-200.0]
    precoder, power = quiet.head.decode(quiet.state.estimate, action)
    half_duplex = link_rates(quiet.state.channels, torch.zeros_like(precoder), power)
    torch.testing.assert_close(rates[-1][:, 6:], half_duplex[:, 6:], rtol=0, atol=1e-4)


def test_a_strong_line_of_sight_is_the_steering_vector_of_the_position():
    env = build(4, rician=60.0, episode_length=1)
    env.advance()
    down, up = env.state.positions
    for users, channel, gain in (
        (down, env.state.channels.downlink, env.state.gains.downlink),
        (up, env.state.channels.uplink, env.state.gains.uplink),
    ):
        for b in range(4):
            for k in range(users.shape[1]):
                x, y = users[b, k].tolist()
                for n in range(8):
                    phase = math.pi * n * x / math.hypot(x, y)
                    expected = complex(math.cos(phase), math.sin(phase))
                    assert abs(channel[b, k, n].item() / gain[b, k].sqrt().item() - expected) < 0.01


@pytest.mark.parametrize("error", [0.0, 0.2])
def test_other_channels_bring_their_own_estimates_and_keep_gains_and_weights(error):
    env = build(300, csi_error=error)
    state = env.state
    # channels of the same gains, as SENPNN makes them: the small-scale part of a neighbour
    small = whiten(state.channels, state.gains).map(lambda tensor: tensor.roll(1, dims=0))
    new = scale(small, state.gains)
    before = copy(state)
    made = env.problem.cells.with_channels(state, new, env.generator)
    assert identical(everything(state), before)
    assert identical(list(made.gains.tensors().values()), list(state.gains.tensors().values()))
    assert torch.equal(made.weights, state.weights)
    for name in NAMES:
        true, known = getattr(made.channels, name), getattr(made.estimate, name)
        assert torch.equal(true, getattr(new, name))
        assert torch.equal(known, true) == (error == 0)
    true, known = (whiten(channels, state.gains) for channels in (made.channels, made.estimate))
    for name in NAMES:
        found = correlation(getattr(true, name), getattr(known, name))
        assert found == pytest.approx(math.sqrt(1 - error), abs=0.03), name


@pytest.mark.parametrize("error", [0.0, 0.2])
@pytest.mark.parametrize("count", [1, 3])
def test_rates_of_decisions_are_those_of_the_actions_they_were_made_of(error, count):
    """Decided on the estimate, measured on the true channels; for any number of states."""
    env = build(12, csi_error=error)
    for state in (env.state, env.state[:5]):
        states = state.weights.shape[0]
        action = 2 * torch.rand(states, count, env.action_size, generator=torch.Generator().manual_seed(0)) - 1
        decision = env.head.decode(state.estimate.repeat(count), action.flatten(0, 1))
        rates = rates_of(state.channels, *decision)
        assert rates.shape == (states, count, state.channels.links)
        torch.testing.assert_close(rates, env.measure(state, action))
        blind = decided_rates(env.head, state.estimate, action)
        assert ((rates - blind).abs().max() > 0.1) == (error > 0)


@pytest.mark.parametrize(("direction", "user"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.5), (0.6, 0.4)])
@pytest.mark.parametrize("stored", [0, 4])
def test_priorities_are_log_normal_with_the_asked_spreads(direction, user, stored):
    env = build(4000, priority_direction=direction, priority_user=user, stored_states=stored, downlink_users=3)
    logs = torch.log(env.state.weights.double())
    covariance = logs.mT.cov()
    same = torch.block_diag(torch.ones(3, 3), torch.ones(4, 4)).double()
    expected = direction**2 * same + user**2 * torch.eye(7)
    torch.testing.assert_close(covariance, expected, rtol=0, atol=0.06)
    torch.testing.assert_close(logs.mean(0), torch.zeros(7).double(), rtol=0, atol=0.05)
    if direction or user:
        standard = (logs[:, 0] - logs[:, 0].mean()) / logs[:, 0].std()
        assert standard.pow(3).mean().item() == pytest.approx(0, abs=0.2)
        assert standard.pow(4).mean().item() == pytest.approx(3, abs=0.4)


@pytest.mark.parametrize("stored", [0, 4])
def test_a_share_of_the_drops_wants_one_direction_or_some_links_alone(stored):
    env = build(4000, priority_zero=0.4, priority_user=0.3, stored_states=stored, downlink_users=3, uplink_users=4)
    wanted = env.state.weights > 0
    limited = wanted[~wanted.all(1)]
    down, up = limited[:, :3], limited[:, 3:]
    whole = torch.stack([(down.all(1) & ~up.any(1)), (up.all(1) & ~down.any(1))], 1).double()
    # of 0.4, a quarter each direction; of the other half, a level evenly spread leaves all 7 links in one case of 8
    assert len(limited) / 4000 == pytest.approx(0.4 * (1 - 0.5 / 8), abs=0.03)
    assert whole.sum(0).div(4000).tolist() == pytest.approx([0.1, 0.1], abs=0.025)
    counts = limited[whole.sum(1) == 0].sum(1).bincount(minlength=7)
    assert counts[0] == 0
    assert counts[1].item() == pytest.approx(2 * counts[2:].double().mean().item(), rel=0.3)  # none becomes one
    assert counts[2:].min() > 0.6 * counts[2:].double().mean()
    assert wanted[wanted.all(1)].shape == (4000 - len(limited), 7)
    assert env.state.weights[wanted].log().std().item() == pytest.approx(0.3, abs=0.03)


def test_without_limited_drops_nothing_else_changes():
    plain, limited = (build(64, priority_user=0.3, priority_zero=share).state for share in (0.0, 0.5))
    wanted = limited.weights > 0
    assert torch.equal(limited.weights[wanted], plain.weights[wanted])
    assert bool((plain.weights > 0).all())
    assert not bool(wanted.all())
    assert bool((evaluation_states(FullDuplexConfig(priority_zero=1.0), 16, 0).weights == 1).all())


def test_shapes_follow_the_scenario():
    env = build(5, downlink_users=3, uplink_users=2, transmit_antennas=4, receive_antennas=6, head="beamforming")
    channels = env.state.channels
    assert channels.validate() is channels
    assert (channels.downlink.shape, channels.uplink.shape) == ((5, 3, 4), (5, 2, 6))
    assert (channels.cross.shape, channels.self_interference.shape) == ((5, 2, 3), (5, 6, 4))
    assert env.action_size == 2 * 4 * 3 + 2
    assert build(downlink_users=3, uplink_users=2).action_size == 2 * (3 + 2)


def test_cells_are_selected_together():
    state = build(6, csi_error=0.1, priority_user=0.5).state
    index = torch.tensor([4, 1])
    for chosen, whole in zip(everything(state[index]), everything(state), strict=True):
        assert torch.equal(chosen, whole[[4, 1]])


# ------------------------------------------------------------------ users that stay


def test_users_of_a_fixed_drop_stay_while_fading_goes_on():
    env = build(6, fixed_drop=3, episode_length=2, rician=10.0)
    states = [env.state, *advances(env, 4)]
    first = states[0].positions
    for state in states:
        for places, others in zip(state.positions, first, strict=True):
            torch.testing.assert_close(places, others[:1].expand_as(places))
        torch.testing.assert_close(state.gains.uplink, states[0].gains.uplink[:1].expand(6, -1))
    assert len({state.channels.downlink[0, 0, 0].item() for state in states}) == len(states)
    assert len(set(states[0].channels.downlink[:, 0, 0].tolist())) == 6


def test_a_fixed_drop_is_one_place_for_every_seed_and_for_the_evaluation():
    config = FullDuplexConfig(fixed_drop=3)
    places = [build(2, seed=seed, fixed_drop=3).state.positions.downlink[0] for seed in (0, 1)]
    places.append(evaluation_states(config, 4, 9).positions.downlink[2])
    assert all(torch.equal(place, places[0]) for place in places)
    other = evaluation_states(replace(config, fixed_drop=4), 4, 9).positions.downlink[2]
    assert (other - places[0]).norm(dim=-1).min() > 0.1


def test_where_the_sum_alone_is_told_every_link_has_the_weighted_mean():
    told = {}
    for feedback in ("dense", "scalar"):
        env = build(feedback=feedback, priority_user=0.5, priority_zero=0.3)
        state = env.state
        decision = env.problem.decode(env.problem.observe(state), random_actions(env, 6, 3))
        told[feedback] = env.problem.step(state, decision, torch.Generator().manual_seed(0)).utility
        assert torch.equal(env.problem.measure(state, decision), told["dense"])  # evaluations see all
    weights = state.weights.unsqueeze(1)
    assert torch.equal(told["scalar"], told["scalar"][..., :1].expand_as(told["scalar"]))
    torch.testing.assert_close((weights * told["scalar"]).sum(-1), (weights * told["dense"]).sum(-1))
