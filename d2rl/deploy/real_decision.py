"""The whole decision as one module: what is known of a state in, the decision out, all of it real numbers.

It runs the problem and the networks of training; complex numbers go through as :class:`ComplexPair`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from d2rl.algorithm.decisions import best_decision
from d2rl.algorithm.networks.action_chain import ActionChain
from d2rl.algorithm.policy import Policy
from d2rl.common.complex_pair import ComplexPair
from d2rl.common.errors import ConfigError
from d2rl.problems.base import Decision, Exportable, Prioritised


class RealDecision(nn.Module):
    """What a problem knows of a state, priorities and the chain's noise in; the parts of a decision out.

    A complex number is a last dimension of 2, its real and its imaginary part.

    Example::

        decision = RealDecision(policy, best_of=1)
        example = decision.example(batch=2)
        precoder, uplink_power = decision(*example.values())

    :param policy: what decides
    :param best_of: N, candidates of which the best weighted utility on what is known wins
    :raises ConfigError: a problem whose decisions cannot be exported
    """

    def __init__(self, policy: Policy, best_of: int = 1):
        super().__init__()
        if not isinstance(policy.problem, Exportable):
            raise ConfigError(f"decisions of problem={policy.problem.name} cannot be exported.")
        self.problem, self.best_of = cast(Any, policy.problem), best_of
        self.outputs: tuple[str, ...] = self.problem.outputs
        self.state: dict[str, Tensor] = self.problem.known(self.problem.examples(1, 0))
        self.policy: Any = deepcopy(policy.policy).cpu().eval().requires_grad_(False)
        self.diffusion = isinstance(self.policy, ActionChain)
        self.several = best_of > 1 and isinstance(self.problem, Prioritised)

    def example(self, batch: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Inputs by name, in order, with the shapes to expect; the state is the same in every row.

        ``noise`` is there for a diffusion policy, ``proposal_weights`` (the weights that each candidate is made
        for) with several candidates of a problem that can be asked for them.
        """
        known = {name: tensor[torch.zeros(batch, dtype=torch.long)] for name, tensor in self.state.items()}
        return self.inputs(known, generator)

    def inputs(self, known: Mapping[str, Tensor], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Inputs of states of which ``known`` is known, with new noise."""
        inputs = {name: real(tensor) for name, tensor in known.items()}
        batch, entities = len(next(iter(known.values()))), self.problem.layout.entities
        if self.several:
            inputs["proposal_weights"] = torch.ones(batch, self.best_of, entities)
        if self.diffusion:
            shape = batch, self.best_of, self.policy.noise_rows, entities, self.problem.layout.width
            inputs["noise"] = torch.randn(shape, generator=generator)
            if self.policy.config.calm_first:
                inputs["noise"][:, 0].zero_()
        return inputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The parts of the decision, real; the inputs are those of :meth:`example`, in order."""
        known, further = list(zip(self.state.items(), inputs, strict=False)), inputs[len(self.state) :]
        pairs = {name: ComplexPair.of(given) if like.is_complex() else given for (name, like), given in known}
        return tuple(real(part) for part in self.decide(pairs, *further))

    def decide(self, known: Mapping[str, Any], *further: Tensor) -> Decision:
        """The decision from tensors that may be complex, or pairs.

        :param further: ``proposal_weights`` and ``noise``, where :meth:`example` has them
        """
        given, observation = list(further), self.problem.observe_known(known)
        if self.several:
            asked = self.problem.with_priorities(observation, given.pop(0))
        else:
            asked = observation.repeat(self.best_of)
        if self.diffusion:
            noises = given.pop(0).permute(2, 0, 1, 3, 4).flatten(1, 2).unsqueeze(2)
            action = self.policy.sample(asked, 1, noises=noises).squeeze(1)
        else:
            action = self.policy(asked)
        return best_decision(self.problem, observation, action.tanh().unflatten(0, (-1, self.best_of)))


def real(numbers: Any) -> Tensor:
    """As real numbers, a complex one in two."""
    return torch.view_as_real(numbers.resolve_conj()) if numbers.is_complex() else numbers
