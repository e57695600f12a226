"""The diffusion core against closed forms in double precision."""

import math

import pytest
import torch

from d2rl.algorithm.diffusion import DiffusionSchedule
from d2rl.common.errors import CheckpointError, ConfigError

STEPS = [1, 2, 6, 10]
KINDS = ["vp", "cosine"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def covariance(spread: float, correlation: float, size: int) -> torch.Tensor:
    index = torch.arange(size, dtype=torch.float64)
    return spread * correlation ** (index[:, None] - index).abs()


def gaussian_denoiser(schedule: DiffusionSchedule, mean: torch.Tensor, data: torch.Tensor):
    """E[x_0 | x_p] of Gaussian data, and the covariance of its error."""
    eye = torch.eye(len(mean), dtype=torch.float64)
    bars = [float(bar) for bar in schedule.alphas_bar.double()]
    gains = [math.sqrt(bar) * data @ torch.linalg.inv(bar * data + (1 - bar) * eye + 1e-300 * eye) for bar in bars]
    error = torch.stack([data - math.sqrt(bar) * gain @ data for bar, gain in zip(bars, gains, strict=True)])

    def denoiser(xp, step):
        return mean + (xp - math.sqrt(bars[step]) * mean) @ gains[step].mT

    return denoiser, error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [*STEPS, 50])
def test_noise_rises_to_the_same_end_for_every_number_of_steps(steps, kind):
    schedule = DiffusionSchedule(steps, kind)
    bars = schedule.alphas_bar
    assert bars.shape == (steps + 1,)
    assert bars[0] == 1
    assert (bars.diff() < 0).all()
    assert bars[-1].item() == pytest.approx(math.exp(-5.05), rel=1e-4)
    torch.testing.assert_close((1 - schedule.betas).cumprod(0), bars)
    torch.testing.assert_close(schedule.alphas, 1 - schedule.betas)


def test_vp_betas_are_those_of_the_discretised_sde():
    betas = DiffusionSchedule(6).betas
    for p in range(1, 7):
        assert betas[p].item() == pytest.approx(1 - math.exp(-0.1 / 6 - 0.5 * 9.9 * (2 * p - 1) / 36), rel=1e-5)


def test_noise_floor_is_the_loss_of_the_ideal_predictor_on_white_data():
    schedule = DiffusionSchedule(6)
    assert schedule.noise_floor() == pytest.approx(0.305, abs=5e-4)
    x0, noise = normal(60_000, seed=1), normal(60_000, seed=2)
    step = torch.randint(1, 7, (60_000,), generator=seeded())
    xp = schedule.corrupt(x0, step, noise)
    ideal = (1 - schedule.alphas_bar.double()[step]).sqrt() * xp
    assert (ideal - noise).square().mean().item() == pytest.approx(schedule.noise_floor(), rel=0.02)


def test_corruption_has_the_marginal_of_repeated_single_steps():
    schedule = DiffusionSchedule(6)
    x = torch.full((100_000,), 2.0, dtype=torch.float64)
    direct = schedule.corrupt(x, 4, normal(100_000, seed=3))
    for p in range(1, 5):
        beta = schedule.betas[p].double()
        x = (1 - beta).sqrt() * x + beta.sqrt() * normal(100_000, seed=10 + p)
    bar = schedule.alphas_bar[4].item()
    for sample in (x, direct):
        assert sample.mean().item() == pytest.approx(2 * math.sqrt(bar), abs=0.012)
        assert sample.var().item() == pytest.approx(1 - bar, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [2, 3, 6])
def test_posterior_is_bayes_rule(kind, step):
    """q(x_{p-1} | x_p, x_0) from the product of the two Gaussians, one step and marginal."""
    schedule = DiffusionSchedule(6, kind)
    x0, xp = normal(5, seed=1), normal(5, seed=2)
    before, alpha = schedule._table["alphas_bar"][step - 1], schedule._table["alphas"][step]
    precision = alpha / (1 - alpha) + 1 / (1 - before)
    expected = (math.sqrt(alpha) * xp / (1 - alpha) + math.sqrt(before) * x0 / (1 - before)) / precision
    mean, variance = schedule.posterior(x0, xp, step)
    torch.testing.assert_close(mean, expected, rtol=1e-10, atol=1e-12)
    assert variance == pytest.approx(1 / precision, rel=1e-10)


def test_last_step_returns_the_estimate_of_x0_itself():
    schedule = DiffusionSchedule(6)
    x0, xp, noise = normal(3, seed=1), normal(3, seed=2), normal(3, seed=3)
    torch.testing.assert_close(schedule.ancestral_step(x0, xp, 1, noise), x0)
    torch.testing.assert_close(schedule.ddim_step(x0, xp, 1), x0)


