"""The reward explorer: what it generates after learning, in which unit, and how it is judged."""

from __future__ import annotations

import math
import warnings

import lightning as L
import pytest
import torch
from conftest import problem_of
from torch import Tensor
from torch.utils.data import DataLoader

from d2rl.algorithm.explorers import RENPNN
from d2rl.algorithm.explorers.reward import rank_correlation
from d2rl.algorithm.networks import make_transition
from d2rl.algorithm.rewards import designed_reward, raw_reward
from d2rl.config.defaults import FullDuplexConfig, NetworkConfig
from d2rl.problems.base import Observation
from d2rl.problems.full_duplex.env import FullDuplexEnv
from d2rl.problems.full_duplex.observation import observe
from d2rl.problems.full_duplex.simulator import evaluation_states
from d2rl.wireless import ChannelState

WIDTH = 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seen(channels: ChannelState) -> Observation:
    return observe(channels, torch.ones(channels.batch, channels.links))


def draw_actions(channels: ChannelState, count: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(channels.batch, count, 2 * channels.links, generator=seeded(seed)) - 1


def look(observation: Observation, action: Tensor) -> Tensor:
    return problem_of(observation.known.channels).view(observation, action)


def draw_views(observation: Observation, count: int, seed: int = 0) -> Tensor:
    return look(observation, draw_actions(observation.known.channels, count, seed))


def build(channels: ChannelState, per_link: bool = True, steps: int = 6, **kwargs) -> RENPNN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transition = make_transition(NetworkConfig(width=WIDTH), problem_of(channels), view=2)
        return RENPNN(transition, WIDTH, steps, per_link, **kwargs)


def train(explorer: RENPNN, data: tuple[Observation, Tensor, Tensor], updates: int, batch: int = 64) -> RENPNN:
    observation, view, reward = data
    optimizer, generator = explorer.configure_optimizers(), seeded(1)
    explorer.calibrate(reward)
    for _ in range(updates):
        chosen = torch.randint(observation.batch, (batch,), generator=generator)
        loss, _ = explorer.loss(observation[chosen], view[chosen], reward[chosen], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return explorer


@torch.no_grad()
def draw(explorer: RENPNN, observation: Observation, view: Tensor, count: int, seed: int = 0) -> Tensor:
    """Single rewards, each one chain: [count, B, M, K or 1]."""
    generator = seeded(seed)
    return torch.stack([explorer.generate(observation, view, 1, generator) for _ in range(count)])


# ------------------------------------------------------------------ learning


@pytest.mark.parametrize("per_link", [True, False], ids=["designed", "raw"])
def test_rewards_of_the_simulator_are_learned(per_link):
    """On states and actions that it was not trained on, the error is well below the variance."""
    config = FullDuplexConfig(downlink_users=3, uplink_users=2)
    env = FullDuplexEnv(config, 512, seed=0)

    def rewards(state, seed):
        observation, action = seen(state.channels), draw_actions(state.channels, 2, seed)
        rates = env.measure(state, action)
        reward = (designed_reward if per_link else raw_reward)(rates, observation)
        return observation, look(observation, action), reward

    explorer = train(build(env.state.channels, per_link, rate=1e-2), rewards(env.state, 1), 250)
    observation, view, measured = rewards(evaluation_states(config, 128, 0), 2)
    with torch.no_grad():
        generated = explorer.generate(observation, view, 4, seeded(3))
    assert generated.shape == measured.shape == (128, 2, 5 if per_link else 1)
    assert (generated - measured).square().mean() < 0.2 * measured.var()
    assert rank_correlation(generated.sum(-1), measured.sum(-1)) > 0.5


@pytest.fixture(scope="module")
def noisy() -> dict[float, tuple[RENPNN, Observation, Tensor]]:
    """Two explorers of one state and two actions; rewards are 10 or 14 for the actions, give or take a noise."""
    channels = evaluation_states(FullDuplexConfig(downlink_users=2, uplink_users=2), 1, 0).channels.repeat(512)
    observation = seen(channels)
    view = look(observation, torch.tensor([-0.8, 0.8])[:, None].expand(512, 2, 8))
    trained = {}
    for noise in (0.2, 2.0):
        sign = torch.randint(2, (512, 2, 1), generator=seeded(5)) * 2.0 - 1
        reward = torch.tensor([10.0, 14.0])[:, None] + noise * sign
        explorer = build(channels, per_link=False, rate=5e-3, risk="cvar")  # which alone remembers errors
        train(explorer, (observation, view, reward), 250)
        explorer.risk = "mean"
        trained[noise] = (explorer, observation[:1], view[:1])
    return trained


@pytest.mark.parametrize("noise", [0.2, 2.0])
def test_the_mean_of_noisy_rewards_is_learned(noisy, noise):
    """To about half of the noise: a short chain turns small errors towards one of the two values."""
    explorer, observation, view = noisy[noise]
    with torch.no_grad():
        mean = explorer.generate(observation, view, 1000, seeded())
    assert mean.flatten().tolist() == pytest.approx([10, 14], abs=0.1 + 0.6 * noise)


def test_noisier_rewards_are_generated_with_more_spread(noisy):
    spreads = {}
    for noise, (explorer, observation, view) in noisy.items():
        drawn = draw(explorer, observation, view, 100)
        spreads[noise] = drawn.std(0).flatten()
    assert (spreads[2.0] > 3 * spreads[0.2]).all()
    assert (spreads[2.0] > 0.5).all()
    assert (spreads[2.0] < 3.0).all()


def test_cvar_judges_draws_that_spread_like_the_rewards(noisy):
    """Which those of the plain chain do not."""
    explorer, observation, view = noisy[2.0]
    plain = draw(explorer, observation, view, 400).std(0).flatten()
    explorer.risk = "cvar"
    kept = draw(explorer, observation, view, 400).std(0).flatten()
    explorer.risk = "mean"
    assert ((kept - 2.0).abs() < 0.5 * (plain - 2.0).abs()).all()


def test_cvar_is_more_careful_where_rewards_are_noisier(noisy):
    shortfall = {}
    for noise, (explorer, observation, view) in noisy.items():
        with torch.no_grad():
            mean = explorer.generate(observation, view, 64, seeded())
            explorer.risk, explorer.quantile = "cvar", 0.25
            careful = explorer.generate(observation, view, 64, seeded())
            explorer.risk = "mean"
        assert (careful < mean).all()
        shortfall[noise] = (mean - careful).flatten()
    assert (shortfall[2.0] > 3 * shortfall[0.2]).all()


# ------------------------------------------------------------------ what is generated


@pytest.mark.parametrize("per_link", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 6, 10])
def test_shapes_and_determinism(channels, per_link, steps):
    explorer, observation, view = build(channels, per_link, steps), seen(channels), draw_views(seen(channels), 3)
    global_state = torch.get_rng_state()
    reward = explorer.generate(observation, view, 4, seeded())
    assert reward.shape == (16, 3, 10 if per_link else 1)
    assert torch.isfinite(reward).all()
    assert torch.equal(reward, explorer.generate(observation, view, 4, seeded()))
    assert not torch.equal(reward, explorer.generate(observation, view, 4, seeded(1)))
    loss, metrics = explorer.loss(observation, view, torch.zeros_like(reward), seeded())
    assert loss.shape == ()
    assert loss.requires_grad
    assert metrics["loss"] == loss
    assert not metrics["loss"].requires_grad
    assert torch.equal(torch.get_rng_state(), global_state)


def test_more_samples_bring_the_generated_reward_closer_to_its_mean(channels):
    explorer, observation, view = build(channels), seen(channels), draw_views(seen(channels), 2)
    with torch.no_grad():
        one, many = (
            torch.stack([explorer.generate(observation, view, samples, seeded(seed)) for seed in range(30)]).var(0)
            for samples in (1, 16)
        )
    assert many.mean() / one.mean() == pytest.approx(1 / 16, rel=0.3)


def test_cvar_falls_from_the_mean_to_the_worst_sample(channels):
    """The same chains judged by ever smaller parts; states and actions are judged by the sum over links."""
    explorer, observation, view = build(channels), seen(channels), draw_views(seen(channels), 2)
    explorer.risk, values = "cvar", []
    for quantile in (1.0, 0.75, 0.5, 0.25, 0.01):
        explorer.quantile = quantile
        values.append(explorer.generate(observation, view, 8, seeded()))
    totals = torch.stack([value.sum(-1) for value in values])
    assert (totals.diff(dim=0) < 0).all()
    # 8 values with the means of the worst 8, 6, 4, 2 and 1: means of what is left follow
    best_two = (8 * totals[0] - 6 * totals[1]) / 2
    next_two = (6 * totals[1] - 4 * totals[2]) / 2
    assert (best_two > next_two).all()


def test_generated_rewards_have_the_unit_of_the_measured_ones(channels):
    """Rewards of another unit, 3 r - 7: the same loss, and generated rewards of that unit."""
    observation, view = seen(channels), draw_views(seen(channels), 2)
    reward = 5 * torch.randn(16, 2, 10, generator=seeded()) + 2
    losses, generated = [], []
    for measured in (reward, 3 * reward - 7):
        explorer = build(channels)
        explorer.calibrate(measured)
        assert explorer.centre.item() == pytest.approx(measured.double().mean().item(), rel=1e-4)
        assert explorer.spread.item() == pytest.approx(measured.double().std().item(), rel=1e-4)
        losses.append(explorer.loss(observation, view, measured, seeded())[0])
        generated.append(explorer.generate(observation, view, 4, seeded()))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)
    torch.testing.assert_close(3 * generated[0] - 7, generated[1], rtol=1e-4, atol=1e-3)


