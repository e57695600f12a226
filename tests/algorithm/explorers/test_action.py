"""The action explorer: its chain, its imitation of good candidates, and the modes that it keeps."""

from __future__ import annotations

import math
import warnings

import lightning as L
import pytest
import torch
from conftest import problem_of
from torch import Tensor
from torch.utils.data import DataLoader

from d2rl.algorithm.ddpg import DeterministicActor
from d2rl.algorithm.explorers import AENPNN
from d2rl.algorithm.explorers.action import group_weights
from d2rl.algorithm.networks import make_encoder
from d2rl.config.defaults import AENPNNConfig, NetworkConfig
from d2rl.problems.base import Observation, Transition
from d2rl.problems.full_duplex.observation import observe
from d2rl.wireless import ChannelState

DOWN, UP = (3, 0, 5, 1, 4, 2), (2, 0, 3, 1)
ORDER = [*DOWN, *(6 + k for k in UP)]
WIDTH = 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seen(channels: ChannelState, head: str = "structured") -> Observation:
    weights = torch.exp(0.5 * torch.randn(channels.batch, channels.links, generator=seeded()))
    return observe(channels, weights, problem_of(channels, head).layout.numbers)


def build(
    channels: ChannelState,
    steps: int = 6,
    head: str = "structured",
    sampler: str = "ancestral",
    lively: bool = False,
    rate: float = 5e-3,
    calm_first: bool = False,
    exchange: bool = False,
) -> AENPNN:
    """A sampler may be ``flow``, too, which is an objective. ``lively``: with an output layer of ordinary size, so that
    the untrained chain is no mere constant."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        problem = problem_of(channels, head)
        kind = {"objective": "flow"} if sampler == "flow" else {"sampler": sampler}
        config = AENPNNConfig(steps=steps, calm_first=calm_first, exchange=exchange, **kind)
        explorer = AENPNN(make_encoder(NetworkConfig(width=WIDTH), problem), problem.layout, WIDTH, config, rate=rate)
        if lively:
            explorer.denoiser.output.reset_parameters()
    return explorer


def draw_noises(explorer: AENPNN, observation: Observation, count: int, seed: int = 0) -> Tensor:
    layout = observation.layout
    shape = (explorer.schedule.steps, observation.batch, count, layout.entities, layout.width)
    return torch.randn(shape, generator=seeded(seed))


def imitate(explorer: AENPNN, observation: Observation, candidates: Tensor, weights: Tensor, updates: int) -> AENPNN:
    optimizer, generator = explorer.configure_optimizers(), seeded(1)
    for _ in range(updates):
        loss, _ = explorer.imitate(observation, candidates, weights, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return explorer


# ------------------------------------------------------------------ the chain


@pytest.mark.parametrize("head", ["structured", "beamforming"])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "flow"])
def test_an_action_is_a_function_of_state_and_noise(channels, head, sampler):
    observation, explorer = seen(channels, head), build(channels, head=head, sampler=sampler, lively=True)
    noises = draw_noises(explorer, observation, 3)
    action = explorer.sample(observation, 3, noises=noises)
    assert action.shape == (16, 3, problem_of(channels, head).layout.size)
    assert torch.equal(action, explorer.sample(observation, 3, noises=noises))
    assert (
        action - explorer.sample(observation, 3, noises=draw_noises(explorer, observation, 3, 1))
    ).abs().max() > 0.01
    other = seen(channels[torch.arange(15, -1, -1)], head)
    assert (action - explorer.sample(other, 3, noises=noises)).abs().max() > 0.01


def test_the_generator_only_supplies_the_noises(channels):
    observation, explorer = seen(channels), build(channels, lively=True)
    global_state = torch.get_rng_state()
    drawn = explorer.sample(observation, 4, seeded(5))
    assert torch.equal(torch.get_rng_state(), global_state)
    given = explorer.sample(observation, 4, noises=draw_noises(explorer, observation, 4, seed=5))
    assert torch.equal(drawn, given)


def watch(explorer: AENPNN, note) -> None:
    """Note the noisy numbers and the step of everything that the denoiser estimates."""
    denoiser = explorer.denoiser
    denoiser.register_forward_pre_hook(lambda module, args: note(*args[1:]))
    conditioned = denoiser.conditioned

    def watched(embedding, samples):
        estimate = conditioned(embedding, samples)

        def noted(noisy, step):
            note(noisy.movedim(0, -1), step)
            return estimate(noisy, step)

        return noted

    denoiser.conditioned = watched


def test_only_the_ancestral_chain_adds_noise_on_its_way(channels):
    observation = seen(channels)
    for sampler in ("ancestral", "ddim", "flow"):
        explorer = build(channels, sampler=sampler, lively=True)
        noises = draw_noises(explorer, observation, 2)
        same_start = torch.cat([noises[:1], draw_noises(explorer, observation, 2, seed=1)[1:]])
        first, second = (explorer.sample(observation, 2, noises=each) for each in (noises, same_start))
        assert torch.equal(first, second) == (sampler != "ancestral")


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "flow"])
def test_a_calm_first_action_is_the_same_each_time_and_the_others_are_not(channels, sampler):
    observation, explorer = seen(channels), build(channels, sampler=sampler, lively=True, calm_first=True)
    first, second = (explorer.sample(observation, 3, seeded(seed)) for seed in (0, 1))
    assert torch.equal(first[:, 0], second[:, 0])
    assert ((first - second)[:, 1:].abs().amax(-1) > 1e-3).all()
    torch.testing.assert_close(explorer.sample(observation, 1, seeded(2))[:, 0], first[:, 0], rtol=1e-4, atol=1e-5)


def test_the_calm_action_learns_where_another_of_its_group_is_far_better(channels):
    """At a low temperature the best takes all the weight; alone, the calm one would wait for ever."""
    batch = Transition(seen(channels), *[torch.zeros(16, 1, 20)] * 2, *[None] * 4)

    def value(observation: Observation, action: Tensor) -> Tensor:
        return torch.where(torch.arange(2) == 0, action.sum(-1), 100 + 0 * action.sum(-1))

    moved = []
    for calm in (True, False):
        explorer = build(channels, lively=True, calm_first=calm)
        explorer.config.temperature, explorer.penalty = 0.01, 0.0
        explorer.loss(batch, value, lambda: torch.ones(16, 1), seeded())[0].backward()
        moved.append(float(explorer.denoiser.output.bias.grad.abs().max()))
    assert moved[0] > 0.1
    assert moved[1] < 1e-6


def test_an_embedding_at_hand_saves_the_encoder(channels):
    observation, explorer = seen(channels), build(channels, lively=True)
    noises, embedding = draw_noises(explorer, observation, 2), explorer.encode(observation)
    expected = explorer.estimate(observation, 2, 3, noises=noises)
    explorer.encoder = None
    assert torch.equal(explorer.estimate(observation, 2, 3, noises=noises, embedding=embedding), expected)


@pytest.mark.parametrize("exchange", [False, True])
def test_candidates_are_drawn_as_if_each_were_alone(channels, exchange):
    observation, explorer = seen(channels), build(channels, lively=True, exchange=exchange)
    noises = draw_noises(explorer, observation, 3)
    together = explorer.sample(observation, 3, noises=noises)
    for m in range(3):
        alone = explorer.sample(observation, 1, noises=noises[:, :, m : m + 1])
        torch.testing.assert_close(together[:, m : m + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exchange", [False, True])
def test_a_chain_of_estimates_is_that_of_the_denoiser(channels, exchange):
    observation, denoiser = seen(channels), build(channels, lively=True, exchange=exchange).denoiser
    embedding = torch.randn(16, 1, observation.layout.entities, 2 * WIDTH, generator=seeded())
    noisy = torch.randn(16, 3, observation.layout.entities, observation.layout.width, generator=seeded(1))
    with torch.no_grad():
        expected = denoiser(embedding, noisy, 4).tanh()
        found = denoiser.conditioned(embedding, 3)(noisy.movedim(-1, 0).contiguous(), 4).movedim(0, -1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("exchange", [False, True])
def test_whose_numbers_are_whose_is_told_by_an_exchange_alone(channels, exchange):
    """Two links of the downlink change their noisy numbers: their mean stays."""
    observation, denoiser = seen(channels), build(channels, lively=True, exchange=exchange).denoiser
    embedding = torch.randn(16, 1, observation.layout.entities, 2 * WIDTH, generator=seeded())
    noisy = torch.randn(16, 1, observation.layout.entities, observation.layout.width, generator=seeded(1))
    swapped = noisy.clone()
    swapped[:, :, [0, 1]] = noisy[:, :, [1, 0]]
    others = denoiser(embedding, swapped, 4)[:, :, 2:] - denoiser(embedding, noisy, 4)[:, :, 2:]
    assert (others.abs().max() > 1e-3) == exchange


@pytest.mark.parametrize("exchange", [False, True])
@pytest.mark.parametrize("head", ["structured", "beamforming"])
def test_actions_follow_the_order_of_users(channels, head, exchange):
    observation, explorer = seen(channels, head), build(channels, head=head, lively=True, exchange=exchange)
    layout = observation.layout
    permuted = observe(channels.permute_users(DOWN, UP), observation.weights[:, ORDER], layout.numbers)
    noises = draw_noises(explorer, observation, 2)
    before = layout.to_entities(explorer.sample(observation, 2, noises=noises))
    after = layout.to_entities(explorer.sample(permuted, 2, noises=noises[:, :, :, ORDER]))
    torch.testing.assert_close(after, before[:, :, ORDER], rtol=0, atol=1e-4)
    assert (after - before).abs().max() > 0.01


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "flow"])
@pytest.mark.parametrize("steps", range(1, 11))
def test_every_number_of_steps_works(channels, steps, sampler):
    """Each of the P steps takes part in the action, and each can be trained."""
    observation, explorer = seen(channels), build(channels, steps=steps, sampler=sampler, lively=True)
    action, visited = explorer.sample(observation, 2, seeded()), []
    assert torch.isfinite(action).all()
    watch(explorer, lambda noisy, step: visited.append(step))
    for step in range(1, steps + 1):
        visited.clear()
        explorer.zero_grad()
        explorer.estimate(observation, 2, step, seeded()).tanh().square().mean().backward()
        assert visited == list(range(steps, step - 1, -1))
        used = explorer.denoiser.step.weight.grad.abs().sum(-1) > 0
        assert used.tolist() == [row == step for row in range(steps + 1)]


def test_no_step_leaves_the_range_of_actions(channels):
    """However wild the network: the estimate of every step is in [-1, 1], so no noisy action can run away."""
    observation, explorer = seen(channels), build(channels)
    with torch.no_grad():
        explorer.denoiser.output.weight.normal_(std=100, generator=seeded())
    inputs = []
    watch(explorer, lambda noisy, step: inputs.append(noisy.clone()))
    noises = draw_noises(explorer, observation, 2)
    action = explorer.sample(observation, 2, noises=noises).tanh()
    assert len(inputs) == 6
    assert max(noisy.abs().max() for noisy in inputs) < 2 + noises.abs().max()
    assert action.abs().max() <= 1


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "flow"])
def test_the_estimate_of_the_last_step_is_the_sample(channels, sampler):
    observation, explorer = seen(channels), build(channels, sampler=sampler, lively=True)
    noises = draw_noises(explorer, observation, 3)
    sample = explorer.sample(observation, 3, noises=noises)
    assert torch.equal(explorer.estimate(observation, 3, 1, noises=noises), sample)
    assert torch.equal(explorer.estimate(observation, 3, 1, seeded()), explorer.sample(observation, 3, seeded()))
    earlier = [explorer.estimate(observation, 3, step, noises=noises) for step in range(2, 7)]
    assert all((estimate - sample).abs().max() > 1e-3 for estimate in earlier)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "flow"])
@pytest.mark.parametrize("step", [1, 2, 4, 6])
def test_an_estimate_is_one_step_from_where_the_chain_is_and_so_is_its_gradient(channels, sampler, step):
    """Encoder and denoiser learn from that step alone; the steps before it only say where it starts."""
    observation, explorer = seen(channels), build(channels, sampler=sampler, lively=True)
    noises = draw_noises(explorer, observation, 2).requires_grad_()
    found = explorer.estimate(observation, 2, step, noises=noises)
    found.square().sum().backward()
    assert noises.grad is None
    gradients = {name: p.grad.clone() for name, p in explorer.named_parameters()}
    explorer.zero_grad()
    with torch.no_grad():
        x, embedding = noises[0], explorer.encode(observation)
        for row, p in enumerate(range(6, step, -1), start=1):
            clean = explorer.denoiser(embedding, x, p).tanh()
            if sampler == "ddim":
                x = explorer.schedule.ddim_step(clean, x, p)
            elif sampler == "flow":
                x = x + (clean - x) / p
            else:
                x = explorer.schedule.ancestral_step(clean, x, p, noises[row])
    expected = observation.layout.to_flat(explorer.denoiser(explorer.encode(observation), x, step))
    torch.testing.assert_close(found, expected)
    expected.square().sum().backward()
    for name, parameter in explorer.named_parameters():
        assert gradients[name].abs().max() > 0, name
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_the_chain_climbs_a_known_value(channels):
    """Q = -|a - best|^2 ascended through the last step alone: the samples go there and agree."""
    observation, explorer = seen(channels), build(channels, lively=True)
    best = torch.cat([torch.full((12,), 0.5), torch.full((8,), -0.3)])
    optimizer, generator = explorer.configure_optimizers(), seeded(1)
    for _ in range(120):
        action = explorer.sample(observation, 1, generator).tanh()
        loss = (action - best).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = explorer.sample(observation, 16, seeded(2)).tanh()
    assert (drawn - best).square().mean() < 0.01


# ------------------------------------------------------------------ imitation


def test_loss_of_imitation_is_its_definition(channels, generator):
    """With a constant output c the estimate is tanh(c), whatever the noise."""
    observation, explorer = seen(channels, "beamforming"), build(channels, head="beamforming")
    torch.nn.init.zeros_(explorer.denoiser.output.weight)
    torch.nn.init.constant_(explorer.denoiser.output.bias, 1.5)
    layout = observation.layout
    candidates = 2 * torch.rand(16, 3, layout.size, generator=generator) - 1
    weights = torch.softmax(torch.randn(16, 3, generator=generator), dim=-1)
    expected, padding = 0.0, 4 * 15 * math.tanh(1.5) ** 2  # each uplink link has 1 of 16 numbers, the others are 0
    for b in range(16):
        for m in range(3):
            square = (math.tanh(1.5) - candidates[b, m].double()).square().sum().item() + padding
            expected += weights[b, m].item() * square / (channels.links * layout.width) / 16
    loss, output = explorer.imitate(observation, candidates, weights, generator)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert output.shape == layout.to_entities(candidates).shape
    assert (output == 1.5).all()


def test_a_candidate_without_weight_teaches_nothing(channels):
    observation, explorer = seen(channels), build(channels, lively=True)
    candidates = 2 * torch.rand(16, 2, 20, generator=seeded(3)) - 1
    other = torch.stack([candidates[:, 0], -candidates[:, 1]], dim=1)
    weights = torch.tensor([1.0, 0.0]).expand(16, 2)
    gradients = []
    for each in (candidates, other):
        explorer.zero_grad()
        loss, _ = explorer.imitate(observation, each, weights, seeded(4))
        loss.backward()
        gradients.append([loss.detach(), *(p.grad.clone() for p in explorer.parameters())])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-7)


def test_one_good_candidate_is_learned_and_a_bad_one_is_not(channels):
    """The good one depends on the state: each link's own gain decides its numbers."""
    observation, explorer = seen(channels), build(channels)
    gain = observation.nodes[..., 2]
    good = (2 * (gain - gain.mean()) / gain.std()).tanh().mul(0.8).repeat_interleave(2, dim=1)
    candidates = torch.stack([good, -good], dim=1)
    imitate(explorer, observation, candidates, torch.tensor([1.0, 0.0]).expand(16, 2), 300)
    with torch.no_grad():
        drawn = explorer.sample(observation, 8, seeded(2)).tanh()
    error = (drawn - good.unsqueeze(1)).square().mean()
    assert error < 0.1 * good.square().mean()


