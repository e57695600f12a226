"""The agent: what it sees, what each stage trains, what it stores, and that it learns."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, product

import lightning as L
import pytest
import torch
from conftest import pairs
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.decisions import DecisionRule
from d2rl.algorithm.learning_rates import Schedule
from d2rl.common.errors import ConfigError
from d2rl.common.notices import notice_once
from d2rl.envs import FullDuplexEnv
from d2rl.evaluation.evaluate import Evaluation, policy_of
from d2rl.problems.base import Observation, Transition
from d2rl.problems.full_duplex.observation import observe
from d2rl.problems.full_duplex.simulator import decided_rates, evaluation_states
from d2rl.wireless import ChannelState
from d2rl.wireless.bank_file import save_bank
from d2rl.wireless.channel_bank import ChannelBank
from d2rl.wireless.fading import whiten

NETWORKS = ("actor", "target_actor", "critic", "target_critic", "aenpnn", "renpnn", "senpnn")
CASES = ("raw", "designed", "raw_gdm", "designed_gdm")
ONE_STEP = ("trainer.updates_per_epoch=2", "trainer.updates_per_step=2")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config) -> D2RL:
    L.seed_everything(config.seed, verbose=False)
    return D2RL(config)


def weights(agent: D2RL) -> dict[str, list[Tensor]]:
    networks = {name: getattr(agent, name) for name in NETWORKS if getattr(agent, name) is not None}
    return {name: [p.detach().clone() for p in network.parameters()] for name, network in networks.items()}


def changed(agent: D2RL, before: dict[str, list[Tensor]]) -> set[str]:
    after = weights(agent)
    return {
        name for name in before if any(not torch.equal(a, b) for a, b in zip(before[name], after[name], strict=True))
    }


def all_finite(agent: D2RL) -> bool:
    return all(bool(p.isfinite().all()) for p in agent.parameters())


def same_channels(first: ChannelState, second: ChannelState) -> Tensor:
    """[B] bool: which states agree in every coefficient."""
    other = second.tensors()
    return torch.stack([(t == other[n]).flatten(1).all(1) for n, t in first.tensors().items()]).all(0)


def distinct_channels(first: ChannelState, second: ChannelState) -> Tensor:
    """[B] bool: which states agree in no coefficient."""
    other = second.tensors()
    return torch.stack([(t != other[n]).flatten(1).all(1) for n, t in first.tensors().items()]).all(0)


def latest(agent: D2RL) -> Transition:
    """The transitions of the last interaction."""
    return agent.replay.newest(agent.world.batch)


# ------------------------------------------------------------------ the same bits


EVERYTHING = ("stages.state=0", "reward.case=designed_gdm", "scenario.csi_error=0.1", "ddpg.gamma=0.5")


def trained_twice(tiny, fit, first: tuple[str, ...], second: tuple[str, ...]) -> tuple[list, list]:
    outcomes = []
    for overrides in (first, second):
        torch.rand(len(outcomes) + 1)  # where the global generator stands must not matter
        agent, metrics = build(tiny(*EVERYTHING, *overrides)), []
        agent.stages, agent.chi = {"action": True, "reward": True, "state": True}, 0.5
        fit(agent, lambda _, agent, metrics=metrics: metrics.append(agent.means.collect()), epochs=2)
        outcomes.append((weights(agent), metrics))
    return outcomes


def test_the_same_seed_gives_the_same_bits(tiny, fit):
    (first, metrics), (second, again) = trained_twice(tiny, fit, (), ())
    assert all(torch.equal(a, b) for name in NETWORKS for a, b in zip(first[name], second[name], strict=True))
    assert metrics == again
    assert len(metrics) == 4
    assert {"losses/critic", "losses/renpnn", "losses/senpnn"} < set(metrics[0])


def test_another_seed_gives_other_weights_in_every_network(tiny, fit):
    (first, metrics), (second, other) = trained_twice(tiny, fit, (), ("seed=1",))
    assert all(not torch.equal(first[name][0], second[name][0]) for name in NETWORKS)
    assert all(one["losses/critic"] != two["losses/critic"] for one, two in zip(metrics, other, strict=True))


# ------------------------------------------------------------------ who learns when


class EachCombination(Callback):
    """One update in every combination of stages; notes which networks it changed."""

    combinations = tuple(product((False, True), repeat=3))

    def __init__(self):
        self.found = {}

    def on_train_batch_start(self, trainer, agent, batch, batch_index):
        self.stages = self.combinations[batch_index]
        agent.stages = dict(zip(("action", "reward", "state"), self.stages, strict=True))
        agent.chi = 1.0
        self.before = weights(agent)

    def on_train_batch_end(self, trainer, agent, outputs, batch, batch_index):
        self.found[self.stages] = changed(agent, self.before)
        assert all_finite(agent)


@pytest.mark.parametrize(("objective", "case"), zip(("chain", "weighted", "mixed", "flow"), CASES, strict=True))
def test_each_combination_of_stages_trains_only_its_networks(tiny, fit, case, objective):
    agent, notes = (
        build(
            tiny(
                *("trainer.updates_per_epoch=8", "trainer.updates_per_step=1", "ddpg.warmup_updates=0"),
                *("stages.state=0", f"reward.case={case}", f"action.objective={objective}"),
            )
        ),
        EachCombination(),
    )
    fit(agent, notes)
    always = {"critic", "target_critic", "senpnn"} | ({"renpnn"} if case.endswith("gdm") else set())
    for stages in notes.combinations:
        policy = {"aenpnn"} if stages[0] else {"actor", "target_actor"}
        assert notes.found[stages] == always | policy, stages
    assert float(agent.skipped) == 0


@pytest.mark.parametrize("action_stage", [False, True])
def test_no_policy_learns_before_the_warm_up_ends(tiny, fit, action_stage):
    agent, moved = build(tiny("trainer.updates_per_step=1", "ddpg.warmup_updates=2")), []
    agent.stages["action"] = action_stage
    before = weights(agent)
    fit(agent, lambda _, agent: moved.append(changed(agent, before)))
    policy = "aenpnn" if action_stage else "actor"
    assert [policy in one for one in moved] == [False, False, True, True]
    assert all("critic" in one for one in moved)


def test_the_critic_catches_up_in_the_first_slots(tiny, fit):
    plan = ("trainer.updates_per_step=1", "ddpg.warmup_updates=2", "ddpg.warmup_critic_updates=3")
    agent, counts = build(tiny(*plan)), []

    def count(_, agent):
        counts.append(agent.means.counts["losses/critic"])
        agent.means.collect()

    fit(agent, count)
    assert counts == [3, 3, 1, 1]


def test_an_explorer_without_a_stage_is_left_alone(tiny, fit):
    agent = build(tiny("stages.reward=null", "stages.state=null", "reward.case=designed_gdm"))
    before = weights(agent)
    fit(agent)
    assert agent.senpnn is None
    assert "renpnn" not in changed(agent, before)
    assert "generated" not in agent.replay.storage


@pytest.mark.parametrize("case", ["raw_gdm", "designed_gdm"])
def test_the_reward_explorer_learns_its_own_case_before_its_stage(tiny, fit, case):
    """So that its stage finds it trained: same target, whether the critic's reward is still raw or not."""
    metrics = []
    for begun in (False, True):
        agent = build(tiny(f"reward.case={case}", "stages.action=null", "ddpg.warmup_updates=99"))
        agent.stages["reward"] = begun
        fit(agent, lambda _, agent: metrics.append(agent.means.collect()))
    before, after = metrics[:2], metrics[2:]
    for key in ("losses/renpnn", "renpnn/rank_correlation"):
        assert [one[key] for one in before] == [one[key] for one in after]


