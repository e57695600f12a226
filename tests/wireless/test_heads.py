"""Action heads: limits that hold for every action, shapes of the decision, gradients that stay finite."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from d2rl.wireless import BeamformingHead, ChannelState, StructuredHead, link_rates, make_head, zf
from d2rl.wireless.heads import (
    ActionHead,
    ActionLayout,
    SwitchingHead,
    beam_basis,
    leakage_directions,
    uplink_combiners,
)

HEADS = ["structured", "switching", "beamforming", "switching, 3 passes", "settling", "settling, 3 passes"]


def named(name: str, transmit_antennas: int) -> ActionHead:
    kind, _, passes = name.partition(", ")
    return make_head(kind, transmit_antennas, int(passes[0]) if passes else 1)


def rank_one(channels: ChannelState) -> ChannelState:
    """All users of a direction at the same place."""
    return dataclasses.replace(
        channels,
        downlink=channels.downlink[:, :1].expand_as(channels.downlink).contiguous(),
        uplink=channels.uplink[:, :1].expand_as(channels.uplink).contiguous(),
    )


CELLS: dict[str, Callable[..., ChannelState]] = {
    "default": lambda make: make(),
    "SI 0 dB": lambda make: make(self_interference=0.0),
    "rank one": lambda make: rank_one(make()),
    "all zero": lambda make: make().map(torch.zeros_like),
    "one user silent": lambda make: dataclasses.replace(
        make(), downlink=make().downlink * torch.tensor([1.0, 0, 1, 1, 1, 1])[:, None]
    ),
    "more users than antennas": lambda make: make(transmit_antennas=3, receive_antennas=2),
    "one user, one antenna": lambda make: make(
        downlink_users=1, uplink_users=1, transmit_antennas=1, receive_antennas=1
    ),
}


def actions(size: int, batch: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    uniform = 2 * torch.rand(batch, size, generator=generator) - 1
    return {
        "uniform": uniform,
        "corners": uniform.sign(),
        "zero": torch.zeros(batch, size),
        "lowest": -torch.ones(batch, size),
        "highest": torch.ones(batch, size),
        "beyond the limits": 1e3 * uniform,
        "far beyond the limits": 1e30 * uniform,
    }


def total_power(precoder: Tensor) -> Tensor:
    return precoder.abs().square().sum((-2, -1))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("cell", CELLS)
def test_power_limits_hold_for_every_action(make_channels, name, cell):
    channels = CELLS[cell](make_channels)
    head = named(name, channels.transmit_antennas)
    for kind, action in actions(head.layout.size(channels)).items():
        precoder, power = head.decode(channels, action)
        assert precoder.shape == (16, channels.transmit_antennas, channels.downlink_users)
        assert power.shape == (16, channels.uplink_users)
        assert (total_power(precoder) <= 1 + 1e-5).all(), kind
        assert ((power >= 0) & (power <= 1)).all(), kind
        assert torch.isfinite(link_rates(channels, precoder, power)).all(), kind


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_finite_for_every_action(make_channels, name, cell):
    channels = CELLS[cell](make_channels)
    head = named(name, channels.transmit_antennas)
    for kind, action in actions(head.layout.size(channels)).items():
        action = action.requires_grad_()
        link_rates(channels, *head.decode(channels, action)).sum().backward()
        assert torch.isfinite(action.grad).all(), kind


@pytest.mark.parametrize("name", HEADS)
def test_every_number_of_an_action_matters(channels, name):
    head = named(name, 8)
    action = actions(head.layout.size(channels))["uniform"].requires_grad_()
    link_rates(channels, *head.decode(channels, action)).sum().backward()
    assert (action.grad.abs().amax(0) > 0).all()


def test_sizes(make_channels):
    assert StructuredHead().layout.size(make_channels()) == 20
    assert BeamformingHead(8).layout.size(make_channels()) == 100
    large = make_channels(1, downlink_users=9, uplink_users=2, transmit_antennas=16)
    assert StructuredHead().layout.size(large) == 22
    assert BeamformingHead(16).layout.size(large) == 2 * 16 * 9 + 2


def test_layout_gives_every_user_its_own_numbers():
    layout, action = ActionLayout(down=3, up=1), torch.arange(2.0 * 5 * 10).reshape(2, 5, 10)
    down, up = layout.split(action, downlink_users=2)
    assert down[0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert up[0, 0].tolist() == [[6], [7], [8], [9]]


def test_structured_beams_are_the_formula(channels):
    """w_j from the explicit inverse in double; lambda and nu on the log scale of their ranges."""
    head, action = StructuredHead(), actions(20)["uniform"].double()
    precoder, _ = head.decode(channels.double(), action)
    per_user = action.unflatten(-1, (10, 2))

    def on_log_scale(number: Tensor, low: float, high: float) -> Tensor:
        return 10 ** (low + (number + 1) / 2 * (high - low))

    lambdas = on_log_scale(per_user[:, :6, 0], *head.lambda_range)
    nus = on_log_scale(per_user[:, 6:, 1], *head.nu_range)
    for b in range(4):
        g, h = channels.downlink[b].to(torch.complex128), channels.uplink[b].to(torch.complex128)
        h_s = channels.self_interference[b].to(torch.complex128)
        matrix = torch.eye(8, dtype=torch.complex128)
        for lam, beam in zip(lambdas[b], g, strict=True):
            matrix = matrix + lam / beam.abs().square().sum() * torch.outer(beam, beam.conj())
        combiners = torch.linalg.solve(torch.eye(8) + h.mT @ h.conj(), h.mT)  # without self-interference
        for nu, v in zip(nus[b], combiners.mT, strict=True):
            leak = h_s.mH @ v
            matrix = matrix + nu / leak.abs().square().sum() * torch.outer(leak, leak.conj())
        beams = torch.linalg.inv(matrix) @ g.mT
        shares = torch.softmax(head.share_range * per_user[b, :6, 1], dim=0)
        expected = beams / beams.abs().square().sum(0).sqrt() * shares.sqrt()
        torch.testing.assert_close(precoder[b], expected, atol=1e-6, rtol=0)


def test_structured_uplink_power_rises_with_its_number_from_faint_to_full(channels):
    action = torch.zeros(16, 10, 2)
    action[:, :, 0] = torch.linspace(-1, 1, 16)[:, None]
    _, power = StructuredHead().decode(channels, action.flatten(1))
    assert (power.diff(dim=0) >= 0).all()
    assert (power[0] < 0.05).all()
    assert (power[-1] > 0.99).all()


def test_switched_uplink_power_is_zero_at_the_low_end_full_at_the_high_one_and_elsewhere_nearly_the_structured_one(
    channels,
):
    action = torch.zeros(16, 10, 2)
    action[:, :, 0] = torch.linspace(-1, 1, 16)[:, None]
    _, power = SwitchingHead().decode(channels, action.flatten(1))
    _, structured = StructuredHead().decode(channels, action.flatten(1))
    assert (power[0] == 0).all()
    assert (power[-1] == 1).all()
    assert (power.diff(dim=0) > 0).all()
    assert (power - structured).abs().max() < 0.02


def test_switched_off_users_leave_the_others_their_interference_free_rates(make_channels):
    """Beyond the antennas' degrees of freedom a floor of power, however small, would be heard."""
    channels = make_channels(8, downlink_users=1, uplink_users=12)
    action = torch.ones(8, 13, 2)
    action[:, 4:, 0] = -1
    alone = dataclasses.replace(channels, uplink=channels.uplink[:, :3], cross=channels.cross[:, :3])
    rates = link_rates(channels, *SwitchingHead().decode(channels, action.flatten(1)))
    heard = link_rates(channels, *StructuredHead().decode(channels, action.flatten(1)))
    precoder, power = SwitchingHead().decode(channels, action.flatten(1))
    expected = link_rates(alone, precoder, power[:, :3])
    # 60 dB between signal and noise make 0.01 bit/s/Hz of what single precision rounds
    torch.testing.assert_close(rates[:, :4], expected, atol=0.02, rtol=0)
    assert (heard[:, 1:4].sum(-1) < 0.8 * expected[:, 1:4].sum(-1)).all()