def test_a_tensor_of_steps_agrees_with_each_step_alone():
    schedule = DiffusionSchedule(6).double()
    x0, noise, step = normal(6, 2, 3, seed=1), normal(6, 2, 3, seed=2), torch.arange(1, 7)
    together = schedule.corrupt(x0, step, noise)
    mean, variance = schedule.posterior(x0, together, step)
    for p in range(1, 7):
        alone = schedule.corrupt(x0[p - 1], p, noise[p - 1])
        torch.testing.assert_close(together[p - 1], alone, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(mean[p - 1], schedule.posterior(x0[p - 1], alone, p)[0], rtol=1e-5, atol=1e-6)
    assert variance.shape == (6, 1, 1)


def test_ddim_with_the_true_x0_stays_on_the_corruption_path():
    schedule = DiffusionSchedule(6)
    x0, noise = normal(4, seed=1), normal(4, seed=2)
    for p in range(2, 7):
        down = schedule.ddim_step(x0, schedule.corrupt(x0, p, noise), p)
        torch.testing.assert_close(down, schedule.corrupt(x0, p - 1, noise))


@pytest.mark.parametrize("steps", STEPS)
def test_ideal_denoiser_with_matched_noise_recovers_correlated_gaussian(steps):
    """Mode II with the ideal denoiser is exact for every P: mean and covariance of the data."""
    schedule = DiffusionSchedule(steps).double()
    mean, data = torch.tensor([1.0, -0.5, 0.0], dtype=torch.float64), covariance(1.5, 0.8, 3)
    denoiser, error = gaussian_denoiser(schedule, mean, data)
    x0 = mean + normal(40_000, 3, seed=4) @ torch.linalg.cholesky(data).mT
    start = schedule.corrupt(x0, steps, normal(40_000, 3, seed=5))
    made = schedule.reverse(denoiser, start, generator=seeded(6), noise_factors=schedule.noise_factors(error))
    torch.testing.assert_close(made.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(made.mT.cov(), data, rtol=0, atol=0.05)


def followed(steps: int, power: float, mean: float = 0.0) -> tuple[float, float]:
    """Mean and power of Gaussian data after corruption to step P and the chain along its ideal velocity."""
    schedule = DiffusionSchedule(steps).double()
    mean_of, data = torch.tensor([mean], dtype=torch.float64), covariance(power, 0.0, 1)
    denoiser, _ = gaussian_denoiser(schedule, mean_of, data)
    x0 = mean_of + power**0.5 * normal(40_000, 1, seed=4)

    def velocity(xp, step):
        estimate, bar = denoiser(xp, step), schedule.alphas_bar[step]
        return schedule.velocity_of(estimate, (xp - bar.sqrt() * estimate) / (1 - bar).sqrt(), step)

    made = schedule.follow(velocity, schedule.corrupt(x0, steps, normal(40_000, 1, seed=5)), steps)
    return made.mean().item(), made.var().item()


@pytest.mark.parametrize("power", [0.5, 1.0, 4.0, 16.0])
def test_the_chain_along_the_velocity_keeps_mean_and_power(power):
    mean, found = followed(6, power, mean=1.0)
    assert mean == pytest.approx(1, abs=0.12)
    assert found == pytest.approx(power, rel=0.14)


@pytest.mark.parametrize("power", [0.1, 1.0, 8.0])
def test_more_steps_bring_the_chain_along_the_velocity_to_the_data(power):
    assert followed(40, power)[1] == pytest.approx(power, rel=0.04)


def test_velocity_is_the_derivative_of_the_corruption_by_its_angle():
    schedule = DiffusionSchedule(6).double()
    x0, noise = normal(5, seed=1), normal(5, seed=2)
    angle = schedule.alphas_bar[3].sqrt().acos()
    ahead, behind = ((angle + d).cos() * x0 + (angle + d).sin() * noise for d in (1e-5, -1e-5))
    torch.testing.assert_close(schedule.velocity_of(x0, noise, 3), (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
@pytest.mark.parametrize("steps", STEPS)
def test_plain_chains_follow_their_closed_form_on_gaussian_data(steps, sampler):
    """Scalar data N(m, v): every step is linear in x_p, so the moments of x_0 follow by recursion."""
    schedule = DiffusionSchedule(steps).double()
    mean, v = torch.tensor([0.7], dtype=torch.float64), 0.6
    denoiser, _ = gaussian_denoiser(schedule, mean, covariance(v, 0.0, 1))
    made = schedule.reverse(denoiser, (60_000, 1), sampler=sampler, generator=seeded(7))
    m, spread = 0.0, 1.0
    for p in range(steps, 0, -1):
        bar, before = (schedule._table["alphas_bar"][q] for q in (p, p - 1))
        gain = math.sqrt(bar) * v / (bar * v + 1 - bar)
        if sampler == "ancestral":
            on_x0, on_xp = math.sqrt(before) * (1 - bar / before) / (1 - bar), math.sqrt(bar / before) * (1 - before)
            on_xp, added = on_xp / (1 - bar), (1 - bar / before) * (1 - before) / (1 - bar)
        else:
            on_xp, added = math.sqrt((1 - before) / (1 - bar)), 0.0
            on_x0 = math.sqrt(before) - on_xp * math.sqrt(bar)
        m = on_x0 * (0.7 + gain * (m - math.sqrt(bar) * 0.7)) + on_xp * m
        spread = (on_x0 * gain + on_xp) ** 2 * spread + added
    assert made.mean().item() == pytest.approx(m, abs=0.012)
    assert made.var().item() == pytest.approx(spread, rel=0.03)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_plain_chains_approach_the_data_as_steps_grow(sampler):
    spread = {}
    for steps in (6, 100):
        schedule = DiffusionSchedule(steps).double()
        denoiser, _ = gaussian_denoiser(schedule, torch.zeros(1).double(), covariance(1.0, 0.0, 1))
        made = schedule.reverse(denoiser, (20_000, 1), sampler=sampler, generator=seeded())
        spread[steps] = made.var().item()
    assert spread[6] < 0.75
    assert spread[100] == pytest.approx(1, abs=0.08)


def test_generator_decides_the_chain_and_the_global_one_is_left_alone():
    schedule = DiffusionSchedule(6)
    state = torch.get_rng_state()

    def chain(seed):
        return schedule.reverse(lambda x, p: x / (p + 1), (5, 2), generator=seeded(seed))

    torch.testing.assert_close(chain(1), chain(1), rtol=0, atol=0)
    assert not torch.equal(chain(1), chain(2))
    assert torch.equal(state, torch.get_rng_state())


def test_explicit_noises_are_those_the_generator_would_draw():
    schedule = DiffusionSchedule(6)
    drawn = schedule.reverse(lambda x, p: x / p, (5, 2), generator=seeded(3))
    noises = torch.randn(6, 5, 2, generator=seeded(3))
    torch.testing.assert_close(schedule.reverse(lambda x, p: x / p, None, noises=noises), drawn, rtol=0, atol=0)


def test_chain_visits_the_steps_from_the_start_down_to_one():
    visited = []
    DiffusionSchedule(4).reverse(lambda x, p: visited.append(p) or x, torch.ones(2, 1), generator=seeded())
    assert visited == [4, 3, 2, 1]
    DiffusionSchedule(4).reverse(lambda x, p: visited.append(p) or x, torch.ones(2, 1), generator=seeded(), stop=2)
    assert visited[4:] == [4, 3]


def test_gradient_reaches_a_denoiser_through_the_whole_chain():
    schedule = DiffusionSchedule(6).double()
    weights = torch.full((7,), 0.3, dtype=torch.float64, requires_grad=True)
    schedule.reverse(lambda x, p: weights[p] * x, (8, 2), generator=seeded()).square().sum().backward()
    assert (weights.grad[1:] != 0).all()
    assert torch.isfinite(weights.grad).all()


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(steps):
    with pytest.raises(ConfigError, match="at least 1"):
        DiffusionSchedule(steps)


def test_unknown_names_and_missing_noise_are_refused():
    schedule = DiffusionSchedule(3)
    with pytest.raises(ConfigError, match="vp, cosine"):
        DiffusionSchedule(3, "linear")
    with pytest.raises(ValueError, match="generator"):
        schedule.reverse(lambda x, p: x, (2, 2))
    with pytest.raises(ValueError, match="3 rows"):
        schedule.reverse(lambda x, p: x, None, noises=torch.zeros(2, 4))
    with pytest.raises(ValueError, match="1 to 3"):
        schedule.corrupt(torch.zeros(2), 0, torch.zeros(2))


def test_weights_of_another_schedule_are_refused():
    stored = DiffusionSchedule(6).state_dict()
    DiffusionSchedule(6).load_state_dict(stored)
    for other in (DiffusionSchedule(5), DiffusionSchedule(6, "cosine")):
        with pytest.raises(CheckpointError, match="6 steps"):
            other.load_state_dict(stored)
