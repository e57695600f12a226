"""What the reverse chain computes once for all its steps changes none of them."""

from __future__ import annotations

import torch

from d2rl.algorithm.networks.action_chain import ActionDenoiser
from d2rl.algorithm.policy import Policy
from d2rl.problems import make_problems
from d2rl.problems.full_duplex.simulator import evaluation_states


def test_a_denoiser_that_is_conditioned_once_gives_the_estimates_of_one_that_is_not(generator):
    torch.manual_seed(0)
    denoiser = ActionDenoiser(numbers=3, width=8, steps=4)
    torch.nn.init.normal_(denoiser.output.weight)  # it starts near zero, where everything would be alike
    embedding = torch.randn(5, 1, 6, 8, generator=generator)
    noisy = torch.randn(5, 2, 6, 3, generator=generator)
    with torch.no_grad():
        estimate = denoiser.conditioned(embedding, samples=2)
        first = noisy.movedim(-1, 0).contiguous()
        found = torch.stack([estimate(first, step).movedim(0, -1) for step in range(1, 5)])
        expected = torch.stack([denoiser(embedding, noisy, step).tanh() for step in range(1, 5)])
    torch.testing.assert_close(found, expected)
    assert (found[0] - found[1]).abs().max() > 1e-2


def test_a_traced_chain_draws_the_actions_of_one_that_is_not(tiny, generator, monkeypatch):
    chain = Policy(tiny(), True).aenpnn
    torch.nn.init.normal_(chain.denoiser.output.weight)
    observation = make_problems(tiny())[0].observe(evaluation_states(tiny().scenario, 3, 0))
    noises = chain.draw(observation, 2, generator)
    with torch.no_grad():
        expected = chain.sample(observation, 2, noises=noises)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        found = chain.sample(observation, 2, noises=noises)
    torch.testing.assert_close(found, expected)