def test_switched_shares_are_zero_at_the_low_end_and_add_up_to_one(channels):
    action = torch.zeros(16, 10, 2)
    action[:, 1:6, 1] = torch.linspace(-1, 1, 5)
    action[8:, :6, 1] = -1
    precoder, _ = SwitchingHead().decode(channels, action.flatten(1))
    power = precoder.abs().square().sum(-2)
    assert (power[:8, 1] < 1e-19).all()
    assert (power[:8, 2:].diff(dim=-1) > 0).all()
    torch.testing.assert_close(power[:8].sum(-1), torch.ones(8))
    assert (power[8:] < 1e-19).all()  # no share of nothing: the whole downlink is silent


def test_a_second_pass_spares_the_combiners_of_the_first_beams(channels):
    """In double, from the formula: v_k of the first pass's beams and powers, then the same numbers again."""
    exact, action = channels.double(), actions(20)["uniform"].double()
    first, power = StructuredHead().decode(exact, action)
    strength, shares, _ = StructuredHead().read(action, 6)
    second, power_again = StructuredHead(passes=2).decode(exact, action)
    assert torch.equal(power_again, power)
    for b in range(4):
        g, h, h_s = exact.downlink[b].mT, exact.uplink[b].mT, exact.self_interference[b]
        heard = h_s @ first[b]
        covariance = torch.eye(8) + heard @ heard.mH + (h * power[b]) @ h.mH
        leak = h_s.mH @ torch.linalg.inv(covariance) @ h
        directions = torch.cat([g, leak], dim=-1)
        directions = directions / directions.abs().square().sum(0).sqrt()
        beams = torch.linalg.inv(torch.eye(8) + (directions * strength[b]) @ directions.mH) @ g
        expected = beams / beams.abs().square().sum(0).sqrt() * shares[b].sqrt()
        torch.testing.assert_close(second[b], expected, atol=1e-6, rtol=0)


