"""Controls of the state explorer: states without diffusion, with the statistics that each promises."""

from __future__ import annotations

import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.explorers import CONTROLS
from d2rl.algorithm.explorers.controls import Gaussian, Mix, Noise, Turn
from d2rl.common.errors import ConfigError
from d2rl.problems.base import Rows

STATES, USERS, SIZE = 400, 2, 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(circular: bool = True) -> dict[str, Rows]:
    """Rows of two places, of which each has its own strong direction."""
    numbers = torch.randn(STATES, USERS, SIZE, generator=seeded())
    scale = torch.tensor([[1.3, 1.3, 0.3, 0.3], [0.3, 0.3, 1.3, 1.3]])
    return {"channel": Rows(numbers * scale, torch.zeros(STATES, USERS, 1), circular=circular)}


def made(control: type, real: dict[str, Rows], step: int | None = None) -> torch.Tensor:
    explorer = control({"channel": SIZE}, width=8)
    if isinstance(explorer, Mix):
        explorer.remember(real)
    return explorer.generate(real, step, generator=seeded(1))["channel"]


@pytest.mark.parametrize("circular", [True, False])
def test_a_gaussian_has_the_covariance_of_each_place(circular):
    real = rows(circular)
    found = made(Gaussian, real)
    assert found.shape == real["channel"].numbers.shape
    for user in range(USERS):
        expected, got = real["channel"].numbers[:, user].T.cov(), found[:, user].T.cov()
        assert torch.linalg.norm(got - expected) < 0.2 * torch.linalg.norm(expected)


def test_a_mixed_state_has_rows_of_several_states_each_in_its_place():
    real = rows(circular=False)
    found, stored = made(Mix, real), real["channel"].numbers
    sources = []
    for user in range(USERS):
        same = (found[:, user].unsqueeze(1) == stored[:, user]).all(-1)
        assert bool(same.any(1).all())
        sources.append(same.float().argmax(1))
    assert (sources[0] != sources[1]).float().mean() > 0.9


def test_a_turned_row_is_the_real_one_but_for_a_phase():
    real = rows()
    stored, found = (
        torch.view_as_complex(one.unflatten(-1, (-1, 2))) for one in (real["channel"].numbers, made(Turn, real))
    )
    torch.testing.assert_close(found[..., 1] * found[..., 0].conj(), stored[..., 1] * stored[..., 0].conj())
    assert torch.equal(made(Turn, rows(circular=False)), rows()["channel"].numbers)


def test_noise_grows_with_the_step():
    real = rows(circular=False)
    far = [(made(Noise, real, step) - real["channel"].numbers).square().mean().item() for step in (1, 3, 6)]
    assert 0.05 < far[0] < far[1] < far[2]


@pytest.mark.parametrize("name", sorted(CONTROLS))
def test_each_control_takes_part_by_its_name(tiny, fit, name):
    agent = D2RL(tiny("stages.state=0", f"state.explorer={name}", "scenario.stored_states=8"))
    agent.stages["state"], agent.chi = True, 1.0
    fit(agent)
    assert agent.updates > 0
    assert all(bool(tensor.isfinite().all()) for tensor in agent.world.state.channels.tensors().values())


@pytest.mark.parametrize("name", ["mix", "gaussian"])
def test_what_needs_stored_states_says_so_where_there_are_none(tiny, name):
    with pytest.raises(ConfigError, match=rf"state\.explorer={name} makes states of a stored set"):
        D2RL(tiny("stages.state=0", f"state.explorer={name}")).on_fit_start()