def test_the_first_action_stage_policy_sees_with_the_actor_s_eyes(tiny, fit):
    agent = build(tiny("ddpg.warmup_updates=0"))
    fit(agent)
    agent.begin_stage("action")
    mine, theirs = agent.aenpnn.encoder.state_dict(), agent.actor.encoder.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_rates_and_noise_follow_their_schedules(tiny, fit):
    agent, seen = build(tiny("ddpg.critic_rate=0.02", "ddpg.rate_end=0.2", "ddpg.noise=0.4", "ddpg.noise_end=0.1")), []
    fit(
        agent,
        lambda _, agent: seen.append((agent.optimizers()[1].param_groups[0]["lr"], agent.noise_deviation())),
        epochs=2,
    )
    for step, (rate, noise) in enumerate(seen):  # 4 steps of 2 updates; rates are set when a step begins
        assert rate == pytest.approx(0.02 * (0.2 + 0.8 * (1 + math.cos(math.pi * step / 4)) / 2))
        assert noise == pytest.approx(0.4 - 0.3 * (step + 1) / 4)


def test_noise_is_correlated_from_slot_to_slot_and_goes_on_where_it_was(tiny):
    options = ("ddpg.noise=0.2", "ddpg.noise_end=0.2", "ddpg.noise_correlation=0.8", "trainer.num_envs=64")
    agent, other = build(tiny(*options)), build(tiny(*options))
    still = torch.zeros(64, 2, agent.problem.layout.size)
    agent.generator, other.generator = seeded(), torch.Generator()
    noise = torch.stack([agent.perturb(still) for _ in range(40)]) / 0.2
    assert float((noise[1:] * noise[:-1]).mean()) == pytest.approx(0.8, abs=0.05)
    assert float(noise.std()) == pytest.approx(1, abs=0.05)
    other.world.load_state_dict(agent.world.state_dict())
    other.generator.set_state(agent.generator.get_state())
    assert torch.equal(agent.perturb(still), other.perturb(still))


@pytest.mark.parametrize("planned", [5, 12, 100])
def test_a_schedule_of_another_length_goes_on_and_ends_at_one(planned):
    before = Schedule(10)
    after = before.replanned(planned, 4)
    shares = [after.at(updates) for updates in range(4, planned + 1)]
    assert shares[0] == before.at(4) == 0.4
    assert shares[-1] == after.at(planned + 1) == 1
    assert all(second > first for first, second in pairwise(shares))
    assert before.replanned(10, 4) == before
    assert before.replanned(3, 4).at(4) == 1