def test_links_with_units_of_their_own_count_alike_however_small_their_rewards(channels):
    """One link's rewards in another unit change no loss, and of what is generated that link's alone."""
    observation, view = seen(channels), draw_views(seen(channels), 3)
    reward = torch.randn(16, 3, 10, generator=seeded()) + torch.arange(10)
    size, offset = torch.ones(10), torch.zeros(10)
    size[2], offset[2] = 0.05, -30.0
    losses, generated = [], []
    for measured in (reward, size * reward + offset):
        explorer = build(channels, entities=10)
        explorer.calibrate(measured)
        torch.testing.assert_close(explorer.centre, measured.mean((0, 1)))
        losses.append(explorer.loss(observation, view, measured, seeded())[0])
        generated.append(explorer.generate(observation, view, 4, seeded()))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=0)
    torch.testing.assert_close(size * generated[0] + offset, generated[1], rtol=1e-3, atol=1e-3)


def test_the_unit_is_kept_with_the_weights(channels):
    observation, view, explorer = seen(channels), draw_views(seen(channels), 2), build(channels)
    explorer.calibrate(torch.tensor([4.0, 8.0]))
    again = build(channels)
    again.load_state_dict(explorer.state_dict())
    first, second = (each.generate(observation, view, 2, seeded()) for each in (explorer, again))
    assert torch.equal(first, second)


