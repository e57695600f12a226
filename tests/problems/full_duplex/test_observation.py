"""What the networks see, against loops in double precision, and what must not change it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from d2rl.problems.base import Layout
from d2rl.problems.full_duplex.observation import BITS, log_weight, observe, suppressed_gain
from d2rl.wireless import ChannelState, full_uplink_power, link_rates, rzf
from d2rl.wireless.heads import beam_basis
from d2rl.wireless.precoders import regularised_inverses, user_gram
from d2rl.wireless.propagation import DECADES

UNEVEN = {"downlink_users": 3, "uplink_users": 5, "transmit_antennas": 4, "receive_antennas": 6}
DOWN, UP = (3, 0, 5, 1, 4, 2), (2, 0, 3, 1)


def log_gain(power: float) -> float:
    return math.log10(1 + power) / DECADES


def weighted(channels: ChannelState, seed: int = 0) -> Tensor:
    draw = torch.randn(channels.batch, channels.links, generator=torch.Generator().manual_seed(seed))
    return torch.exp(0.5 * draw)


def link_order(down: Sequence[int], up: Sequence[int]) -> list[int]:
    return [*down, *(len(down) + k for k in up)]


def mmse(streams: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Unit-norm columns of (noise + S S^H)^-1 S, one solve at a time."""
    covariance = noise + sum(np.outer(s, s.conj()) for s in streams.T)
    columns = [np.linalg.solve(covariance, s) for s in streams.T]
    return np.stack([column / np.linalg.norm(column) for column in columns], axis=1)


def received(h_s, g, h, f, combiners, precoder, power) -> np.ndarray:
    """Power that link i receives from link j, link by link, for one state."""
    k_d, k_u = len(g), len(h)
    table = np.zeros((k_d + k_u, k_d + k_u))
    for j in range(k_d):
        for i in range(k_d):
            table[i, j] = abs(np.vdot(g[i], precoder[:, j])) ** 2
        for k in range(k_u):
            table[k_d + k, j] = abs(np.vdot(combiners[:, k], h_s @ precoder[:, j])) ** 2
    for i in range(k_u):
        for j in range(k_d):
            table[j, k_d + i] = power[i] * abs(f[i, j]) ** 2
        for k in range(k_u):
            table[k_d + k, k_d + i] = power[i] * abs(np.vdot(combiners[:, k], h[i])) ** 2
    return table


def arrays(channels: ChannelState, b: int) -> tuple[np.ndarray, ...]:
    g, h, f, h_s = (tensor[b].to(torch.complex128).numpy() for tensor in channels.tensors().values())
    return h_s, g, h, f


@pytest.mark.parametrize("cell", [{}, UNEVEN], ids=["default", "uneven"])
def test_nodes_are_their_definition(make_channels, cell):
    channels = make_channels(4, **cell)
    weights = weighted(channels)
    nodes = observe(channels, weights).nodes.double()
    rates = link_rates(channels, rzf(channels), full_uplink_power(channels))
    for b in range(4):
        h_s, g, h, _ = arrays(channels, b)
        combiners = mmse(h.T, np.eye(h.shape[1]))
        for users, offset in ((g, 0), (h, len(g))):
            for k, own in enumerate(users):
                others = np.eye(len(own)) + sum(np.outer(x, x.conj()) for other, x in enumerate(users) if other != k)
                suppressed = (own.conj() @ np.linalg.solve(others, own)).real
                if offset == 0:
                    leak = np.linalg.norm(h_s @ (own / np.linalg.norm(own))) ** 2
                else:
                    leak = np.linalg.norm(h_s.conj().T @ combiners[:, k]) ** 2
                expected = [
                    float(offset == 0),
                    float(offset > 0),
                    log_gain(np.linalg.norm(own) ** 2),
                    log_gain(suppressed),
                    log_gain(leak),
                    rates[b, offset + k].item() / BITS,
                    math.log(weights[b, offset + k].item()),
                ]
                assert nodes[b, offset + k].tolist() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("cell", [{}, UNEVEN], ids=["default", "uneven"])
def test_edges_are_their_definition(make_channels, cell):
    channels = make_channels(4, **cell)
    edges = observe(channels, weighted(channels)).edges.double()
    for b in range(4):
        h_s, g, h, f = arrays(channels, b)
        k_d, k_u = len(g), len(h)
        beams = np.stack([x / np.linalg.norm(x) for x in g], axis=1)
        matched = np.stack([x / np.linalg.norm(x) for x in h], axis=1)
        combiners = mmse(h.T, np.eye(h.shape[1]))
        heard = received(h_s, g, h, f, combiners, beams, np.ones(k_u))
        for i in range(k_d + k_u):
            for j in range(k_d + k_u):
                same = (i < k_d) == (j < k_d)
                parallel = 0.0
                if same:
                    base, offset = (beams, 0) if i < k_d else (matched, k_d)
                    parallel = abs(np.vdot(base[:, i - offset], base[:, j - offset])) ** 2
                expected = [log_gain(heard[i, j]), log_gain(heard[j, i]), parallel, float(same)]
                assert edges[b, i, j].tolist() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("change", ["antenna order", "antenna basis", "phase of every user"])