def test_passes_change_nothing_without_self_interference(channels):
    quiet = dataclasses.replace(channels, self_interference=torch.zeros_like(channels.self_interference))
    action = actions(20)["uniform"]
    once, thrice = (StructuredHead(passes).decode(quiet, action)[0] for passes in (1, 3))
    torch.testing.assert_close(thrice, once, atol=1e-6, rtol=0)


def test_structured_beams_spend_the_whole_power(channels):
    for kind, action in actions(20).items():
        precoder, _ = StructuredHead().decode(channels, action)
        torch.testing.assert_close(total_power(precoder), torch.ones(16), atol=1e-5, rtol=0, msg=kind)


def test_structured_head_spans_matched_filter_and_zero_forcing(channels):
    """A small lambda matches the channel, a large one nulls the interference at the other users."""
    quiet = dataclasses.replace(channels, self_interference=torch.zeros_like(channels.self_interference))
    action = torch.zeros(16, 10, 2)

    def alignment(reference: Tensor) -> Tensor:
        beams, _ = StructuredHead().decode(quiet, action.flatten(1))
        inner = (reference.conj() * beams).sum(-2).abs()
        return inner / reference.abs().square().sum(-2).sqrt() / beams.abs().square().sum(-2).sqrt()

    matched, nulled = quiet.downlink.mT, zf(quiet)
    action[:, :6, 0] = -1
    low = alignment(matched), alignment(nulled)
    action[:, :6, 0] = 1
    high = alignment(matched), alignment(nulled)
    assert low[0].min() > 0.98
    assert high[1].min() > 0.99
    assert low[1].mean() < 0.9
    assert high[0].mean() < 0.9


def test_nu_keeps_the_beams_off_an_uplink_user(channels):
    """Raising one uplink user's nu lowers what self-interference puts on that user's combiner."""
    action = torch.zeros(16, 10, 2)
    action[:, :6, 0] = -1
    leakage = []
    for level in (-1.0, 0.0, 1.0):
        action[:, 7, 1] = level
        beams, _ = StructuredHead().decode(channels, action.flatten(1))
        heard = uplink_combiners(channels).mH @ channels.self_interference @ beams
        leakage.append(heard[:, 1].abs().square().sum(-1))
    assert (leakage[1] < leakage[0]).all()
    assert (leakage[2] < leakage[1]).all()
    assert (leakage[2] < 1e-3 * leakage[0]).all()


@pytest.mark.parametrize("name", HEADS)
def test_decision_follows_the_order_of_users(channels, name):
    head, double = named(name, 8), channels.double()
    action = actions(head.layout.size(channels))["uniform"].double()
    down, up = [4, 2, 0, 5, 1, 3], [3, 1, 0, 2]
    parts = head.layout.split(action, downlink_users=6)
    permuted = torch.cat([part[:, order].flatten(1) for part, order in zip(parts, (down, up), strict=True)], dim=1)
    precoder, power = head.decode(double, action)
    again, power_again = head.decode(double.permute_users(down, up), permuted)
    torch.testing.assert_close(again, precoder[..., down], atol=1e-8, rtol=0)
    torch.testing.assert_close(power_again, power[:, up])


