"""Closed-form precoders against their formulas and limits."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from d2rl.wireless import ChannelState, full_uplink_power, link_rates, mrt, random_decision, rzf, zf

PRECODERS = {"mrt": mrt, "zf": zf, "rzf": rzf}


def column_power(precoder: Tensor) -> Tensor:
    return precoder.abs().square().sum(-2)


def received(channels: ChannelState, precoder: Tensor) -> Tensor:
    """|g_j^H w_l|^2 in double, [B, K_D, K_D]."""
    return (channels.downlink.to(torch.complex128).conj() @ precoder.to(torch.complex128)).abs().square()


def interference(channels: ChannelState, precoder: Tensor) -> Tensor:
    power = received(channels, precoder)
    return power - torch.diag_embed(power.diagonal(dim1=-2, dim2=-1))


@pytest.mark.parametrize("name", PRECODERS)
@pytest.mark.parametrize("sizes", [{}, {"downlink_users": 1}, {"transmit_antennas": 3}, {"transmit_antennas": 64}])
def test_power_is_one_and_equal_between_users(make_channels, name, sizes):
    channels = make_channels(**sizes)
    power = column_power(PRECODERS[name](channels))
    torch.testing.assert_close(power, torch.full_like(power, 1 / channels.downlink_users))


@pytest.mark.parametrize("name", PRECODERS)
def test_strength_of_the_channels_does_not_upset_the_power(make_channels, name):
    for factor in (1e-6, 1e4):
        channels = make_channels().map(lambda tensor, factor=factor: factor * tensor)
        torch.testing.assert_close(column_power(PRECODERS[name](channels)).sum(-1), torch.ones(16))


@pytest.mark.parametrize("name", PRECODERS)
def test_a_user_without_channel_gets_no_beam_and_spoils_nothing(channels, name):
    silent = channels.downlink.clone()
    silent[:, 2] = 0
    precoder = PRECODERS[name](dataclasses.replace(channels, downlink=silent))
    assert torch.isfinite(torch.view_as_real(precoder)).all()
    assert precoder[..., 2].abs().max() == 0
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(column_power(precoder)[:, others], torch.full((16, 5), 1 / 6))


@pytest.mark.parametrize("name", PRECODERS)
def test_users_at_one_spot_give_a_finite_precoder(channels, name):
    together = dataclasses.replace(channels, downlink=channels.downlink[:, :1].expand(-1, 6, -1).contiguous())
    precoder = PRECODERS[name](together)
    assert torch.isfinite(link_rates(together, precoder, full_uplink_power(together))).all()
    assert (column_power(precoder).sum(-1) <= 1 + 1e-5).all()


def test_mrt_points_at_each_user(channels):
    g = channels.downlink.mT
    torch.testing.assert_close(mrt(channels), g / g.abs().square().sum(-2, keepdim=True).sqrt() / 6**0.5)


@pytest.mark.parametrize("users", [1, 6, 8])
def test_zf_nulls_the_interference_while_there_are_antennas_for_it(make_channels, users):
    channels = make_channels(downlink_users=users)
    assert interference(channels, zf(channels)).max() < 1e-3  # noise is 1
    if users > 1:
        assert interference(channels, mrt(channels)).mean() > 10


@pytest.mark.parametrize("decibel", [60, 120])
def test_zf_nulls_the_interference_between_users_far_apart(make_channels, decibel):
    channels = make_channels()
    steps = torch.logspace(1, 1 - decibel / 20, 6)[:, None]
    channels = dataclasses.replace(channels, downlink=channels.downlink * steps)
    precoder = zf(channels)
    relative = interference(channels, precoder).sum(-1) / received(channels, precoder).diagonal(dim1=-2, dim2=-1)
    assert relative.max() < 1e-6


def test_zf_of_more_users_than_antennas_is_the_least_squares_precoder(make_channels):
    channels = make_channels(transmit_antennas=3)
    g = channels.downlink.to(torch.complex128)
    pseudo_inverse = torch.linalg.inv(g.mT @ g.conj()) @ g.mT  # (G^H G)^-1 G^H with G = conj(g)
    expected = pseudo_inverse / pseudo_inverse.abs().square().sum(-2, keepdim=True).sqrt() / 6**0.5
    torch.testing.assert_close(zf(channels).to(torch.complex128), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [{}, {"transmit_antennas": 3}, {"path_loss": "nlos"}])
def test_rzf_is_its_closed_form(make_channels, sizes):
    channels = make_channels(**sizes)
    g = channels.downlink.to(torch.complex128).mT
    system = 6 * torch.eye(channels.transmit_antennas) + g @ g.mH
    expected = torch.linalg.inv(system) @ g
    expected = expected / expected.abs().square().sum(-2, keepdim=True).sqrt() / 6**0.5
    torch.testing.assert_close(rzf(channels).to(torch.complex128), expected, atol=1e-5, rtol=0)


def test_rzf_is_mrt_in_noise_and_zf_without(channels):
    faint, loud = (channels.map(lambda tensor, f=factor: f * tensor) for factor in (1e-5, 1e4))
    torch.testing.assert_close(rzf(faint), mrt(faint), atol=1e-4, rtol=0)
    torch.testing.assert_close(rzf(loud), zf(loud), atol=1e-4, rtol=0)
    assert (rzf(channels) - mrt(channels)).abs().max() > 0.05


def test_rzf_serves_the_downlink_best_of_the_three(make_channels):
    channels = make_channels(64)
    silent = torch.zeros(64, 4)
    rate = {name: link_rates(channels, f(channels), silent)[:, :6].sum(-1).mean() for name, f in PRECODERS.items()}
    assert rate["rzf"] > rate["zf"] > rate["mrt"]


def test_precoders_follow_the_order_of_users(channels):
    down = [4, 2, 0, 5, 1, 3]
    for name, precoder in PRECODERS.items():
        permuted = precoder(channels.permute_users(down, range(4)))
        torch.testing.assert_close(permuted, precoder(channels)[..., down], atol=1e-5, rtol=0, msg=name)


def test_full_uplink_power_is_one_everywhere(channels):
    assert torch.equal(full_uplink_power(channels), torch.ones(16, 4))


def test_random_decisions_are_isotropic_with_uniform_power(make_channels, generator):
    channels = make_channels(2000)
    precoder, power = random_decision(channels, generator)
    torch.testing.assert_close(precoder.abs().square().sum((-2, -1)), torch.ones(2000))
    covariance = (precoder @ precoder.mH).mean(0)
    torch.testing.assert_close(covariance, torch.eye(8, dtype=torch.complex64) / 8, atol=0.01, rtol=0)
    assert power.min() >= 0
    assert power.max() <= 1
    assert power.mean().item() == pytest.approx(1 / 2, abs=0.02)
    assert power.var().item() == pytest.approx(1 / 12, abs=0.005)


def test_random_decisions_come_from_the_given_generator_alone(channels):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = random_decision(channels, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = random_decision(channels, torch.Generator().manual_seed(5))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