def test_targets_follow_by_tau(tiny, fit):
    still, moving = (build(tiny(f"ddpg.target_rate={tau}", "ddpg.warmup_updates=0")) for tau in (1e-9, 1.0))
    for agent in (still, moving):
        start = weights(agent)
        fit(agent)
        for target, source in (("target_actor", "actor"), ("target_critic", "critic")):
            wanted = start[target] if agent is still else weights(agent)[source]
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights(agent)[target], wanted, strict=True))


# ------------------------------------------------------------------ state exploration


def with_state_stage(tiny, fit, chi: float, *overrides: str) -> D2RL:
    agent = build(tiny("stages.state=0", *overrides))
    agent.stages["state"], agent.chi = True, chi
    fit(agent)
    return agent


def test_chi_one_replaces_every_state_and_the_reward_is_that_of_the_new_one(tiny, fit):
    agent = with_state_stage(tiny, fit, 1.0)
    real = agent.world.state
    agent.interact()
    stored = latest(agent)
    acted_on = stored.observation.known.channels
    assert bool(distinct_channels(acted_on, real.channels).all())
    rates = decided_rates(agent.problem.head, acted_on, stored.action)
    assert torch.allclose(stored.utility, rates, atol=1e-5)
    assert (decided_rates(agent.problem.head, real.channels, stored.action) - rates).abs().max() > 0.1


def test_rewards_of_synthetic_states_that_nobody_measures_are_generated(tiny, fit):
    """Also on fall-back, where those of real states are measured; nothing of the simulator's is kept."""
    agent = build(tiny("stages.state=0", "reward.case=raw_gdm", "state.measured=false", "ddpg.replay=512"))
    agent.stages["reward"], agent.fallback = True, True
    fit(agent)
    kept = {}
    for agent.stages["state"], agent.chi in ((False, 0.0), (True, 1.0)):
        agent.interact()
        kept[agent.stages["state"]] = latest(agent)
    real, made = kept[False], kept[True]
    assert bool(real.measured.all())
    assert not bool(made.measured.any())
    assert made.utility.abs().max() == 0
    assert torch.equal(agent.reward_of(made), made.generated)
    assert torch.equal(agent.reward_of(real), agent.measured_reward(real))
    assert made.generated.std() > 0


def test_rewards_of_links_are_generated_where_their_sum_alone_is_told(tiny, fit):
    """RENPNN learns from sums, and the critic from what it makes of them, for each link."""
    agent = build(tiny("scenario.feedback=scalar", "reward.case=raw_gdm", "ddpg.replay=512", "action.candidates=4"))
    agent.stages["reward"] = True
    before = weights(agent)
    fit(agent)
    assert "renpnn" in changed(agent, before)
    batch = agent.replay.sample(64, seeded())
    assert batch.utility.std(-1).max() < 1e-5
    assert not agent.trusts_generated or agent.learns_per_entity
    agent.fallback = False
    assert agent.reward_of(batch).std(-1).min() > 1e-3


def test_only_real_states_judge_generated_rewards(tiny, fit):
    agent = build(tiny("stages.state=0", "reward.case=raw_gdm", "state.measured=false", "ddpg.replay=512"))
    agent.stages["reward"] = agent.stages["state"] = True
    fit(agent)
    for agent.chi, judged in ((1.0, False), (0.0, True)):
        agent.means.collect()
        agent.replacements_due = 0.0
        agent.interact()
        assert ("renpnn/rank_correlation" in agent.means.collect()) == judged


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("stages.state=null",), "this run has none"),
        (("reward.case=raw",), "set reward.generated=true"),
        (("stages.reward=3", "stages.state=2"), "stages.reward to 2 at most, got stages.reward=3"),
        (("stages.reward=auto", "stages.state=auto"), "stages.reward to 1 at most, got stages.reward=auto"),
        (("chi.policy=fixed", "chi.maximum=1"), "lower chi.maximum"),
    ],
)
def test_synthetic_states_without_a_reward_are_refused(tiny, overrides, message):
    with pytest.raises(ConfigError, match=message):
        D2RL(tiny("stages.state=0", "reward.case=raw_gdm", "state.measured=false", *overrides))


def test_chi_zero_replaces_no_state(tiny, fit):
    agent = with_state_stage(tiny, fit, 0.0)
    for _ in range(3):
        real = agent.world.state
        agent.interact()
        assert bool(same_channels(latest(agent).observation.known.channels, real.channels).all())


def test_no_state_is_replaced_before_its_stage(tiny, fit):
    agent = build(tiny("stages.state=5"))
    agent.chi = 1.0
    fit(agent)
    real = agent.world.state
    agent.interact()
    assert bool(same_channels(latest(agent).observation.known.channels, real.channels).all())


def replaced(agent: D2RL, slots: int) -> list[bool]:
    """Whether the states of each of some slots are replaced, by copies of themselves."""
    agent.synthetic, found = lambda problem, state, step: replace(state), []
    for _ in range(slots):
        before = agent.world.state
        agent.explore_state()
        found.append(agent.world.state is not before)
    return found