def test_weights_that_were_kept_without_errors_are_loaded(channels):
    observation, view, explorer = seen(channels), draw_views(seen(channels), 2), build(channels)
    kept, again = explorer.state_dict(), build(channels, rate=1e-2)
    del kept["errors"]
    again.load_state_dict(kept)
    first, second = (each.generate(observation, view, 2, seeded()) for each in (explorer, again))
    assert torch.equal(first, second)


def test_a_reward_that_is_not_finite_spoils_no_later_draw(channels):
    explorer, observation, view = build(channels, risk="cvar"), seen(channels), draw_views(seen(channels), 2)
    reward = torch.zeros(16, 2, 10)
    explorer.loss(observation, view, reward, seeded())
    reward[0, 0, 0] = float("nan")
    explorer.loss(observation, view, reward, seeded(1))
    assert bool(torch.isfinite(explorer.generate(observation, view, 4, seeded())).all())


def test_equal_rewards_can_be_calibrated(channels):
    explorer, observation, view = build(channels), seen(channels), draw_views(seen(channels), 2)
    reward = torch.full((16, 2, 10), 4.0)
    explorer.calibrate(reward)
    assert torch.isfinite(explorer.loss(observation, view, reward, seeded())[0])
    assert (explorer.generate(observation, view, 4, seeded()) - 4).abs().max() < 0.01


