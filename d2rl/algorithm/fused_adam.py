"""Adam with less Python around its one kernel: for networks whose step costs less than finding its tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class FusedAdam(torch.optim.Adam):
    """``torch.optim.Adam(fused=True)``, which spends more on Python than on its kernel where weights are few.

    State and checkpoints are those of Adam; a step is left out, on the device, where ``found_inf`` is 1.

    :param parameters: of one device and type
    :param lr: learning rate
    :param weight_decay: as in AdamW
    """

    def __init__(self, parameters: Any, lr: float, weight_decay: float = 0.0):
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True, decoupled_weight_decay=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the first one, and one of parameters without gradient, is left to Adam itself.

        :param closure: called first; Lightning always gives one
        """
        with torch.enable_grad():
            result = None if closure is None else closure()
        (group,) = self.param_groups
        parameters = group["params"]
        gradients = [parameter.grad for parameter in parameters]
        fresh = len(self.state) < len(parameters)
        if fresh or any(gradient is None for gradient in gradients):
            super().step()
            return result
        states = [self.state[parameter] for parameter in parameters]
        steps, found = [state["step"] for state in states], getattr(self, "found_inf", None)
        torch._foreach_add_(steps, 1)
        beta1, beta2 = group["betas"]
        torch._fused_adamw_(
            parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=found,
        )
        if found is not None:
            torch._foreach_sub_(steps, [found] * len(steps))
        return result