@pytest.mark.parametrize(("chi", "share"), [(0.0, 0), (0.1, 1), (0.3, 3), (0.5, 5), (0.75, 7), (1.0, 10)])
def test_chi_is_the_share_of_slots_that_are_replaced_evenly_spread(tiny, chi, share):
    agent = build(tiny())
    agent.stages["state"], agent.chi = True, chi
    due = replaced(agent, 10)
    assert sum(due) == share
    for start in range(11):
        for end in range(start, 11):
            assert abs(sum(due[start:end]) - chi * (end - start)) < 1 + 1e-6
    many = replaced(agent, 990)
    assert sum(due) + sum(many) == round(chi * 1000)


def test_a_slot_is_replaced_as_a_whole_or_not_at_all(tiny, fit):
    agent = with_state_stage(tiny, fit, 0.5)
    found = []
    for _ in range(6):
        real = agent.world.state
        agent.interact()
        acted_on = latest(agent).observation.known.channels
        same, distinct = same_channels(acted_on, real.channels), distinct_channels(acted_on, real.channels)
        assert bool(same.all()) or bool(distinct.all())
        found.append(bool(distinct.all()))
    assert found in ([True, False] * 3, [False, True] * 3)


def test_what_is_due_by_chi_survives_a_checkpoint(tiny, fit):
    agent = with_state_stage(tiny, fit, 0.3)
    checkpoint = {"state_dict": agent.state_dict(), "optimizer_states": []}
    agent.on_save_checkpoint(checkpoint)
    assert checkpoint["d2rl"]["replacements_due"] == agent.replacements_due > 0
    again = build(agent.config)
    again.on_load_checkpoint(checkpoint)
    assert (again.chi, again.replacements_due) == (agent.chi, agent.replacements_due)
    assert replaced(again, 10) == replaced(agent, 10)


def test_a_state_can_be_replaced_outside_a_training_step(tiny, fit):
    """The factors of the chain are made when nobody has made them."""
    agent = build(tiny("stages.state=0"))
    agent.on_fit_start()
    made = agent.synthetic(agent.problem, agent.world.state)
    assert bool(distinct_channels(made.channels, agent.world.state.channels).all())
    assert bool(same_channels(made.estimate, made.channels).all())


@pytest.mark.slow
def test_replaced_states_keep_their_large_scale_gains(tiny, fit):
    """Short chains lose power: with P = 6 some 3 %."""
    size = ("trainer.num_envs=128", "ddpg.replay=128", "trainer.updates_per_epoch=100", "state.steps=6")
    agent = with_state_stage(tiny, fit, 1.0, *size)
    state = agent.world.state
    made = agent.synthetic(agent.problem, state)
    for name, gain in state.gains.tensors().items():
        assert torch.equal(getattr(made.gains, name), gain)
    assert torch.equal(made.weights, state.weights)
    for tensor in whiten(made.channels, state.gains).tensors().values():
        assert tensor.abs().square().mean().item() == pytest.approx(1, abs=0.15)


# ------------------------------------------------------------------ imperfect channel knowledge


@pytest.mark.parametrize("chi", [0.0, 1.0])
def test_the_agent_never_sees_the_true_channels(tiny, fit, chi):
    agent = with_state_stage(tiny, fit, chi, "scenario.csi_error=0.2", "ddpg.gamma=0.5")
    state = agent.world.state
    agent.interact()
    stored = latest(agent)
    known = stored.observation.known.channels
    assert bool(distinct_channels(known, state.channels).all())
    if chi == 0:
        assert bool(same_channels(known, state.estimate).all())
        decision = agent.problem.decode(stored.observation, stored.action)
        assert torch.allclose(stored.utility, agent.problem.measure(state, decision))
    blind = decided_rates(agent.problem.head, known, stored.action)
    assert (stored.utility - blind).abs().max() > 0.1  # rewards come from the truth
    expected = observe(known, stored.observation.weights).tensors()
    for name, tensor in stored.observation.tensors().items():
        assert torch.allclose(tensor, expected[name], atol=1e-4), name
    following = agent.world.state
    goes_on = torch.arange(8) % 10 != -following.slot % 10  # the users of the others were dropped anew
    assert 0 < goes_on.sum() < 8
    assert torch.equal(same_channels(stored.following.known.channels, following.estimate), goes_on)


# ------------------------------------------------------------------ the discounted next value


@pytest.mark.parametrize("case", ["raw", "designed"])
@pytest.mark.parametrize("action_stage", [False, True])
def test_the_next_value_counts_only_where_the_task_goes_on(tiny, fit, case, action_stage):
    agent = build(tiny("ddpg.gamma=0.9", f"reward.case={case}"))
    agent.stages |= {"action": action_stage, "reward": True}
    values = {}

    def judge(_, agent):
        batch = agent.replay.sample(8, seeded())
        values["last"] = agent.next_value(replace(batch, terminated=torch.arange(8) % 2 == 0))

    fit(agent, judge)
    assert values["last"].shape == (8, 1, 5 if case == "designed" else 1)
    assert bool((values["last"][::2] == 0).all())
    assert bool((values["last"][1::2] != 0).all())


