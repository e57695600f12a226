"""The policy: what decides. It knows how its problem reads an action, and needs no simulator, replay or critic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from d2rl.algorithm.ddpg import DeterministicActor
from d2rl.algorithm.networks import make_encoder
from d2rl.algorithm.networks.action_chain import ActionChain
from d2rl.common.errors import CheckpointError, InputError
from d2rl.config.defaults import RunConfig
from d2rl.problems import make_problems
from d2rl.problems.base import Generative, Observation, Prioritised, Problem


class Proposer(Protocol):
    """Anything that proposes actions for a problem: a :class:`Policy` or a whole agent."""

    @property
    def problem(self) -> Problem:
        """What its actions mean."""

    @property
    def device(self) -> torch.device:
        """Where it decides."""

    def propose(self, observation: Observation, count: int, generator: torch.Generator) -> Tensor:
        """``count`` actions for each state, [B, count, size] in [-1, 1], without exploration noise."""


def make_actor(config: RunConfig, problem: Problem) -> DeterministicActor:
    """The deterministic actor of a configuration."""
    encoder = make_encoder(config.network, problem)
    return DeterministicActor(encoder, problem.layout, config.network.width, config.ddpg.saturation_penalty)


class Policy(nn.Module):
    """A policy alone.

    Example::

        policy = Policy.of(config, weights, config, "policy.safetensors")
        decision = decide(policy, state, DecisionRule(), generator)

    :param config: of the network and the problem
    :param diffusion: AENPNN's chain, else the deterministic actor
    """

    def __init__(self, config: RunConfig, diffusion: bool):
        super().__init__()
        self.config: Any = config
        self.problem = make_problems(config)[0]
        self.autocast_type = torch.bfloat16 if config.trainer.precision == "bf16" else None
        self.network = "aenpnn" if diffusion else "actor"
        self.runtime: Callable[[Any, Any], Any] | None = None  # decides on a state by a rule in the place of torch
        with torch.random.fork_rng(devices=[]):  # the first weights are written over, and cost the caller no number
            self.add_module(self.network, self._made())

    def _made(self) -> nn.Module:
        """The network, with weights at random."""
        config, problem = self.config, self.problem
        if self.network == "actor":
            return make_actor(config, problem)
        if config.action.explorer == "aenpnn":  # without Lightning, which takes seconds to import
            return ActionChain(
                make_encoder(config.network, problem), problem.layout, config.network.width, config.action
            )
        from d2rl.algorithm.explorers import explorer_class

        return explorer_class(config, "action").build(config, problem)

    @classmethod
    def of(cls, config: RunConfig, weights: Mapping[str, Tensor], made_with: RunConfig, name: str) -> Policy:
        """A policy with the weights that are its own among these.

        :param config: of what it shall decide on
        :param made_with: the configuration of the weights
        :param name: of the file, for messages
        :raises CheckpointError: weights that do not fit
        """
        policy = cls(config, any(key.startswith("aenpnn.") for key in weights))
        before = make_problems(made_with)[0]
        try:
            if made_with.network.kind == "mlp" and not same_shape(before, policy.problem):
                raise RuntimeError  # another problem may have as many numbers
            policy.load_state_dict(dict(weights))
            notice_change(before, policy.problem)
        except RuntimeError:
            raise misfit(name, (before, made_with), (policy.problem, config)) from None
        return policy.eval()

    @property
    def device(self) -> torch.device:
        """Where it decides."""
        return next(self.parameters()).device

    @property
    def policy(self) -> DeterministicActor | ActionChain:
        """The network that decides."""
        return getattr(self, self.network)

    def decide(
        self,
        channels: Any,
        weights: Any = None,
        *,
        best_of: int = 1,
        ascend: int = 0,
        refine: int = 0,
        priority_spread: float = 0.0,
        seed: int = 0,
    ) -> tuple[Any, ...]:
        """The decision on channels: for the full-duplex cell ``precoder, uplink_power``.

        Example::

            precoder, uplink_power = d2rl.load("pretrained").decide(channels, best_of=16)

        :param channels: a state of the problem, or its channels by name, as tensors or arrays; a batch of B states
        :param weights: [K] or [B, K], priority of every link; None: those of the state, or 1
        :param best_of: N candidates, of which the known channels pick one
        :param ascend: steps from there up the gradient of the known weighted utility on the numbers of the action
        :param refine: K iterations of the problem's own local search from there
        :param priority_spread: candidates after the first are made for priorities changed by log-normal factors of this
            spread, and judged by those asked for; 0: by the policy's own noise
        :param seed: of the candidates
        :returns: tensors, or arrays where the channels are arrays
        :raises InputError: channels or weights that cannot be
        """
        from d2rl.algorithm.decisions import DecisionRule, decide  # it imports this module

        kind = str(next(self.parameters()).dtype).removeprefix("torch.")
        if kind != "float32":
            raise InputError(f"the weights are {kind}, and a policy decides in float32; policy.float() makes them so.")
        problem: Any = self.problem
        rule = DecisionRule(best_of, ascend, refine, priority_spread, seed=seed)
        state, arrays = channels, False
        if hasattr(problem, "state_of"):
            state, arrays = problem.state_of(channels, weights, self.device)
        elif weights is not None:
            raise InputError(f"the problem {problem.name} takes no priorities from its caller; leave weights out.")
        if priority_spread and not isinstance(problem, Prioritised):
            raise InputError(f"the problem {problem.name} has no priorities; leave priority_spread out.")
        if self.runtime is None:
            decision = decide(self, state, rule, torch.Generator(self.device).manual_seed(seed))
        else:
            decision = self.runtime(state, rule)
        if not all(bool(part.isfinite().all()) for part in decision):
            raise InputError("the decision is not finite: these channels are too strong for single precision.")
        return tuple(part.cpu().numpy() for part in decision) if arrays else tuple(decision)

    @torch.no_grad()
    def propose(self, observation: Observation, count: int, generator: torch.Generator) -> Tensor:
        """``count`` actions for each state, [B, count, size] in [-1, 1]."""
        enabled = self.autocast_type is not None
        with torch.autocast(self.device.type, dtype=self.autocast_type, enabled=enabled):
            return self.policy.sample(observation, count, generator).tanh()


def notice_change(before: Problem, problem: Problem) -> None:
    """Let the problem say what is no longer as it was where the weights were made."""
    if hasattr(problem, "notice_change"):
        problem.notice_change(before)


def same_shape(first: Problem, second: Problem) -> bool:
    """Whether networks that depend on sizes can serve both."""

    def shape(problem: Problem) -> tuple[Any, ...]:
        # of cells that have as many numbers; where decisions move the world a row may hold more than is seen
        rows = problem.row_sizes() if isinstance(problem, Generative) and problem.exogenous else None
        return problem.name, problem.layout, problem.sizes, rows

    return shape(first) == shape(second)


def misfit(name: str, made_for: tuple[Problem, RunConfig], asked: tuple[Problem, RunConfig]) -> CheckpointError:
    """That weights do not fit.

    :param name: of their file
    :param made_for: problem and configuration that they were made with
    :param asked: those that they shall serve
    """
    before, now = (
        f"{problem} and the {config.network.kind} network of width {config.network.width}"
        for problem, config in (made_for, asked)
    )
    if before == now:
        return CheckpointError(
            f"{name} holds weights of other shapes than this version's for the same problem, or for other settings of "
            "the networks: an explorer or a critic has changed. d2rl-eval decides with its policy as long as that one "
            "fits; to train, start a new run."
        )
    return CheckpointError(
        f"{name} was trained for {before}; it cannot serve {now}. The link_graph network with the structured head "
        "serves any number of users and antennas."
    )
