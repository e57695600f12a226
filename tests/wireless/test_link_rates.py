"""Link rates against the SINR formulas, their limits, invariances and gradients."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from d2rl.wireless import ChannelState, full_uplink_power, link_rates, random_decision, rzf
from d2rl.wireless.link_powers import link_powers


def formula_powers(channels: ChannelState, precoder: Tensor, uplink_power: Tensor) -> tuple[Tensor, Tensor]:
    """Signal, and interference plus noise, in float64, user by user, with the inverse of Q without user k written out.

    An uplink user's second part is ||h||^2 / (h^H Q^-1 h): its own power has no say in it.
    """
    g, h, f, h_s = (tensor.to(torch.complex128).numpy() for tensor in channels.tensors().values())
    w, p = precoder.to(torch.complex128).numpy(), uplink_power.double().numpy()
    signal, disturbance = np.zeros((2, channels.batch, channels.links))
    for b in range(channels.batch):
        for j in range(channels.downlink_users):
            heard = 1.0
            for other in range(channels.downlink_users):
                if other != j:
                    heard += abs(np.vdot(g[b, j], w[b, :, other])) ** 2
            for k in range(channels.uplink_users):
                heard += p[b, k] * abs(f[b, k, j]) ** 2
            signal[b, j], disturbance[b, j] = abs(np.vdot(g[b, j], w[b, :, j])) ** 2, heard
        leakage = h_s[b] @ w[b]
        for k in range(channels.uplink_users):
            q = np.eye(channels.receive_antennas) + leakage @ leakage.conj().T
            for i in range(channels.uplink_users):
                if i != k:
                    q = q + p[b, i] * np.outer(h[b, i], h[b, i].conj())
            link, gain = channels.downlink_users + k, np.linalg.norm(h[b, k]) ** 2
            signal[b, link] = p[b, k] * gain
            disturbance[b, link] = gain / (h[b, k].conj() @ np.linalg.inv(q) @ h[b, k]).real if gain else 1.0
    return torch.from_numpy(signal), torch.from_numpy(disturbance)


def formula_rates(channels: ChannelState, precoder: Tensor, uplink_power: Tensor) -> Tensor:
    """The rates of these powers."""
    signal, disturbance = formula_powers(channels, precoder, uplink_power)
    return torch.log2(1 + signal / disturbance)


def zeroed(channels: ChannelState, *names: str) -> ChannelState:
    return dataclasses.replace(channels, **{name: torch.zeros_like(getattr(channels, name)) for name in names})


def spread(channels: ChannelState, decibel: float) -> ChannelState:
    """Gains that fall by ``decibel`` from the first downlink user to the last, and rise over the uplink."""
    steps = decibel / 20
    return dataclasses.replace(
        channels,
        downlink=channels.downlink * torch.logspace(0, -steps, channels.downlink_users)[:, None],
        uplink=channels.uplink * torch.logspace(-steps, 0, channels.uplink_users)[:, None],
    )


SCENARIOS = {
    "default": lambda make: make(),
    "non line of sight": lambda make: make(path_loss="nlos"),
    "no isolation, SI 0 dB": lambda make: make(self_interference=0.0),
    "SI -130 dB": lambda make: make(self_interference=-130.0),
    "60 dB between users": lambda make: spread(make(), 60.0),
    "60 dB between users, SI -40 dB": lambda make: spread(make(self_interference=-40.0), 60.0),
    "20 dB more on every link": lambda make: make().map(lambda tensor: 10 * tensor),
    "no cross gain": lambda make: zeroed(make(), "cross"),
    "no self-interference": lambda make: zeroed(make(), "self_interference"),
    "downlink gains 0": lambda make: zeroed(make(), "downlink"),
    "uplink gains 0": lambda make: zeroed(make(), "uplink"),
    "all gains 0": lambda make: zeroed(make(), "downlink", "uplink", "cross", "self_interference"),
    "more users than antennas": lambda make: make(transmit_antennas=3, receive_antennas=2),
    "no two sizes alike": lambda make: make(downlink_users=3, uplink_users=5, transmit_antennas=4, receive_antennas=2),
    "one user, one antenna": lambda make: make(
        downlink_users=1, uplink_users=1, transmit_antennas=1, receive_antennas=1
    ),
}


DECISIONS = ["rzf", "random", "faint", "silent uplink", "silent downlink"]


def decide(decision: str, channels: ChannelState, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    precoder, power = random_decision(channels, generator)
    if decision == "rzf":
        precoder, power = rzf(channels), full_uplink_power(channels)
    elif decision == "faint":
        precoder, power = 1e-4 * precoder, 1e-6 * power
    elif decision == "silent uplink":
        power = torch.zeros_like(power)
    elif decision == "silent downlink":
        precoder = torch.zeros_like(precoder)
    return precoder, power


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("decision", DECISIONS)
def test_rates_are_the_sinr_formulas(make_channels, scenario, decision, generator):
    channels = SCENARIOS[scenario](make_channels)
    precoder, power = decide(decision, channels, generator)
    expected = formula_rates(channels, precoder, power)
    torch.testing.assert_close(link_rates(channels, precoder, power).double(), expected, atol=1e-4, rtol=0)


def test_one_user_and_one_antenna_gives_the_shannon_rate(make_channels):
    alone = make_channels(downlink_users=1, uplink_users=1, transmit_antennas=1, receive_antennas=1)
    alone = zeroed(alone, "cross", "self_interference")
    phase = torch.polar(torch.ones(16), torch.linspace(0, 6, 16))
    power = torch.linspace(0, 1, 16)
    rates = link_rates(alone, (power.sqrt() * phase)[:, None, None], power[:, None])
    snr = torch.stack([alone.downlink[:, 0, 0], alone.uplink[:, 0, 0]], dim=-1).abs().square() * power[:, None]
    torch.testing.assert_close(rates, torch.log2(1 + snr), atol=1e-4, rtol=1e-5)


def test_without_self_interference_the_uplink_does_not_see_the_downlink(channels, generator):
    precoder, power = random_decision(channels, generator)
    half_duplex = link_rates(channels, torch.zeros_like(precoder), power)[:, 6:]
    distances = []
    for attenuation in (1.0, 1e-2, 1e-4, 1e-6):
        quieter = dataclasses.replace(channels, self_interference=attenuation * channels.self_interference)
        loss = half_duplex - link_rates(quieter, precoder, power)[:, 6:]
        assert loss.min() > -1e-4
        distances.append(loss.max().item())
    assert distances[0] > 1
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-4


def test_without_cross_gain_the_downlink_does_not_see_the_uplink(channels, generator):
    precoder, power = random_decision(channels, generator)
    half_duplex = link_rates(channels, precoder, torch.zeros_like(power))[:, :6]
    assert (half_duplex - link_rates(channels, precoder, power)[:, :6]).max() > 0.1
    apart = link_rates(zeroed(channels, "cross"), precoder, power)[:, :6]
    torch.testing.assert_close(apart, half_duplex, atol=1e-5, rtol=0)


def test_sum_of_uplink_rates_stays_below_the_multiple_access_capacity(channels, generator):
    precoder, power = random_decision(channels, generator)
    leakage = (channels.self_interference @ precoder).to(torch.complex128)
    noise = torch.eye(8) + leakage @ leakage.mH

    def capacity(power: Tensor) -> Tensor:
        streams = channels.uplink.to(torch.complex128).mT * power.sqrt().unsqueeze(-2)
        return (torch.logdet(noise + streams @ streams.mH) - torch.logdet(noise)).real / np.log(2)

    assert (link_rates(channels, precoder, power)[:, 6:].sum(-1) < capacity(power)).all()
    alone = power * torch.tensor([0.0, 0.0, 1.0, 0.0])  # a single stream reaches it
    reached = link_rates(channels, precoder, alone)[:, 8].double()
    torch.testing.assert_close(reached, capacity(alone), atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_rates_follow_the_order_of_users(channels, seed):
    order = torch.Generator().manual_seed(seed)
    down, up = torch.randperm(6, generator=order).tolist(), torch.randperm(4, generator=order).tolist()
    precoder, power = random_decision(channels, order)
    rates = link_rates(channels, precoder, power)
    permuted = link_rates(channels.permute_users(down, up), precoder[..., down], power[:, up])
    torch.testing.assert_close(permuted, rates[:, [*down, *(6 + k for k in up)]], atol=1e-4, rtol=0)


def test_rates_do_not_depend_on_the_basis_of_the_antennas(channels, generator):
    precoder, power = random_decision(channels, generator)
    u, v = (torch.linalg.qr(torch.randn(8, 8, dtype=torch.complex64, generator=generator))[0] for _ in range(2))
    turned = ChannelState(
        downlink=channels.downlink @ v.mT,
        uplink=channels.uplink @ u.mT,
        cross=channels.cross * 1j,
        self_interference=u @ channels.self_interference @ v.mH,
    )
    phases = torch.polar(torch.ones(6), torch.arange(6.0))
    rates = link_rates(turned, v @ precoder * phases, power)
    torch.testing.assert_close(rates, link_rates(channels, precoder, power), atol=1e-3, rtol=0)


def test_a_state_is_rated_alone(channels, generator):
    precoder, power = random_decision(channels, generator)
    rates = link_rates(channels, precoder, power)
    single = torch.cat([link_rates(channels[i : i + 1], precoder[i : i + 1], power[i : i + 1]) for i in range(16)])
    torch.testing.assert_close(single, rates, atol=1e-5, rtol=0)


def test_rates_keep_the_precision_of_the_channels(channels, generator):
    precoder, power = random_decision(channels, generator)
    assert link_rates(channels, precoder, power).dtype == torch.float32
    double = link_rates(channels.double(), precoder.to(torch.complex128), power.double())
    torch.testing.assert_close(double, formula_rates(channels, precoder, power), atol=1e-9, rtol=0)


def test_gradient_is_that_of_finite_differences(make_channels, generator):
    channels = make_channels(2, downlink_users=2, uplink_users=2, transmit_antennas=2, receive_antennas=2).double()
    precoder, power = random_decision(channels, generator)
    precoder, power = precoder.requires_grad_(), power.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda w, p: link_rates(channels, w, p), (precoder, power), atol=1e-4)


def test_gradient_of_a_silent_user_says_what_it_would_gain(channels):
    power = torch.zeros(16, 4, requires_grad=True)
    precoder = rzf(channels)
    link_rates(channels, precoder, power)[:, 6:].sum().backward()
    leakage = (channels.self_interference @ precoder).to(torch.complex128)
    q = torch.eye(8) + leakage @ leakage.mH
    h = channels.uplink.to(torch.complex128).mT
    expected = (h.conj() * torch.linalg.solve(q, h)).sum(-2).real / np.log(2)
    torch.testing.assert_close(power.grad.double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("scenario", ["default", "no isolation, SI 0 dB", "all gains 0", "60 dB between users"])
@pytest.mark.parametrize("level", [0.0, 1e-30, 1.0])
def test_gradients_are_finite(make_channels, scenario, level, generator):
    channels = SCENARIOS[scenario](make_channels)
    beams, power = random_decision(channels, generator)
    precoder, power = (level * beams).requires_grad_(), (level * power).requires_grad_()
    link_rates(channels, precoder, power).sum().backward()
    assert torch.isfinite(precoder.grad).all()
    assert torch.isfinite(power.grad).all()


@pytest.mark.parametrize(
    ("precoder", "power"),
    [((16, 6, 8), (16, 4)), ((16, 8, 6), (16, 6)), ((15, 8, 6), (15, 4)), ((8, 6), (4,)), ((16, 8, 6), (1, 4))],
)
def test_shapes_that_do_not_fit_are_refused_with_both_shapes(channels, precoder, power):
    decision = torch.zeros(precoder, dtype=torch.complex64), torch.zeros(power)
    with pytest.raises(ValueError, match=r"precoder .* and uplink_power .* do not fit") as refusal:
        link_rates(channels, *decision)
    assert str(precoder) in str(refusal.value)
    assert str(power) in str(refusal.value)
    assert "(16, 8, 6)" in str(refusal.value)


# ------------------------------------------------------------------ powers


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("decision", DECISIONS)
def test_powers_are_their_formulas(make_channels, scenario, decision, generator):
    """Of a silent uplink user too: what it would have to overcome."""
    channels = SCENARIOS[scenario](make_channels)
    precoder, power = decide(decision, channels, generator)
    signal, disturbance = link_powers(channels, precoder, power)
    wanted, unwanted = formula_powers(channels, precoder, power)
    torch.testing.assert_close(signal.double(), wanted, rtol=1e-4, atol=1e-12)
    tolerance = 0.03 if decision == "silent uplink" else 1e-3
    torch.testing.assert_close(disturbance.double(), unwanted, rtol=tolerance, atol=0)
    assert (disturbance >= 1).all()


@pytest.mark.parametrize("scenario", ["default", "non line of sight", "no isolation, SI 0 dB", "60 dB between users"])
def test_signal_over_interference_and_noise_gives_the_rate_of_every_link(make_channels, scenario, generator):
    channels = SCENARIOS[scenario](make_channels)
    precoder, power = random_decision(channels, generator)
    power[0] = 0
    precoder[1] = 0
    signal, disturbance = link_powers(channels, precoder, power)
    rates = link_rates(channels, precoder, power)
    torch.testing.assert_close(torch.log2(1 + signal / disturbance), rates, rtol=1e-4, atol=1e-4)
    assert rates.std() > 0.5


def test_what_an_uplink_user_has_to_overcome_does_not_change_with_its_own_power(channels, generator):
    precoder, power = random_decision(channels, generator)
    before = link_powers(channels, precoder, power)[1]
    for own in (0.0, 1e-12, 1e-6, 1.0):
        changed = power.clone()
        changed[:, 2] = own
        signal, after = link_powers(channels, precoder, changed)
        torch.testing.assert_close(after[:, 8], before[:, 8], rtol=1e-3, atol=0)
        gain = channels.uplink[:, 2].abs().square().sum(-1)
        torch.testing.assert_close(signal[:, 8], own * gain, rtol=1e-5, atol=0)
    assert (after[:, [6, 7, 9]] - before[:, [6, 7, 9]]).abs().max() > 0.1


@pytest.mark.parametrize("seed", range(3))
def test_powers_follow_the_order_of_users(channels, seed):
    order = torch.Generator().manual_seed(seed)
    down, up = torch.randperm(6, generator=order).tolist(), torch.randperm(4, generator=order).tolist()
    precoder, power = random_decision(channels, order)
    before = torch.stack(link_powers(channels, precoder, power), dim=-1)
    after = torch.stack(link_powers(channels.permute_users(down, up), precoder[..., down], power[:, up]), dim=-1)
    torch.testing.assert_close(after, before[:, [*down, *(6 + k for k in up)]], rtol=1e-3, atol=1e-4)


def test_gradient_of_powers_is_that_of_finite_differences(make_channels, generator):
    channels = make_channels(2, downlink_users=2, uplink_users=2, transmit_antennas=2, receive_antennas=2).double()
    precoder, power = random_decision(channels, generator)
    precoder, power = precoder.requires_grad_(), power.double().requires_grad_()

    def logs(w: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.log10(1 + part) for part in link_powers(channels, w, p))

    assert torch.autograd.gradcheck(logs, (precoder, power), atol=1e-4)


@pytest.mark.parametrize("scenario", ["default", "no isolation, SI 0 dB", "all gains 0", "60 dB between users"])
@pytest.mark.parametrize("level", [0.0, 1e-30, 1.0])
def test_gradients_of_powers_are_finite_and_of_the_size_of_the_gains(make_channels, scenario, level, generator):
    """Of their logarithms, as a network sees them; at zero power rounding must not be taken for a slope."""
    channels = SCENARIOS[scenario](make_channels)
    beams, power = random_decision(channels, generator)
    precoder, power = (level * beams).requires_grad_(), (level * power).requires_grad_()
    signal, disturbance = link_powers(channels, precoder, power)
    assert torch.isfinite(signal).all()
    assert torch.isfinite(disturbance).all()
    (torch.log(1 + signal) + torch.log(disturbance)).sum().backward()
    largest = channels.links**2 * max(1.0, *(t.abs().square().max().item() for t in channels.tensors().values()))
    for gradient in (torch.view_as_real(precoder.grad), power.grad):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() < 100 * largest