def test_a_cut_episode_is_followed_by_its_own_last_state(tiny, fit):
    """At speed 0 a channel changes only when its users are dropped again, which ends no task."""
    agent = build(tiny("ddpg.gamma=0.9", "scenario.speed=0", "scenario.episode_length=3"))
    fit(agent)
    for _ in range(3):
        before = agent.world.state
        agent.interact()
        stored, stayed = latest(agent), same_channels(before.channels, agent.world.state.channels)
        assert 0 < stayed.float().mean() < 1
        assert torch.equal(stored.following.known.channels.downlink, before.channels.downlink)
        assert not bool(stored.terminated.any())


def test_the_critic_regresses_on_reward_plus_discounted_next_value(tiny, fit):
    agent, losses = build(tiny("ddpg.gamma=0.9")), {}

    def compare(_, agent):
        before = agent.generator.get_state()
        batch = agent.draw(agent.config.ddpg.critic_batch)
        agent.generator.set_state(before)
        observation, following = batch.observation, batch.following
        reward = batch.utility.sum(-1, keepdim=True) / 10  # weights are 1
        with torch.no_grad():
            action = agent.target_actor(following).tanh().unsqueeze(1)
            value = agent.target_critic(following, agent.view(following, action)).sum(-1, keepdim=True)
            guess = agent.critic(observation, agent.view(observation, batch.action)).sum(-1, keepdim=True)
            losses["expected"] = (guess - reward - 0.9 * value).square().mean().item()
        agent.means.collect()
        agent.improve("critic")
        losses["found"] = agent.means.collect()["losses/critic"]

    fit(agent, compare)
    assert losses["found"] == pytest.approx(losses["expected"], rel=1e-4)


# ------------------------------------------------------------------ what critics see


@pytest.mark.parametrize("critic", ["powers", "numbers"])
@pytest.mark.parametrize("chi", [0.0, 1.0])
def test_the_stored_view_is_that_of_the_stored_action_on_the_known_channels(tiny, fit, critic, chi):
    agent = with_state_stage(tiny, fit, chi, f"network.critic={critic}", "scenario.csi_error=0.2")
    agent.interact()
    stored = latest(agent)
    expected = agent.view(stored.observation, stored.action)
    assert stored.view.shape == (8, 2, 5, 2 if critic == "powers" else 4)
    torch.testing.assert_close(stored.view, expected, rtol=0, atol=1e-4)


def test_a_value_tells_where_it_climbs_and_the_policy_leaves_the_critic_alone(tiny):
    agent = lively(build(tiny("action.objective=chain")))
    observation = explore_alone(agent)
    action = torch.zeros(8, 3, 10, requires_grad=True)
    value = agent.value(observation, action)
    assert value.shape == (8, 3)
    (slope,) = torch.autograd.grad(value.sum(), action)
    assert slope.abs().max() > 0
    agent.policy_loss(batch_of(observation)).backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in agent.aenpnn.parameters())
    assert all(p.grad is None and p.requires_grad for p in agent.critic.parameters())


# ------------------------------------------------------------------ AENPNN's objectives


def explore_alone(agent: D2RL, seed: int = 0) -> Observation:
    """An agent that needs no Trainer, in the action stage; what it sees."""
    agent.stages["action"], agent.generator = True, seeded(seed)
    return agent.problem.observe(agent.world.state)


def batch_of(observation: Observation) -> Transition:
    """For an objective that looks at nothing but the states."""
    shape, layout = (observation.batch, 1), observation.layout
    utility = torch.zeros(*shape, layout.entities)
    return Transition(observation, torch.zeros(*shape, layout.size), utility.unsqueeze(-1), utility)