@pytest.mark.parametrize("kind", ["uniform", "corners", "highest"])
def test_structured_head_is_as_exact_for_single_precision_channels_as_for_double(channels, kind):
    """Its system reaches a condition of lambda and nu at the top of their ranges, far beyond single precision."""
    rates, gradients = [], []
    for cell, action in ((channels, actions(20)[kind]), (channels.double(), actions(20)[kind].double())):
        action = (0.999 * action).requires_grad_()
        rates.append(link_rates(cell, *StructuredHead().decode(cell, action)))
        rates[-1].sum().backward()
        gradients.append(action.grad)
    assert rates[0].dtype == torch.float32
    torch.testing.assert_close(rates[0].double(), rates[1], atol=1e-3, rtol=0)
    assert (gradients[0] - gradients[1]).norm() < 1e-3 * gradients[1].norm()


def test_beamforming_numbers_inside_the_power_ball_are_the_precoder(channels):
    head, wanted = BeamformingHead(8), torch.zeros(16, 8, 6, dtype=torch.complex64)
    wanted[:, 3, 1], wanted[:, 7, 5] = 0.5 - 0.25j, -0.5j
    numbers = torch.view_as_real(wanted.mT.contiguous()).flatten(1)
    precoder, power = head.decode(channels, torch.cat([numbers, torch.tensor([-1.0, -0.5, 0, 1]).expand(16, 4)], -1))
    assert torch.equal(precoder, wanted)
    torch.testing.assert_close(power, torch.tensor([0.0, 0.25, 0.5, 1]).expand(16, 4))


def test_beamforming_numbers_outside_the_power_ball_keep_their_direction(channels):
    action = actions(100)["uniform"]
    precoder, _ = BeamformingHead(8).decode(channels, action)
    numbers = torch.view_as_real(precoder.mT.contiguous()).flatten(1)
    torch.testing.assert_close(total_power(precoder), torch.ones(16))
    torch.testing.assert_close(torch.cosine_similarity(numbers, action[:, :96]), torch.ones(16))


def test_uplink_user_at_zero_power_is_pulled_up_when_nothing_speaks_against_it(channels):
    """At exactly zero power the gradient is that of the rate, not an artefact of the square root."""
    apart = dataclasses.replace(channels, cross=torch.zeros_like(channels.cross))
    action = torch.zeros(16, 100)
    action[:, 96:] = -1
    action.requires_grad_()
    link_rates(apart, *BeamformingHead(8).decode(apart, action)).sum().backward()
    assert (action.grad[:, 96:] > 0).all()


def test_combiners_are_the_mmse_receivers_without_self_interference(channels):
    h = channels.uplink.to(torch.complex128).mT
    q = torch.eye(8) + h @ h.mH
    expected = torch.linalg.inv(q) @ h
    expected = expected / expected.abs().square().sum(-2, keepdim=True).sqrt()
    torch.testing.assert_close(uplink_combiners(channels).to(torch.complex128), expected, atol=1e-6, rtol=0)


def test_leakage_directions_are_unit_vectors_or_zero(channels):
    norms = leakage_directions(channels).abs().square().sum(-2)
    torch.testing.assert_close(norms, torch.ones(16, 4))
    quiet = dataclasses.replace(channels, self_interference=torch.zeros_like(channels.self_interference))
    assert leakage_directions(quiet).abs().max() == 0


@pytest.mark.parametrize("cell", CELLS)
def test_the_basis_holds_where_users_hear_and_where_self_interference_reaches(make_channels, cell):
    channels = CELLS[cell](make_channels)
    basis, exact = beam_basis(channels), channels.double()
    assert basis.shape == (16, channels.transmit_antennas, channels.links)
    assert basis.dtype == torch.complex128
    combiners = uplink_combiners(exact)
    for b in (0, 7):
        vectors = [exact.downlink[b, j] for j in range(channels.downlink_users)]
        leaks = [exact.self_interference[b].mH @ combiners[b, :, k] for k in range(channels.uplink_users)]
        for i, vector in enumerate([*vectors, *leaks]):
            length = vector.abs().square().sum().sqrt()
            expected = vector / length if length > 0 else vector
            torch.testing.assert_close(basis[b, :, i], expected, rtol=0, atol=1e-9)


