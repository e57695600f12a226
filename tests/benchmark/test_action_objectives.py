"""Published objectives over AENPNN's network and chain: each loss against a closed form, and the whole comparison."""

from __future__ import annotations

import pytest
import torch
from conftest import read_csv

from d2rl.algorithm.ddpg import saturation
from d2rl.config.defaults import AENPNNConfig, DDPGConfig


@pytest.fixture
def losses(script):
    return script("action_losses")


@pytest.fixture
def place(script):
    """States with 2, 4 and 8 modes."""
    return script("action_places").Modes(DDPGConfig())


@pytest.fixture
def policy(place):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = place.network(AENPNNConfig())
        torch.nn.init.normal_(made.denoiser.output.weight)
        return made


def update_of(losses, place, seed=0, value=None, noise=0.0):
    return losses.Update(place.seen, value or place.value, 1.0, noise, torch.Generator().manual_seed(seed))


def denoised(policy, place, action, generator):
    """Mean squared error of the clean action at a random step, one number after the other, and the penalty."""
    step = torch.randint(1, policy.schedule.steps + 1, action.shape[:2], generator=generator)
    noise = torch.randn((*action.shape[:2], 1, action.shape[2]), generator=generator)
    error, outputs = 0.0, []
    for state, (own, p) in enumerate(zip(action[:, 0], step[:, 0].tolist(), strict=True)):
        kept = float(policy.schedule.alphas_bar[p])
        noisy = kept**0.5 * own + (1 - kept) ** 0.5 * noise[state, 0, 0]
        output = policy.denoiser(policy.encode(place.seen[state : state + 1]), noisy.view(1, 1, 1, -1), p).flatten()
        error = error + (output.tanh() - own).square().mean() / len(action)
        outputs.append(output)
    return error + policy.penalty * saturation(torch.stack(outputs))


def test_one_candidate_of_weight_1_is_plain_denoising(losses, place, policy):
    action = update_of(losses, place, 1).even(1)
    loss = losses.denoising(policy, update_of(losses, place), action, torch.ones(len(action), 1))
    torch.testing.assert_close(loss, denoised(policy, place, action, torch.Generator().manual_seed(0)))


def test_qvpo_without_entropy_denoises_the_best_draw_where_all_advantages_are_alike(losses, place, policy):
    """Q tells ranks, the same in every state: 1 for the largest first number of an action, 0 for all others."""

    def value(seen, action):
        return (action[..., 0] == action[..., 0].amax(-1, keepdim=True)).float()

    used = update_of(losses, place, value=value)
    loss = losses.qvpo(policy, used, draws=4, entropy=0.0)
    again = update_of(losses, place, value=value)
    best = again.own(policy, 4)
    best = best.take_along_dim(best[..., :1].argmax(1, keepdim=True), 1)
    every = torch.cat([best, again.even(losses.UNIFORM)], 1)
    weights = torch.zeros(every.shape[:2])
    weights[:, 0] = 1
    torch.testing.assert_close(loss, losses.denoising(policy, again, every, weights))


def test_what_entropy_adds_is_the_error_of_even_actions_by_the_advantage(losses, place, policy):
    few, many = (losses.qvpo(policy, update_of(losses, place), 4, entropy) for entropy in (0.0, 0.3))

    def denoising(entropy):
        """Of the same actions, of which even ones alone weigh something."""
        used = update_of(losses, place)
        draws = used.own(policy, 4)
        value = place.value(place.seen, draws)
        advantage = value.amax(-1) - value.mean(-1)
        every = torch.cat([draws[:, :1], used.even(losses.UNIFORM)], 1)
        weights = (entropy * advantage / advantage.mean())[:, None].expand(every.shape[:2]).clone()
        weights[:, 0] = 0
        return losses.denoising(policy, used, every, weights)

    pull = denoising(0.3) - denoising(0.0)
    assert pull > 0
    torch.testing.assert_close(many - few, pull)


def test_the_field_asks_each_step_for_noise_against_the_slope_of_q(losses, place, policy, monkeypatch):
    """Where Q rises with the first number alone, the error of a step that tells no noise is w(p)^2 of one of two."""
    monkeypatch.setattr(losses, "implied_noise", lambda policy, clean, noisy, step: torch.zeros_like(noisy))

    def value(seen, action):
        return 3 * action[..., 0]

    with_field, without = (losses.dacer2(policy, update_of(losses, place, value=value), 4, of) for of in (1.0, 0.0))
    used = update_of(losses, place, value=value)
    policy.draw(place.seen, 4, used.generator)
    step = torch.randint(1, policy.schedule.steps + 1, (place.seen.batch, 4), generator=used.generator)
    expected = torch.exp(2 * (0.4 * step - 1.8)).mean() / 2
    torch.testing.assert_close(with_field - without, expected)