@pytest.mark.parametrize("samples", [1, 4])
def test_the_chain_objective_weighs_draws_by_their_standardised_value(tiny, samples):
    """-sum_m rho_m V(s, a_m) + c mean z^2, draw by draw; the weights themselves teach nothing."""
    agent = lively(build(tiny("action.objective=chain", f"action.samples={samples}", "action.temperature=0.5")))
    observation = explore_alone(agent)
    drawn = agent.aenpnn.estimate(observation, samples, 1, seeded())
    value = agent.value(observation, drawn.tanh())
    objective = 0.0
    for b in range(8):
        row = value[b].detach().double().tolist()
        mean = sum(row) / samples
        spread = math.sqrt(sum((v - mean) ** 2 for v in row) / samples) + 1e-3
        scores = [math.exp((v - mean) / (0.5 * spread)) for v in row]
        objective = objective - sum(s / sum(scores) * v for s, v in zip(scores, value[b], strict=True)) / 8
    objective = objective + agent.config.ddpg.saturation_penalty * drawn.square().mean()
    expected = torch.autograd.grad(objective, list(agent.aenpnn.parameters()))
    loss = agent.policy_loss(batch_of(observation))
    assert loss.item() == pytest.approx(objective.item(), rel=1e-4)
    found = torch.autograd.grad(loss, list(agent.aenpnn.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-6)
    assert agent.means.collect()["losses/aenpnn_chain"] == pytest.approx(-value.mean().item(), rel=1e-4)


@pytest.mark.parametrize(("last", "expected"), [(1, [1, 1, 1, 1]), (2, [1, 2, 1, 2]), (9, [1, 2, 3, 1])])
def test_the_last_steps_of_the_chain_are_trained_in_turn(tiny, last, expected):
    agent, trained = lively(build(tiny("action.objective=chain", f"action.gradient_steps={last}"))), []
    observation = explore_alone(agent)
    for agent.updates in range(4):
        agent.aenpnn.zero_grad()
        agent.policy_loss(batch_of(observation)).backward()
        trained.append(agent.aenpnn.denoiser.step.weight.grad.abs().sum(-1).nonzero().flatten().tolist())
    assert trained == [[step] for step in expected]


class TwoModes(D2RL):
    """The critic is known in closed form: two modes, at 0.7 and at -0.7 of every number, the first 0.2 better."""

    def value(self, observation: Observation, action: Tensor) -> Tensor:
        """The nearer one counts."""
        distances = [(action - mode).square().mean(-1) for mode in (0.7, -0.7)]
        return torch.maximum(0.2 - distances[0], -distances[1])


@pytest.mark.slow
def test_several_draws_find_the_better_of_two_modes_though_few_begin_there(tiny):
    L.seed_everything(0, verbose=False)
    size = ("network.width=16", "network.layers=2", "action.steps=6", "trainer.num_envs=16")
    agent = TwoModes(tiny("action.objective=chain", "action.samples=4", *size))
    observation, policy = explore_alone(agent), agent.aenpnn
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)

    def descend(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def better() -> float:
        with torch.no_grad():
            drawn = policy.sample(observation, 64, seeded(9)).tanh()
        assert agent.value(observation, drawn).mean() > -0.1  # at one of the two
        return (drawn.mean(-1) > 0).float().mean().item()

    modes = torch.tensor([0.7, -0.7])[:, None].expand(2, 10).expand(16, 2, 10)
    for _ in range(300):
        descend(policy.imitate(observation, modes, torch.tensor([0.15, 0.85]).expand(16, 2), agent.generator)[0])
    assert better() < 0.4
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for _ in range(250):
        descend(agent.policy_loss(batch_of(observation)))
    assert better() > 0.9


# ------------------------------------------------------------------ losses that are not finite


def moments(agent: D2RL) -> list[Tensor]:
    states = [state for optimizer in agent.optimizers() for state in optimizer.state.values()]
    return [value.clone() for state in states for value in state.values() if isinstance(value, Tensor)]


def test_a_loss_that_is_not_finite_is_skipped_and_counted(tiny, fit):
    choice = ("reward.case=designed_gdm", "action.objective=mixed", "ddpg.warmup_updates=0")
    agent, seen = build(tiny(*choice, *ONE_STEP)), {}
    agent.stages |= {"action": True, "reward": True}

    def poison(_, agent):
        assert agent.skipped_steps() == 0
        for tensor in (agent.replay.storage["utility"], agent.replay.storage["generated"]):
            tensor.fill_(float("nan"))
        before, states, number = weights(agent), moments(agent), agent.updates
        agent.learn()
        seen["changed"] = changed(agent, before)
        seen["moments"] = all(torch.equal(a, b) for a, b in zip(states, moments(agent), strict=True))
        seen["states"] = len(states)
        seen["skipped"] = (agent.skipped_steps(), agent.skipped_steps())
        seen["updates"] = agent.updates - number
        agent.replay.storage["utility"].fill_(1.0)
        agent.replay.storage["generated"].fill_(1.0)
        agent.learn()
        seen["later"] = changed(agent, before)

    fit(agent, poison)
    assert seen["changed"] <= {"target_critic"}  # it follows the critic as ever
    assert seen["moments"]
    assert seen["states"] > 0
    assert seen["skipped"] == (3, 0)  # critic, AENPNN, RENPNN
    assert seen["updates"] == 1
    assert seen["later"] >= {"critic", "aenpnn", "renpnn"}
    assert all_finite(agent)


def test_a_first_reward_that_is_not_finite_does_no_harm(tiny, fit):
    class Poison(Callback):
        def on_train_batch_start(self, trainer, agent, batch, batch_index):
            if batch_index == 0:
                agent.interact()
                agent.replay.storage["utility"].fill_(float("nan"))

    agent = build(tiny("reward.case=raw_gdm", *ONE_STEP))
    fit(agent, Poison())
    assert agent.skipped_steps() > 0
    assert all_finite(agent)
    assert all(bool(buffer.isfinite().all()) for buffer in agent.buffers())


def test_on_fall_back_generated_rewards_are_not_used(tiny, fit):
    agent, skipped = build(tiny("reward.case=designed_gdm", *ONE_STEP)), {}
    agent.stages["reward"] = True

    def poison(_, agent):
        agent.replay.storage["generated"].fill_(float("nan"))
        for agent.fallback in (False, True):
            agent.learn()
            skipped[agent.fallback] = agent.skipped_steps()

    fit(agent, poison)
    assert skipped == {False: 1, True: 0}


# ------------------------------------------------------------------ variants


@pytest.mark.parametrize("action_stage", [False, True])
def test_the_analytic_gradient_needs_no_critic(tiny, fit, action_stage):
    agent = build(tiny("ddpg.analytic=true", "action.objective=chain"))
    agent.stages["action"] = action_stage
    with torch.no_grad():
        for parameter in agent.critic.parameters():
            parameter.fill_(float("nan"))
    before = weights(agent)
    fit(agent)
    policy = agent.aenpnn if action_stage else agent.actor
    assert ("aenpnn" if action_stage else "actor") in changed(agent, before)
    assert all(bool(p.isfinite().all()) for p in policy.parameters())
    assert agent.skipped_steps() == 0
    assert "losses/critic" not in agent.means.collect()


def test_the_analytic_gradient_uses_the_known_channels(tiny, fit):
    agent = build(tiny("ddpg.analytic=true", "scenario.csi_error=0.3"))
    state = agent.world.state
    observation, action = agent.problem.observe(state), torch.zeros(8, 1, agent.problem.layout.size)
    rates = decided_rates(agent.problem.head, state.estimate, action)
    assert torch.allclose(agent.value(observation, action), rates.sum(-1) / 10)


@pytest.mark.parametrize(
    ("kind", "critic", "head"), pairs(("mlp", "link_graph"), ("powers", "numbers"), ("beamforming", "structured"))
)
def test_every_network_and_head_trains_a_step(tiny, fit, kind, critic, head):
    choice = (f"network.kind={kind}", f"network.critic={critic}", f"scenario.head={head}")
    agent = build(tiny(*choice, *ONE_STEP, "ddpg.warmup_updates=0", "stages.state=0", "reward.case=designed_gdm"))
    agent.stages, agent.chi = {"action": True, "reward": True, "state": True}, 0.5
    before = weights(agent)
    fit(agent)
    assert changed(agent, before) >= {"critic", "aenpnn", "renpnn", "senpnn"}
    assert all_finite(agent)
    assert agent.skipped_steps() == 0
    assert latest(agent).action.shape == (8, 2, 26 if head == "beamforming" else 10)


def test_a_bank_of_stored_states_is_split_for_the_state_explorer(tiny, fit):
    agent = with_state_stage(tiny, fit, 0.5, "scenario.stored_states=20")
    assert (agent.held_out.batch, agent.stored.batch) == (4, 16)
    kept, used = agent.held_out.channels.downlink, agent.stored.channels.downlink
    assert not (kept.unsqueeze(1) == used).flatten(2).all(-1).any()


def test_a_step_counts_updates_and_environment_steps(tiny, fit):
    agent = build(tiny())
    fit(agent, epochs=2)
    assert (agent.updates, agent.environment_steps) == (8, 64)


def test_a_training_step_begins_with_a_slot_and_has_another_every_few_updates(tiny, fit):
    agent, happened = (
        build(tiny("trainer.updates_per_slot=3", "trainer.updates_per_step=7", "trainer.updates_per_epoch=14")),
        [],
    )
    interact, learn = agent.interact, agent.learn
    agent.interact = lambda: (happened.append("slot"), interact())[1]
    agent.learn = lambda: (happened.append("update"), learn())[1]
    fit(agent)
    step = ["slot", *["update"] * 3, "slot", *["update"] * 3, "slot", "update"]
    assert happened == step * 2
    assert agent.environment_steps == 6 * agent.world.batch


# ------------------------------------------------------------------ decisions


def lively(agent: D2RL) -> D2RL:
    """With output layers of ordinary size, so that an untrained policy is no mere constant."""
    for layer in (agent.actor.output.linear, agent.aenpnn.denoiser.output):
        assert isinstance(layer, nn.Linear)
        layer.reset_parameters()
    return agent


def test_decisions_follow_the_order_of_users(tiny):
    agent, down, up = lively(build(tiny("network.layers=2"))), [2, 0, 1], [1, 0]
    order = [*down, *(3 + k for k in up)]
    state = evaluation_states(agent.config.scenario, 16, 0)
    weight = torch.exp(0.5 * torch.randn(state.weights.shape, generator=seeded()))
    first = observe(state.channels, weight)
    second = observe(state.channels.permute_users(down, up), weight[:, order])

    def by_link(action: Tensor) -> Tensor:
        return action.unflatten(-1, (5, 2))

    before = by_link(agent.propose(first, 1, seeded()))
    after = by_link(agent.propose(second, 1, seeded()))
    assert torch.allclose(after, before[:, :, order], atol=1e-5)
    assert (after - before).abs().max() > 1e-2
    noises = torch.randn(3, 16, 2, 5, 2, generator=seeded())
    with torch.no_grad():
        before = by_link(agent.aenpnn.sample(first, 2, noises=noises))
        after = by_link(agent.aenpnn.sample(second, 2, noises=noises[:, :, :, order]))
    assert torch.allclose(after, before[:, :, order], atol=1e-4)
    assert (after - before).abs().max() > 1e-2


def test_proposals_are_bounded_and_free_of_exploration_noise(tiny):
    agent = lively(build(tiny("ddpg.noise=1")))
    observation = agent.problem.observe(agent.world.state)
    several = agent.propose(observation, 4, seeded())
    assert several.shape == (8, 4, 10)
    assert torch.equal(several, several[:, :1].expand_as(several))  # the deterministic actor
    agent.stages["action"] = True
    several = agent.propose(observation, 4, seeded())
    assert several.abs().max() <= 1
    assert torch.equal(several, agent.propose(observation, 4, seeded()))
    assert (several[:, 0] - several[:, 1]).abs().max() > 1e-2


@pytest.mark.parametrize("action_stage", [False, True])
def test_the_share_of_saturated_actions_is_that_of_the_proposals_without_noise(tiny, fit, action_stage):
    agent, seen = build(tiny("ddpg.noise=1", "ddpg.noise_end=1")), []
    agent.stages["action"] = action_stage
    output = torch.tensor([0.0, 2.6, -2.6, 2.7, -2.7, 9.0, 0.0, 0.0, 0.0, 0.0])  # tanh(2.65) is 0.99
    agent.actor.forward = lambda observation: output.expand(observation.batch, -1)
    agent.aenpnn.sample = lambda observation, count, generator: output.expand(observation.batch, count, -1)
    agent.learn = lambda: None  # nobody has to learn from it
    fit(agent, lambda _, agent: seen.append(agent.means.collect()["charts/saturated_actions"]))
    assert seen == pytest.approx([0.3, 0.3])


LEARNING = (
    *("network.width=16", "network.layers=2", "ddpg.batch=24", "ddpg.replay=4096", "ddpg.warmup_updates=20"),
    *("ddpg.actor_rate=0.005", "ddpg.critic_rate=0.005", "ddpg.noise=0.3", "trainer.num_envs=24", "action.steps=4"),
    *("trainer.epochs=1", "trainer.updates_per_epoch=120", "trainer.updates_per_step=20", "ddpg.gamma=0"),
)


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        pytest.param(("reward.case=raw",), {}, marks=pytest.mark.slow, id="ddpg"),
        pytest.param(("reward.case=designed", "action.objective=mixed"), {"action": True, "reward": True}, id="d2rl"),
        pytest.param(("ddpg.analytic=true",), {}, marks=pytest.mark.slow, id="analytic"),
    ],
)
def test_learning_raises_the_sum_rate(tiny, fit, overrides, stages):
    agent = build(tiny(*LEARNING, *overrides))
    agent.stages |= stages
    evaluation = Evaluation(agent.problem, 64, 0)
    before = evaluation.score("before", policy_of(agent, DecisionRule()))
    fit(agent)
    after = evaluation.score("after", policy_of(agent, DecisionRule()))
    assert after["gap_closed"] > before["gap_closed"] + 0.1