def test_features_do_not_change_with_what_rates_do_not_depend_on(channels, generator, change):
    if change == "antenna order":
        u, v = (torch.eye(8, dtype=torch.complex64)[torch.randperm(8, generator=generator)] for _ in range(2))
    elif change == "antenna basis":
        u, v = (torch.linalg.qr(torch.randn(8, 8, dtype=torch.complex64, generator=generator))[0] for _ in range(2))
    else:
        u = v = torch.eye(8, dtype=torch.complex64)
    phases = torch.polar(torch.ones(10), torch.arange(10.0) * (change == "phase of every user"))
    turned = ChannelState(
        downlink=channels.downlink @ v.mT * phases[:6, None],
        uplink=channels.uplink @ u.mT * phases[6:, None],
        cross=channels.cross * phases[6:, None],
        self_interference=u @ channels.self_interference @ v.mH,
    )
    weights = weighted(channels)
    before, after = observe(channels, weights), observe(turned, weights)
    assert not torch.allclose(channels.downlink, turned.downlink)
    torch.testing.assert_close(after.nodes, before.nodes, rtol=0, atol=2e-4)
    torch.testing.assert_close(after.edges, before.edges, rtol=0, atol=2e-4)
    torch.testing.assert_close(after.baseline, before.baseline, rtol=0, atol=2e-3)


def test_features_follow_the_order_of_users(channels):
    weights, order = weighted(channels), link_order(DOWN, UP)
    before = observe(channels, weights)
    after = observe(channels.permute_users(DOWN, UP), weights[:, order])
    torch.testing.assert_close(after.nodes, before.nodes[:, order], rtol=0, atol=1e-4)
    torch.testing.assert_close(after.edges, before.edges[:, order][:, :, order], rtol=0, atol=1e-4)
    torch.testing.assert_close(after.baseline, before.baseline[:, order], rtol=0, atol=1e-3)


def test_a_state_is_seen_alone(channels):
    weights = weighted(channels)
    together, alone = observe(channels, weights), observe(channels[3:4], weights[3:4])
    for name, tensor in together[3:4].tensors().items():
        torch.testing.assert_close(alone.tensors()[name], tensor, rtol=1e-4, atol=1e-5)


def test_features_are_of_order_one_over_the_whole_range_of_gains(make_channels):
    for scenario in ({}, {"path_loss": "nlos"}, {"self_interference": -40.0}, {"transmit_antennas": 2}):
        channels = make_channels(**scenario)
        observation = observe(channels, weighted(channels))
        for tensor in (observation.nodes, observation.edges):
            assert torch.isfinite(tensor).all()
            assert tensor.abs().max() < 5


def test_a_silent_cell_has_finite_features(channels):
    silent = channels.map(torch.zeros_like)
    observation = observe(silent, torch.zeros(16, 10))
    assert all(
        bool(torch.isfinite(torch.view_as_real(t) if t.is_complex() else t).all())
        for t in observation.tensors().values()
    )
    assert (observation.nodes[..., 2:6] == 0).all()


def test_suppression_spares_orthogonal_users_and_costs_parallel_ones():
    def suppressed(vectors):
        return suppressed_gain(regularised_inverses((user_gram(vectors), 1))[0]).float()

    orthogonal = torch.diag(torch.tensor([3.0, 4.0, 0.0, 10.0]) + 0j)[None, [0, 1, 3]]
    torch.testing.assert_close(suppressed(orthogonal), torch.tensor([[9.0, 16.0, 100.0]]))
    twins = torch.tensor([[[3.0 + 0j, 4.0j], [3.0 + 0j, 4.0j]]])
    torch.testing.assert_close(suppressed(twins), torch.full((1, 2), 25 / 26))
    torch.testing.assert_close(suppressed(twins[:, :1]), torch.tensor([[25.0]]))


def test_asking_for_other_weights_is_observing_the_same_channels_with_them(channels):
    weights = torch.rand(channels.batch, 3, channels.links, generator=torch.Generator().manual_seed(5)) + 0.1
    plain = observe(channels, torch.ones(channels.batch, channels.links))
    asked = plain.reweighted(weights, lambda one: log_weight(one).unsqueeze(-1)).tensors()
    observed = observe(channels.repeat(3), weights.flatten(0, 1)).tensors()
    assert asked.keys() == observed.keys()
    for name, tensor in observed.items():
        torch.testing.assert_close(asked[name], tensor, atol=1e-6, rtol=1e-5)


def test_observations_come_back_from_their_tensors(channels):
    observation = observe(channels, weighted(channels))
    tensors = {**observation.tensors(), "action": torch.zeros(16, 20)}
    again = observe(channels.map(torch.zeros_like), torch.ones(16, 10)).with_tensors(tensors)
    assert again.batch == 16
    for name, tensor in observation.tensors().items():
        assert torch.equal(again.tensors()[name], tensor)
        assert torch.equal(observation[torch.tensor([5, 5, 2])].tensors()[name], tensor[[5, 5, 2]])


def test_an_observation_moves_as_a_whole(channels):
    moved = observe(channels, weighted(channels)).to(torch.device("meta"))
    assert {tensor.device.type for tensor in moved.tensors().values()} == {"meta"}


def test_an_observation_brings_the_basis_of_beams(make_channels):
    """In the precision of its channels, so that it can be stored beside them."""
    for channels in (make_channels(4, **UNEVEN), make_channels(4).double()):
        basis = observe(channels, weighted(channels)).known.basis
        assert basis.dtype == channels.downlink.dtype
        torch.testing.assert_close(basis, beam_basis(channels).to(basis.dtype), rtol=0, atol=1e-5)


def test_an_observation_tells_whose_numbers_an_action_holds(make_channels):
    channels = make_channels(4, **UNEVEN)
    assert observe(channels, weighted(channels)).layout == Layout((3, 5), (2, 2))
    assert observe(channels, weighted(channels), (8, 1)).layout == Layout((3, 5), (8, 1))
