"""Queues by age against a list of packets, and their conservation."""

from __future__ import annotations

import pytest
import torch

from d2rl.problems.traffic.queues import arrived_only, grow_older, head_of_line, serve

LINKS, AGES = 3, 6


def drawn(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(3))
def test_bits_leave_in_the_order_in_which_they_came(seed):
    """A list of [slot of arrival, bits] for each link, served from its front, in plain Python."""
    generator = torch.Generator().manual_seed(seed)
    arrivals = 3 * torch.rand(20, LINKS, generator=generator, dtype=torch.float64)
    rates = 3 * torch.rand(20, LINKS, generator=generator, dtype=torch.float64)
    packets: list[list[list[float]]] = [[] for _ in range(LINKS)]
    bits = torch.zeros(1, LINKS, AGES, dtype=torch.float64)
    for slot in range(20):
        for link in range(LINKS):
            packets[link].append([slot, float(arrivals[slot, link])])
        bits = grow_older(bits, arrivals[slot][None]) if slot else arrived_only(arrivals[slot][None], AGES)
        bits, served = serve(bits, rates[slot][None])
        for link in range(LINKS):
            left, by_delay = float(rates[slot, link]), [0.0] * AGES
            while packets[link] and left > 0:
                begun, size = packets[link][0]
                sent = min(size, left)
                by_delay[AGES - 1 - min(AGES - 1, slot - begun)] += sent
                left -= sent
                packets[link][0][1] -= sent
                if packets[link][0][1] <= 0:
                    packets[link].pop(0)
            assert served[0, link].tolist() == pytest.approx(by_delay, abs=1e-9)
            oldest = packets[link][0][0] if packets[link] else slot
            assert float(head_of_line(bits)[0, link]) == min(AGES - 1, slot - oldest)


def test_what_is_served_and_what_remains_is_what_was_there():
    bits = drawn(0, 4, LINKS, AGES)
    remaining, served = serve(bits, 10 * drawn(1, 4, LINKS))
    assert torch.equal(remaining + served, bits)
    assert bool((remaining >= 0).all() and (served >= 0).all())


def test_a_rate_above_the_queue_empties_it():
    remaining, served = serve(drawn(0, 4, LINKS, AGES), torch.full((4, LINKS), 1e3))
    assert not remaining.any()
    assert not head_of_line(remaining).any()
    assert torch.allclose(served.sum(-1), drawn(0, 4, LINKS, AGES).sum(-1))
