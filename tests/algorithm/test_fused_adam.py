"""The lean Adam is torch's own: same weights, same state, same steps left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from d2rl.algorithm.fused_adam import FusedAdam


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


def trained(make, steps: int = 6, resumed: bool = False, closure: bool = False) -> tuple[list[Tensor], dict]:
    """Weights and optimizer state after steps of which one is left out and one reaches the last layer alone."""
    model, inputs = network(), torch.linspace(-1, 1, 12).reshape(4, 3)
    optimizer = make(model.parameters())
    for step in range(steps):
        if resumed and step == 3:
            state, optimizer = optimizer.state_dict(), make(model.parameters())
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        model(inputs.detach() if step != 4 else inputs * 0).square().sum().backward()
        if step == 4:
            model[0].weight.grad = None
        optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(float(step == 2))
        optimizer.step(closure=lambda: None) if closure else optimizer.step()
    return list(model.parameters()), optimizer.state_dict()["state"]


@pytest.mark.parametrize(("resumed", "closure"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("rate", [1e-2, torch.tensor(1e-2)], ids=["number", "tensor"])
def test_it_takes_the_steps_of_torch(rate, resumed, closure):
    expected = trained(lambda parameters: torch.optim.Adam(parameters, lr=rate, fused=True))
    found = trained(lambda parameters: FusedAdam(parameters, lr=rate), resumed=resumed, closure=closure)
    torch.testing.assert_close(found, expected)


def test_its_weights_decay_as_those_of_adamw():
    expected = trained(lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.3, fused=True))
    found = trained(lambda parameters: FusedAdam(parameters, lr=1e-2, weight_decay=0.3))
    torch.testing.assert_close(found, expected)
    plain, _ = trained(lambda parameters: FusedAdam(parameters, lr=1e-2))
    assert (plain[0] - found[0][0]).abs().max() > 1e-3


def test_a_closure_is_called_with_gradients_before_a_step_that_torch_need_not_take(monkeypatch):
    """Lightning hands one to every step."""
    model = network()
    optimizer = FusedAdam(model.parameters(), lr=1e-3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3)).square().sum()
        loss.backward()
        return loss

    first = optimizer.step(closure)

    def refuse(self, closure=None):
        raise AssertionError("Adam's own step")

    monkeypatch.setattr(torch.optim.Adam, "step", refuse)
    assert optimizer.step(closure) < first


def test_a_step_that_is_left_out_changes_nothing_and_is_not_counted():
    model = network()
    optimizer = FusedAdam(model.parameters(), lr=1e-3)
    for broken in (0.0, 1.0):
        before = [parameter.clone() for parameter in model.parameters()]
        optimizer.zero_grad()
        model(torch.ones(2, 3)).sum().backward()
        optimizer.found_inf = torch.tensor(broken)
        optimizer.step()
        moved = any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
        assert moved == (broken == 0)
    assert all(float(state["step"]) == 1 for state in optimizer.state.values())