def test_rewards_of_links_follow_the_order_of_users(channels):
    """The noise of the chains is not permuted, so this holds for the means of many."""
    down, up, few = [3, 0, 5, 1, 4, 2], [2, 0, 3, 1], channels[:4]
    order = [*down, *(6 + k for k in up)]
    explorer, action = build(channels), draw_actions(few, 1)
    permuted = action.unflatten(-1, (-1, 2))[:, :, order].flatten(-2)
    first, second = seen(few), seen(few.permute_users(down, up))
    with torch.no_grad():
        before = explorer.generate(first, look(first, action), 2000, seeded())
        after = explorer.generate(second, look(second, permuted), 2000, seeded(1))
    noise = draw(explorer, first, look(first, action), 50).std(0).mean() / 2000**0.5
    assert (after - before[:, :, order]).abs().mean() < 2 * noise
    assert (after - before).abs().mean() > 3 * noise


# ------------------------------------------------------------------ guard


def test_rank_correlation_is_pearson_of_ranks(generator):
    generated, measured = torch.randn(20, 7, generator=generator), torch.randn(20, 7, generator=generator)
    found = []
    for b in range(20):
        ranks = []
        for row in (generated[b].tolist(), measured[b].tolist()):
            rank = [float(sum(other < value for other in row)) for value in row]
            mean = sum(rank) / 7
            ranks.append([r - mean for r in rank])
        first, second = ranks
        norm = math.sqrt(sum(x * x for x in first) * sum(y * y for y in second))
        found.append(sum(x * y for x, y in zip(first, second, strict=True)) / norm)
    assert rank_correlation(generated, measured).item() == pytest.approx(sum(found) / 20, abs=1e-5)
    assert abs(found[0] - found[1]) > 1e-3


def test_rank_correlation_is_one_for_monotone_and_minus_one_for_reversed_rewards(generator):
    measured = torch.randn(10, 6, generator=generator)
    assert rank_correlation(measured.exp() + 5, measured).item() == pytest.approx(1, abs=1e-5)
    assert rank_correlation(-(measured**3), measured).item() == pytest.approx(-1, abs=1e-5)
    # states are judged apart: an offset of each state changes nothing
    assert rank_correlation(measured + 100 * torch.randn(10, 1, generator=generator), measured).item() == pytest.approx(
        1, abs=1e-5
    )
    half = torch.cat([measured[:5], -measured[5:]])
    assert rank_correlation(half, measured).item() == pytest.approx(0, abs=1e-5)


# ------------------------------------------------------------------ alone


def test_a_trainer_fits_it_alone(channels, tmp_path):
    observation, action = seen(channels), draw_actions(channels, 2)
    view = look(observation, action)
    reward = action.unflatten(-1, (-1, 2))[..., 0]
    explorer = build(channels, rate=1e-2)
    explorer.calibrate(reward)
    before = explorer.loss(observation, view, reward, seeded())[0].item()
    batches = [(observation[part], view[part], reward[part]) for part in (slice(0, 8), slice(8, 16))]
    trainer = L.Trainer(
        max_epochs=50,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    noisy_inputs = []
    explorer.denoiser.register_forward_pre_hook(lambda module, args: noisy_inputs.append(args[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(explorer, DataLoader(batches, batch_size=None))
    assert trainer.global_step == 100
    assert "loss" in trainer.callback_metrics
    assert (noisy_inputs[0] != noisy_inputs[2]).all()  # the same batch an epoch later, with other noise
    assert explorer.loss(observation, view, reward, seeded())[0].item() < 0.5 * before


@pytest.mark.parametrize("risk", ["mean", "cvar"])
def test_rewards_that_nobody_measured_do_not_count(channels, risk):
    observation = seen(channels)
    view = draw_views(observation, 2)
    reward = torch.randn(channels.batch, 2, channels.links, generator=seeded(3))
    measured = torch.arange(channels.batch) % 3 > 0
    found = []
    for value in (0.0, 1e3):
        explorer = build(channels, risk=risk)
        told = torch.where(measured[:, None, None], reward, value)
        loss, _ = explorer.loss(observation, view, told, seeded(4), measured)
        loss.backward()
        found.append((loss.detach(), explorer.denoiser.out.weight.grad, explorer.errors.clone()))
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second)
    everything, _ = build(channels).loss(observation, view, reward, seeded(4), torch.ones_like(measured))
    plain, _ = build(channels).loss(observation, view, reward, seeded(4))
    torch.testing.assert_close(everything, plain)
