"""Half duplex: a cell of one direction alone, against known results and through every part."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import gymnasium
import lightning as L
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import Tensor

import d2rl
from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.decisions import DecisionRule, decide
from d2rl.common.errors import ConfigError
from d2rl.envs import FullDuplexConfig
from d2rl.evaluation import evaluate as evaluation
from d2rl.evaluation.evaluate import Evaluation, score_agent
from d2rl.problems import check_config, load_config
from d2rl.problems.full_duplex import references
from d2rl.problems.full_duplex.plausibility import plausibility
from d2rl.problems.full_duplex.problem import FullDuplexProblem
from d2rl.report.page import report_page
from d2rl.wireless import full_uplink_power, link_rates, mrt, random_decision, rzf, wmmse, zf
from d2rl.wireless.wmmse import improve

DOWNLINK, UPLINK = {"uplink_users": 0}, {"downlink_users": 0}
ALONE = {"downlink": DOWNLINK, "uplink": UPLINK}
ARGUMENTS = {name: [f"scenario.{key}=0" for key in users] for name, users in ALONE.items()}

# ------------------------------------------------------------------ known results


@pytest.mark.parametrize("precoder", [mrt, zf, rzf])
def test_one_downlink_user_gets_the_matched_beam(make_channels, precoder):
    channels = make_channels(downlink_users=1, uplink_users=0)
    rates = link_rates(channels, precoder(channels), full_uplink_power(channels))
    torch.testing.assert_close(rates[:, 0], torch.log2(1 + channels.downlink.abs().square().sum((1, 2))))


@pytest.mark.parametrize(("direction", "users"), [("downlink", "uplink_users"), ("uplink", "downlink_users")])
def test_wmmse_of_one_user_reaches_the_capacity_of_its_channel(make_channels, direction, users):
    channels = make_channels(**{"downlink_users": 1, "uplink_users": 1, users: 0})
    capacity = torch.log2(1 + getattr(channels, direction).abs().square().sum((1, 2)))
    torch.testing.assert_close(link_rates(channels, *wmmse(channels, 20))[:, 0], capacity, atol=1e-3, rtol=0)


def test_zero_forcing_leaves_each_user_what_its_own_direction_gives(make_channels):
    """log2(1 + 1 / (K [(G^H G)^-1]_kk)), user by user in double."""
    channels = make_channels(4, uplink_users=0)
    rates = link_rates(channels, zf(channels), full_uplink_power(channels))
    for state in range(4):
        g = channels.downlink[state].to(torch.complex128).mT
        inverse = torch.linalg.inv(g.mH @ g)
        for user in range(6):
            expected = torch.log2(1 + 1 / (6 * inverse[user, user].real))
            assert abs(rates[state, user] - expected) < 1e-3


def test_zero_forcing_gains_one_bit_per_user_for_each_doubling_of_power_at_high_snr(make_channels):
    channels = make_channels(uplink_users=0)
    strong = [replace(channels, downlink=level * channels.downlink) for level in (1e2, 1e2 * 2**0.5)]
    low, high = (link_rates(c, zf(c), full_uplink_power(c)) for c in strong)
    torch.testing.assert_close(high - low, torch.ones(16, 6), atol=1e-2, rtol=0)


def test_at_high_snr_wmmse_is_no_more_than_zero_forcing_with_its_best_powers_gives(make_channels):
    """Zero forcing is optimal in the limit: there is nothing left to gain but the split of power."""
    channels = make_channels(uplink_users=0)
    strong = replace(channels, downlink=1e3 * channels.downlink)
    forced = link_rates(strong, zf(strong), full_uplink_power(strong)).sum(-1)
    best = link_rates(strong, *wmmse(strong, 100)).sum(-1)
    assert (best / forced).mean() < 1.01


def plain_wmmse(g: Tensor, beams: Tensor, iterations: int) -> Tensor:
    """WMMSE of the MISO downlink as Shi et al. print it, one state, user by user; g and beams [K, N], unit noise."""
    users, antennas = g.shape
    for _ in range(iterations):
        receiver, weight = [], []
        for k in range(users):
            heard = sum(abs(torch.vdot(g[k], beams[j])) ** 2 for j in range(users)) + 1
            receiver.append(torch.vdot(g[k], beams[k]) / heard)
            weight.append(1 / (1 - abs(torch.vdot(g[k], beams[k])) ** 2 / heard))
        system = sum(weight[j] * abs(receiver[j]) ** 2 * torch.outer(g[j], g[j].conj()) for j in range(users))

        def solved(mu: float, system=system, receiver=receiver, weight=weight) -> Tensor:
            matrix = system + mu * torch.eye(antennas, dtype=g.dtype)
            return torch.stack([weight[j] * receiver[j] * torch.linalg.solve(matrix, g[j]) for j in range(users)])

        low, high = 1e-12, 1e6
        for _ in range(80):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if solved(middle).abs().square().sum() > 1 else (low, middle)
        beams = solved(high)
    return beams


def test_wmmse_is_the_plain_one_of_the_miso_downlink(make_channels):
    channels = make_channels(2, downlink_users=3, uplink_users=0, transmit_antennas=4, path_loss="nlos").double()
    weights = torch.ones(2, 3)
    found, power = improve(channels, rzf(channels), full_uplink_power(channels), weights, 12)
    assert power.shape == (2, 0)
    for state in range(2):
        expected = plain_wmmse(channels.downlink[state], rzf(channels)[state].mT, 12)
        torch.testing.assert_close(found[state].mT, expected, atol=1e-5, rtol=1e-5)


def test_the_uplink_is_below_the_capacity_of_its_multiple_access_channel(make_channels, generator):
    channels = make_channels(downlink_users=0, path_loss="nlos")
    precoder, power = random_decision(channels, generator)
    h = channels.uplink.to(torch.complex128).mT
    received = torch.eye(8) + (h * power.unsqueeze(-2)) @ h.mH
    capacity = torch.linalg.slogdet(received)[1] / torch.log(torch.tensor(2.0))
    assert (link_rates(channels, precoder, power).sum(-1) <= capacity + 1e-3).all()


@pytest.mark.parametrize("direction", ALONE)
def test_a_direction_alone_reaches_what_it_reaches_while_the_other_is_silent(make_channels, generator, direction):
    both = make_channels()
    precoder, power = random_decision(both, generator)
    if direction == "downlink":
        alone = replace(both, uplink=both.uplink[:, :0], cross=both.cross[:, :0])
        found, silent = link_rates(alone, precoder, power[:, :0]), link_rates(both, precoder, 0 * power)[:, :6]
    else:
        alone = replace(both, downlink=both.downlink[:, :0], cross=both.cross[:, :, :0])
        found, silent = link_rates(alone, precoder[..., :0], power), link_rates(both, 0 * precoder, power)[:, 6:]
    torch.testing.assert_close(found, silent, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("direction", ALONE)
def test_self_interference_is_nothing_that_one_direction_sees(direction):
    seen = []
    for level in (-200.0, -40.0):
        problem = FullDuplexProblem(FullDuplexConfig(**ALONE[direction], self_interference=level))
        observed = problem.observe(problem.frozen(3, 0, "cpu"))
        seen.append(torch.cat([observed.nodes.flatten(), observed.edges.flatten(), problem.flat(observed).flatten()]))
    torch.testing.assert_close(seen[0], seen[1])


# ------------------------------------------------------------------ through every part


@pytest.mark.parametrize("direction", ALONE)
@pytest.mark.parametrize("network", ["link_graph", "mlp"])
def test_all_explorers_learn_in_a_cell_of_one_direction(tiny, fit, direction, network):
    head = "structured" if network == "link_graph" else "beamforming"
    config = tiny(
        *ARGUMENTS[direction], "stages.state=0", "reward.case=designed_gdm", "chi.policy=fixed",
        f"network.kind={network}", f"scenario.head={head}",
    )  # fmt: skip
    check_config(config)
    L.seed_everything(0, verbose=False)
    agent = D2RL(config)
    agent.stages, agent.chi = dict.fromkeys(agent.stages, True), 0.5
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    fit(agent)
    after = agent.state_dict()
    assert all(tensor.isfinite().all() for tensor in after.values() if tensor.is_floating_point())
    for part in ("aenpnn", "renpnn", "senpnn"):
        moved = [n for n in after if n.startswith(part) and "weight" in n and not torch.equal(before[n], after[n])]
        assert moved, part


@pytest.mark.parametrize("direction", ALONE)
def test_generated_channels_are_compared_where_they_play_a_part(direction, generator):
    problem = FullDuplexProblem(FullDuplexConfig(**ALONE[direction]))
    state = problem.frozen(8, 0, "cpu")
    found = plausibility(state.channels, state.channels, state.gains, state.gains, None, 2, generator=generator)
    assert {name.split("/")[0] for name in found} == {direction, "rate"}


@pytest.mark.parametrize("direction", ALONE)
def test_the_report_shows_the_one_direction(tiny, monkeypatch, direction):
    monkeypatch.setattr(evaluation, "LATENCY_SECONDS", 0.0)
    monkeypatch.setattr(references, "LIMIT", 3)
    config = tiny(*ARGUMENTS[direction])
    agent = D2RL(config)
    result = Evaluation(agent.problem, 8, 0)
    report = score_agent(agent, result, DecisionRule())
    assert report["shown"] == ["rate_p5", "jain"]
    other = {"downlink": "uplink", "uplink": "downlink"}[direction]
    assert report["policies"]["wmmse"][f"{other}_rate"] == 0
    page = report_page("x", config, result, report)
    assert re.findall(r"Distribution of (\w+) link rates", page) == [direction]


@pytest.mark.parametrize("direction", ALONE)
def test_gymnasiums_checker_has_nothing_to_say(direction):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("d2rl/FullDuplex-v0", **ALONE[direction])
        check_env(env.unwrapped)
    env.reset(seed=0)
    _, _, _, _, info = env.step(env.action_space.sample())
    assert info["sum_rate"] == info[f"{direction}_rate"] > 0


@pytest.mark.parametrize("direction", ALONE)
def test_a_policy_for_any_load_serves_one_direction(direction):
    policy = d2rl.load("pretrained/any_load", *ARGUMENTS[direction])
    state = policy.problem.frozen(32, 0, "cpu")
    decision = decide(policy, state, DecisionRule(best_of=4), torch.Generator().manual_seed(0))
    reached = policy.problem.measure(state, decision).sum(-1).mean()
    simple = policy.problem.measure(state, policy.problem.references()["mrt"](state)).sum(-1).mean()
    assert policy.problem.feasible(decision).all()
    assert reached > simple * (1.2 if direction == "downlink" else 0.9)


def test_loads_may_be_of_one_direction(tiny):
    config = tiny("scenario.loads=3+0,0+2", "stages.state=null", "scenario.head=switching")
    check_config(config)
    sizes = [(p.config.downlink_users, p.config.uplink_users) for p in FullDuplexProblem.variants(config.scenario, 0)]
    assert sizes == [(3, 2), (3, 0), (0, 2)]


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["scenario.downlink_users=0", "scenario.uplink_users=0"], "leave nobody to serve; set one of them to 1"),
        (["scenario.loads=0+0"], "0[+]0 is out of range"),
        (["scenario.loads=3+0", "stages.state=1"], "one direction alone beside others, but SENPNN"),
    ],
)
def test_nobody_to_serve_is_one_message(arguments, reason):
    with pytest.raises(ConfigError, match=reason):
        check_config(load_config(arguments))


def test_a_cell_in_which_nothing_is_wanted_is_told_the_sum_0():
    """Links of one direction, in drops that want the other alone."""
    problem = FullDuplexProblem(FullDuplexConfig(feedback="scalar", priority_zero=1.0, uplink_users=0))
    state = problem.reset(64, torch.Generator().manual_seed(0))
    nothing = state.weights.sum(-1) == 0
    decision = problem.decode(problem.observe(state), torch.zeros(64, 1, problem.layout.size))
    told = problem.step(state, decision, torch.Generator().manual_seed(1)).utility
    assert nothing.any()
    assert torch.equal(told[nothing], torch.zeros_like(told[nothing]))
    assert told.isfinite().all()