# ------------------------------------------------------------------ SENPNN of other versions, and places


def test_a_state_explorer_of_another_version_begins_anew_with_a_notice(tiny, fit, tmp_path, caplog):
    old = build(tiny("stages.state=0"))
    fit(old).save_checkpoint(tmp_path / "old.ckpt")
    checkpoint = torch.load(tmp_path / "old.ckpt", weights_only=False)
    stored = checkpoint["state_dict"]
    stored["senpnn.networks.downlink.error"] = torch.eye(4)
    del stored["senpnn.networks.downlink.known.0.weight"]
    notice_once.cache_clear()
    agent = build(tiny("stages.state=0"))
    before = weights(agent)["senpnn"]
    agent.on_load_checkpoint(checkpoint)
    agent.load_state_dict(checkpoint["state_dict"])
    assert all(torch.equal(a, b) for a, b in zip(before, weights(agent)["senpnn"], strict=True))
    assert [r.getMessage() for r in caplog.records if "SENPNN of the checkpoint" in r.getMessage()] == [
        "the SENPNN of the checkpoint is of another version or of other sizes: it begins anew."
    ]


def test_places_that_the_states_do_not_tell_fall_back_with_a_notice_or_are_refused(tiny, tmp_path, caplog):
    state = FullDuplexEnv(tiny().scenario, 10, 0).state
    save_bank(ChannelBank(state.channels, state.gains, state.weights), tmp_path / "bank.pt")
    given = ("stages.state=0", f"scenario.channel_bank={tmp_path / 'bank.pt'}")
    notice_once.cache_clear()
    for _ in range(2):
        assert {one.places for one in build(tiny(*given)).senpnn.networks.values()} == {0}
    assert sum("does not tell where users are" in r.getMessage() for r in caplog.records) == 1
    notice_once.cache_clear()
    caplog.clear()
    with pytest.raises(ConfigError, match=r"state\.condition=place, but .* position_downlink"):
        build(tiny(*given, "state.condition=place"))
    build(tiny(*given, "state.condition=gain"))
    assert caplog.records == []  # a refusal, or what was asked for, needs no notice
    assert build(tiny("stages.state=0")).senpnn.networks["downlink"].places > 0
    assert build(tiny("stages.state=0", "state.condition=gain")).senpnn.networks["downlink"].places == 0