def test_combiners_at_hand_save_their_inverse(channels):
    exact = channels.double()
    given = beam_basis(exact, uplink_combiners(exact))
    assert torch.equal(given, beam_basis(exact))
    other = beam_basis(channels, uplink_combiners(channels))  # rounded to single precision
    assert other.dtype == torch.complex128
    torch.testing.assert_close(other, given, rtol=0, atol=1e-5)
    turned = beam_basis(exact, uplink_combiners(exact).flip(-1))
    torch.testing.assert_close(turned[..., 6:], given[..., 6:].flip(-1))
    assert torch.equal(turned[..., :6], given[..., :6])


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("kind", ["uniform", "corners", "highest"])
def test_a_basis_at_hand_gives_the_same_decision(channels, name, kind):
    """Also when it was kept in single precision, as an observation does."""
    head = named(name, 8)
    action = actions(head.layout.size(channels))[kind]
    rates = link_rates(channels, *head.decode(channels, action))
    basis = beam_basis(channels)
    for given, tolerance in ((basis, 1e-5), (basis.to(channels.downlink.dtype), 5e-3)):
        precoder, power = head.decode(channels, action, given)
        assert precoder.dtype == channels.downlink.dtype
        torch.testing.assert_close(link_rates(channels, precoder, power), rates, rtol=0, atol=tolerance)


def test_beams_are_made_of_the_basis_that_is_given(channels):
    action = actions(20)["uniform"]
    first, second = (
        StructuredHead().decode(channels, action, beam_basis(c))[0]
        for c in (channels, channels[torch.arange(15, -1, -1)])
    )
    assert (first - second).abs().max() > 0.1


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("wrong", [lambda a: a[:, :-1], lambda a: a[:1], lambda a: a[0], lambda a: a.repeat(1, 2)])
def test_an_action_that_does_not_fit_is_refused_with_its_shape(channels, name, wrong):
    head = named(name, 8)
    with pytest.raises(ValueError, match=r"action \(.* does not fit .*\(16, "):
        head.decode(channels, wrong(torch.zeros(16, head.layout.size(channels))))


def test_an_unknown_head_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match="'strutured' is unknown; choose structured, switching, settling or beamforming"
    ):
        make_head("strutured", 8)


def test_the_executed_numbers_are_those_of_the_precoder_and_no_length_beyond_the_limit_changes_them(channels):
    head = make_head("beamforming", channels.transmit_antennas)
    size = head.layout.size(channels)
    action = 2 * torch.rand(channels.batch, size, generator=torch.Generator().manual_seed(0)) - 1
    seen = head.executed(action, channels.downlink_users)
    precoder, _ = head.decode(channels, action)
    beams = seen[:, : -channels.uplink_users]
    rebuilt = torch.view_as_complex(beams.unflatten(-1, (channels.downlink_users, -1, 2)).contiguous()).mT
    torch.testing.assert_close(rebuilt / beams.shape[-1] ** 0.5, precoder)
    assert torch.equal(seen[:, -channels.uplink_users :], action[:, -channels.uplink_users :])
    longer = torch.cat([0.7 * action[:, : beams.shape[-1]], action[:, beams.shape[-1] :]], dim=-1)
    torch.testing.assert_close(head.executed(longer, channels.downlink_users), seen)


def test_more_settling_brings_higher_rates(make_channels):
    channels = make_channels(batch=64)
    action = torch.rand(64, 20, generator=torch.Generator().manual_seed(0)) - 0.5
    rates = [
        link_rates(channels, *make_head("settling", 8, passes).decode(channels, action)).sum(-1).mean()
        for passes in (1, 4, 16)
    ]
    assert rates[0] + 1 < rates[1]
    assert rates[1] < rates[2]


def test_a_settled_decision_is_of_the_priorities_asked_for(channels):
    head, action = make_head("settling", 8, 8), torch.zeros(channels.batch, 20)
    found = []
    for weight in (0.0, 0.1, 1.0, 10.0):
        weights = torch.ones(channels.batch, channels.links)
        weights[:, :6] = weight
        precoder, power = head.decode(channels, action, weights=weights)
        found.append(link_rates(channels, precoder, power)[:, :6].sum(-1).mean())
    assert found[0] < 1e-3
    assert found[0] < found[1] < found[2] < found[3]