def test_two_equally_good_candidates_stay_two_modes_where_one_answer_can_only_be_their_middle(channels):
    observation = seen(channels)
    modes = torch.tensor([0.7, -0.7])[:, None].expand(2, 20).expand(16, 2, 20)
    weights = group_weights(torch.full((16, 2), 3.0), temperature=1.0)
    explorer = imitate(build(channels, rate=1e-2), observation, modes, weights, 300)
    with torch.no_grad():
        drawn = explorer.sample(observation, 64, seeded(2)).tanh()
    assert (drawn.abs() < 0.35).float().mean() < 0.2
    assert 0.2 < (drawn > 0).float().mean().item() < 0.8
    agreement = drawn.sign().mean(-1).abs()  # all links of a candidate in one mode: 1
    assert (agreement > 0.9).float().mean() > 0.8

    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = make_encoder(NetworkConfig(width=WIDTH), problem_of(channels))
        actor = DeterministicActor(encoder, observation.layout, WIDTH)
        torch.nn.init.constant_(actor.output.linear.bias, 1.0)  # near the upper mode
    optimizer = torch.optim.Adam(actor.parameters(), lr=5e-3)
    assert actor(observation).tanh().mean() > 0.6
    for _ in range(250):
        loss = (weights * (actor(observation).tanh().unsqueeze(1) - modes).square().mean(-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert actor(observation).tanh().abs().max() < 0.2


def test_better_candidates_are_drawn_more_often(channels):
    observation = seen(channels)
    modes = torch.tensor([0.7, -0.7])[:, None].expand(2, 20).expand(16, 2, 20)
    weights = torch.tensor([0.85, 0.15]).expand(16, 2)
    explorer = imitate(build(channels, rate=1e-2), observation, modes, weights, 200)
    with torch.no_grad():
        drawn = explorer.sample(observation, 64, seeded(2)).tanh()
    assert 0.7 < (drawn > 0).float().mean().item() < 0.995


# ------------------------------------------------------------------ even actions along straight paths


def nearest_of_two(observation: Observation, action: Tensor) -> Tensor:
    """Two equally good modes, at 0.6 and at -0.6 of every number."""
    return torch.stack([-(action - mode).square().mean(-1) for mode in (0.6, -0.6)]).amax(0)


def test_actions_of_a_flow_are_even_ones_of_good_value_each_with_a_noise_near_it(channels):
    observation, explorer = seen(channels), build(channels, sampler="flow", lively=True)
    explorer.config.samples, explorer.config.temperature = 16, 0.1
    action, noise = explorer.pairs(observation, nearest_of_two, seeded())
    assert action.shape == (16, 16, 20)
    assert noise.shape == (16, 16, 10, 2)
    assert not action.requires_grad
    assert action.abs().max() <= 1
    even = 2 * torch.rand(16, 16, 20, generator=seeded()) - 1
    assert nearest_of_two(None, action).mean() > nearest_of_two(None, even).amax(-1).mean() - 0.02
    near, other = (
        torch.linalg.norm(observation.layout.to_flat(noise) - one, dim=-1) for one in (action, action.flip(1))
    )
    assert near.mean() < other.mean()


def test_a_flow_asks_values_of_q_and_no_slopes(channels):
    explorer, scale = build(channels, sampler="flow", lively=True), torch.ones((), requires_grad=True)
    batch = Transition(seen(channels), *[torch.zeros(16, 1, 20)] * 3)
    loss, _ = explorer.loss(batch, lambda *given: scale * nearest_of_two(*given), lambda: None, seeded())
    loss.backward()
    assert scale.grad is None
    assert all(parameter.grad.abs().max() > 0 for parameter in explorer.parameters())


def test_weights_of_another_path_are_refused(channels):
    curved, straight = build(channels), build(channels, sampler="flow")
    for one, other in ((curved, straight), (straight, curved)):
        with pytest.raises(RuntimeError, match=r"schedule.alphas_bar"):
            one.load_state_dict(other.state_dict())


# ------------------------------------------------------------------ weights of a group


def test_group_weights_are_a_softmax_of_standard_scores(generator):
    value = 5 * torch.randn(7, 4, generator=generator)
    found = group_weights(value, temperature=0.7)
    for b in range(7):
        row = value[b].double().tolist()
        mean = sum(row) / 4
        spread = math.sqrt(sum((x - mean) ** 2 for x in row) / 4)
        scores = [math.exp((x - mean) / (0.7 * spread)) for x in row]
        assert found[b].tolist() == pytest.approx([score / sum(scores) for score in scores], rel=5e-3)


def test_group_weights_add_up_to_one_and_ignore_shift_and_scale(generator):
    value = torch.randn(50, 8, generator=generator)
    weights = group_weights(value, 1.0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(50))
    shift, scale = 3 * torch.randn(50, 1, generator=generator), 10 ** torch.rand(50, 1, generator=generator)
    torch.testing.assert_close(group_weights(scale * value + shift, 1.0), weights, rtol=0.01, atol=0)
    assert torch.equal(weights.argsort(-1), value.argsort(-1))


def test_group_weights_are_equal_for_equal_values_and_sharper_at_low_temperature(generator):
    torch.testing.assert_close(group_weights(torch.full((3, 5), -7.0), 1.0), torch.full((3, 5), 0.2))
    torch.testing.assert_close(group_weights(torch.randn(3, 1, generator=generator), 1.0), torch.ones(3, 1))
    value = torch.tensor([3.0, 1.0, 6.0, 2.0, 5.0, 4.0])
    weights = torch.cat([group_weights(value[None], temperature) for temperature in (0.05, 0.5, 1.0, 5.0, 100.0)])
    assert (weights[:, 2].diff() < 0).all()  # of the best
    assert (weights[:, 1].diff() > 0).all()  # of the worst
    assert weights[0, 2] > 0.99
    torch.testing.assert_close(weights[-1], torch.full((6,), 1 / 6), rtol=0.02, atol=0)


# ------------------------------------------------------------------ alone


def test_a_trainer_fits_it_alone(channels, tmp_path):
    observation, explorer = seen(channels), build(channels, rate=1e-2)
    candidates = torch.stack([torch.full((16, 20), 0.6), torch.full((16, 20), -0.6)], dim=1)
    weights = torch.tensor([1.0, 0.0]).expand(16, 2)
    batches = [(observation[part], candidates[part], weights[part]) for part in (slice(0, 8), slice(8, 16))]
    before = explorer.imitate(observation, candidates, weights, seeded())[0].item()
    trainer = L.Trainer(
        max_epochs=15,
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
    assert trainer.global_step == 30
    assert "loss" in trainer.callback_metrics
    assert (noisy_inputs[0] != noisy_inputs[2]).all()  # the same batch an epoch later, with other noise
    with torch.no_grad():
        assert explorer.imitate(observation, candidates, weights, seeded())[0].item() < 0.2 * before