def test_the_noise_that_a_clean_action_implies_is_the_one_it_was_corrupted_with(losses, place, policy):
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn((5, 3, 1, 2), generator=generator) for _ in range(2))
    step = torch.randint(1, policy.schedule.steps + 1, (5, 3), generator=generator)
    implied = losses.implied_noise(policy, clean, policy.schedule.corrupt(clean, step, noise), step)
    torch.testing.assert_close(implied, noise, atol=1e-4, rtol=0)


def test_sources_of_a_noisy_action_are_a_normal_distribution_within_the_range(losses, policy):
    """At the last step almost nothing is known of them, at the first they are near; all of them are within [-1, 1]."""
    generator, steps = torch.Generator().manual_seed(0), policy.schedule.steps
    noisy, step = torch.full((2, 1, 1, 1), 0.3), torch.tensor([[1], [steps]])
    found = losses.sources(policy, noisy, step, 20000, generator).flatten(1)
    assert found.abs().max() <= 1
    kept = policy.schedule.alphas_bar[step].flatten()
    grid = torch.linspace(-1, 1, 2001)
    middle, spread = 0.3 / kept.sqrt(), (1 / kept - 1).sqrt()
    density = torch.exp(-(((grid - middle[:, None]) / spread[:, None]) ** 2) / 2)
    mean = (density * grid).sum(-1) / density.sum(-1)
    torch.testing.assert_close(found.mean(-1), mean, atol=0.02, rtol=0)


def test_sdac_with_one_source_is_its_squared_error(losses, place, policy):
    loss = losses.sdac(policy, update_of(losses, place), draws=1, temperature=0.1, broad=True)
    used = update_of(losses, place)
    base = used.even(1).unsqueeze(2)
    step = torch.randint(1, policy.schedule.steps + 1, base.shape[:2], generator=used.generator)
    noisy = policy.schedule.corrupt(base, step, torch.randn(base.shape, generator=used.generator))
    clean = losses.sources(policy, noisy, step, 1, used.generator)
    output = policy.denoiser(policy.encode(place.seen), noisy, step)
    expected = (output.tanh() - clean).square().mean() + policy.penalty * saturation(output)
    torch.testing.assert_close(loss, expected)


def test_a_flow_of_one_even_action_is_plain_denoising_along_a_straight_path(losses, place):
    policy = place.network(AENPNNConfig(objective="flow", steps=2))
    loss = losses.flow(policy, update_of(losses, place), draws=1, temperature=0.1, broad=True, near=False)
    used = update_of(losses, place)
    action = used.even(1)
    torch.testing.assert_close(loss, losses.denoising(policy, used, action, torch.ones(len(action), 1)))


def test_weights_of_candidates_are_a_boltzmann_distribution_in_units_of_even_actions(losses, place):
    def value(seen, action):
        return 2 * action[..., 0]

    used = losses.Update(place.seen, value, 0.5, 0.0, torch.Generator())
    action = torch.tensor([[[0.1, 0.0], [0.2, 0.0]]]).expand(place.seen.batch, -1, -1)
    weights = used.boltzmann(action, 0.1)
    torch.testing.assert_close(weights[:, 1] / weights[:, 0], torch.full((place.seen.batch,), 4.0).exp())


def test_every_objective_is_tuned_and_trained_on_modes(script, tmp_path):
    path = tmp_path / "modes.csv"
    script("action_objectives").objectives_command(
        ["place=modes", "updates=1", "tuning_updates=1", "seeds=2", f"out={path}"]
    )
    rows = read_csv(path)
    by_name = {name: [row for row in rows if row["objective"] == name] for name in {row["objective"] for row in rows}}
    assert by_name.keys() == script("action_objectives").OBJECTIVES.keys() - {"deterministic"}
    for of in by_name.values():
        tried = [row for row in of if row["tuning"] == "True"] or of
        assert len(tried) in (2, 4)
        best = max(tried, key=lambda row: float(row["recall x Q"]))
        assert {row["setting"] for row in of if row["tuning"] == "False"} == {best["setting"]}
        assert [row["seed"] for row in of if row["tuning"] == "False"] == ["0", "1"]


def test_own_draws_are_judged_beside_controls_in_the_cell(script, tmp_path):
    path = tmp_path / "cell.csv"
    small = ["updates=1", "tuning_updates=1", "seeds=2", "drops=4", "tuning_drops=4", "objectives=deterministic,dacer2"]
    script("action_objectives").objectives_command([*small, f"out={path}"])
    rows = read_csv(path)
    assert [row["objective"] for row in rows] == ["deterministic"] * 2 + ["dacer2"] * 6
    for row in rows:
        best = max(float(value) for key, value in row.items() if key.startswith(("noise ", "weights ")))
        assert float(row["own - controls"]) == pytest.approx(float(row["own"]) - best, abs=2e-4)
        assert row["objective"] != "deterministic" or row["own"] == row["one"]
