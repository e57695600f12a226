"""D2RL: the outer reinforcement-learning module. Read :meth:`D2RL.interact` and :meth:`D2RL.learn` first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from d2rl.algorithm.checks import check_algorithm
from d2rl.algorithm.compiled import compile_losses
from d2rl.algorithm.cuda_graphs import CapturedUpdates, CudaGraphs
from d2rl.algorithm.ddpg import Critic, polyak_update
from d2rl.algorithm.explorers import explorer_class, reward_explorer
from d2rl.algorithm.explorers.action import ASCENDING
from d2rl.algorithm.explorers.controls import Mix
from d2rl.algorithm.explorers.reward import rank_correlation
from d2rl.algorithm.explorers.state import KindsOfRows
from d2rl.algorithm.fused_adam import FusedAdam
from d2rl.algorithm.losses import Losses
from d2rl.algorithm.module import Learner
from d2rl.algorithm.networks import make_transition, make_view
from d2rl.algorithm.policy import make_actor
from d2rl.algorithm.reports import beyond_baselines, check_room, splits_reports
from d2rl.algorithm.rewards import reward_case, to_scalar
from d2rl.algorithm.state_weights import fits_state_explorer, holds_state_explorer, with_own_state_explorer
from d2rl.common import distributed
from d2rl.config.defaults import RunConfig
from d2rl.problems import make_problems
from d2rl.problems.base import Generative, Observation, Problem, Transition

JUDGED = 2  # times of reports by which it is judged in a slot
HELD_OUT = 64  # states that SENPNN never trains on
SATURATED = 0.99  # a number of an action beyond it stands on a flat end of tanh


class D2RL(Losses):
    """State -> SENPNN -> AENPNN -> RENPNN -> replay -> DDPG update, with explorers switched on by stages.

    Callbacks steer it through ``stages`` (which explorers take part), ``chi`` (probability that a state
    is replaced), ``autocast_type`` (precision of the networks) and ``sections`` (timing); the module
    itself computes. One training step makes ``trainer.updates_per_step`` updates, and a slot before every
    ``trainer.updates_per_slot`` of them. Weights are drawn from ``config.seed``, not from torch's global generator.

    Example::

        agent = D2RL(load_config(["conf=full_duplex"]))
        Trainer(max_epochs=10, callbacks=[StagedIntegration(config.stages)]).fit(agent, steps)

    :param config: everything but the problem
    :param problems: what it trains in, in turn; networks are built for the first, and must serve all. Default: those
        that the configuration names
    :raises ConfigError: a part that the configuration asks for and the problem has not
    """

    def __init__(self, config: RunConfig, problems: Sequence[Problem] | None = None):
        super().__init__(config, make_problems(config) if problems is None else problems)
        check_algorithm(config, self.problem)
        case = reward_case(config.reward.case)  # what is generated of reports is of every link
        self.case = case if case.per_entity or not splits_reports(config, self.problem) else reward_case("each")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed % 2**32)
            self.make_networks(config)
        if config.trainer.compile:
            compile_losses(self)
        self.learners = self.make_learners()
        # listed once: to find them takes longer than to move them
        self.weights = {"critic": tuple(self.critic.parameters()), "actor": tuple(self.actor.parameters())}
        targets = {"critic": self.target_critic, "actor": self.target_actor}
        self.target_weights = {name: tuple(target.parameters()) for name, target in targets.items()}
        self.fallback = False
        self.replaces_states = isinstance(self.problem, Generative) and self.problem.exogenous_rows
        self.reward_unit_known = False
        self.captured: CapturedUpdates | None = None

    def make_networks(self, config: RunConfig) -> None:
        """Actor, critic and explorers, with weights from torch's global generator."""
        network = config.network
        self.views = [make_view(network, problem)[0] for problem in self.problems]
        view_size = make_view(network, self.problem)[1]

        self.actor = make_actor(config, self.problem)
        entities = self.problem.layout.entities if network.standardise else None
        self.critic = Critic(make_transition(network, self.problem, view_size), network.width, entities)
        self.target_actor, self.target_critic = deepcopy(self.actor), deepcopy(self.critic)
        self.aenpnn = explorer_class(config, "action").build(config, self.problem)
        self.renpnn = reward_explorer(config, self.problem)
        planned = config.stages.state is not None and isinstance(self.problem, Generative)
        self.senpnn = explorer_class(config, "state").build(config, self.problem) if planned else None

    def make_learners(self) -> dict[str, Learner]:
        """Actor, critic and each explorer by name, from the start, so that a checkpoint loads at any stage.

        SENPNN alone, which grows with the antennas, is left out where its stage is not planned.
        """
        ddpg = self.config.ddpg

        def adam(module: nn.Module, rate: float) -> Callable[[], torch.optim.Optimizer]:
            return lambda: FusedAdam(module.parameters(), lr=rate)

        actor, critic, explorer = self.actor, self.critic, self.aenpnn
        learners = {
            "actor": Learner(actor, adam(actor, ddpg.actor_rate), "actor", self.policy_loss, ddpg.batch),
            "critic": Learner(critic, adam(critic, ddpg.critic_rate), "critic", self.critic_loss, ddpg.critic_batch),
            "aenpnn": Learner(explorer, explorer.configure_optimizers, "aenpnn", self.policy_loss, ddpg.batch),
            "renpnn": Learner(
                self.renpnn, self.renpnn.configure_optimizers, "renpnn", self.reward_loss, ddpg.critic_batch
            ),
        }
        if self.senpnn is not None:
            learners["senpnn"] = Learner(self.senpnn, self.senpnn.configure_optimizers, "senpnn", self.state_loss, 0)
        return learners

    # ------------------------------------------------------------------ begin and end

    def on_fit_start(self) -> None:
        """Room for reports, what is kept from SENPNN, and recorded updates where they are asked for."""
        check_room(self.config, self.problem)
        super().on_fit_start()
        if isinstance(self.problem, Generative):
            self.held_out, self.stored = self.problem.held_out(HELD_OUT, self.device)
            if isinstance(self.senpnn, Mix):
                self.senpnn.remember(None if self.stored is None else self.problem.rows(self.stored))
        self.captured = CapturedUpdates(self, CudaGraphs(self.generator)) if self.config.trainer.cuda_graphs else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also where the state stage was planned then and is not now, or the other way round."""
        super().on_load_checkpoint(checkpoint)
        weights, own = checkpoint["state_dict"], self.senpnn
        learned, fits = holds_state_explorer(weights), fits_state_explorer(own, weights)
        checkpoint["state_dict"] = with_own_state_explorer(own, weights, keep=fits)
        optimizers = checkpoint["optimizer_states"]  # SENPNN's is the last
        if learned and not fits:
            del optimizers[-1]
            self.stages["state"] &= own is not None
        if own is not None and not fits:
            optimizers.append(self.learners["senpnn"].optimizer().state_dict())

    def on_fit_end(self) -> None:
        """Give up recorded updates: they hold memory, and read weights where they are now."""
        self.captured = None

    def begin_stage(self, name: str) -> None:
        """Let ``action``, ``reward`` or ``state`` exploration take part from now on."""
        if name == "action" and not self.initial_stages["action"] and (self.updates or self.config.initial):
            self.aenpnn.encoder.load_state_dict(self.actor.encoder.state_dict())
        self.stages[name] = True

    def training_step(self, batch: Any, batch_index: int) -> None:
        """Several updates in one world, with a slot before every few; the next step takes the next world."""
        trainer = self.config.trainer
        self.visited = self.updates // trainer.updates_per_step % len(self.worlds)
        self.schedule_rates()
        for update in range(trainer.updates_per_step):
            if update % trainer.updates_per_slot == 0:
                self.interact()
            while not self.world.ready:  # n-step returns and reports are complete only after n slots
                self.interact()
            self.learn()
        running = [*self.renpnn.buffers(recurse=False), *(self.senpnn.networks.buffers() if self.senpnn else ())]
        distributed.average_(*running)

    # ------------------------------------------------------------------ the world

    @torch.no_grad()
    def interact(self) -> None:
        """One slot: S_0 -> S_t -> A_t -> R_t -> replay."""
        problem, world = self.world.problem, self.world
        measures = self.explore_state() or self.config.state.measured
        with self.sections("environment"):
            seen = problem.observe(world.state)
        with self.sections(self.policy_name):
            action = self.explore_action(seen)
        with self.sections("environment"):
            decision = problem.decode(seen, action)
            step = world.step(decision)
        with self.sections("critic"):
            view = self.view(seen, action, decision)
        utility = step.utility if measures else torch.zeros_like(step.utility)
        generated = self.explore_reward(seen, view, utility, measures)
        following, terminated = None, None
        if self.config.ddpg.gamma > 0:
            with self.sections("environment"):
                following, terminated = problem.observe(step.following), step.terminated
        with self.sections("replay"):
            known = None if self.config.state.measured else utility.new_full((world.batch,), measures, dtype=torch.bool)
            seen_and_done = Transition(seen, action, view, utility, generated, following, terminated, measured=known)
            world.remember(seen_and_done, step)
        self.judge_split()
        self.environment_steps += world.batch * self.processes

    def explore_state(self) -> bool:
        """SENPNN, Mode II: in a share chi of the slots, evenly spread, the states become synthetic before the action.

        All at once: one chain for many states costs little more than for one. What decisions move cannot be replaced;
        there the policy ascends Q on synthetic observations instead, in a share chi of its updates.

        :returns: whether the states are real
        """
        if not (self.replaces_states and self.replacement_due()):
            return True
        with self.sections("senpnn"):
            self.world.state = self.synthetic(self.world.problem, self.world.state, self.corruption)
        return False

    def replacement_due(self) -> bool:
        """Whether it is the turn of synthetic states."""
        if not self.stages["state"]:
            return False
        self.replacements_due += self.chi
        due = self.replacements_due >= 1 - 1e-9
        self.replacements_due -= due
        return due

    def diffused(self) -> Any:
        """What SENPNN diffuses: states of this slot, or observations of the replay where decisions move all of them."""
        return self.world.state if self.replaces_states else self.draw(self.config.ddpg.batch).observation

    def explore_action(self, observation: Observation) -> Tensor:
        """Candidate actions [B, M, size] of the policy, each with Gaussian noise."""
        with self.autocast():
            action = self.policy.sample(observation, self.config.action.candidates, self.generator).tanh()
        self.means.add("charts/saturated_actions", (action.abs() > SATURATED).float().mean())
        return self.perturb(action)

    def explore_reward(
        self, observation: Observation, view: Tensor, utility: Tensor, measures: bool = True
    ) -> Tensor | None:
        """RENPNN, Mode I: the reward generated for (S_t, A_t), where that is asked for.

        :param measures: whether ``utility`` was measured
        """
        if not self.generates_reward or self.splits_reports:
            return None  # out of reports it is generated when it is learned from, by what RENPNN knows then
        measured = self.case_reward(utility, observation)
        if self.rejects("reward"):
            return measured  # the replay keeps its form
        with self.sections("renpnn"), self.autocast():
            generated = self.renpnn.generate(observation, view, self.config.reward.samples, self.generator)
        if not measures:
            return generated
        ranked = [to_scalar(reward, observation.weights) for reward in (generated, measured)]
        if view.shape[1] == 1:  # one action for each state: ranked over the states instead
            ranked = [value.mT for value in ranked]
        self.means.add("renpnn/rank_correlation", rank_correlation(*ranked))
        # nothing that was not trusted when it was generated may be learned from later
        return generated if self.trusts_generated else measured

    def judge_split(self) -> None:
        """How RENPNN ranks reports of cells that it does not learn from, beside those of the same time."""
        windows = self.world.windows
        if windows is None or not windows.ready or self.rejects("reward"):
            return
        batch = windows.judged(JUDGED, self.generator)
        with self.sections("renpnn"), self.autocast():
            generated = self.renpnn.generate(batch.observation, batch.view, self.config.reward.samples, self.generator)
        made = to_scalar(generated, batch.observation.weights).unflatten(0, (-1, windows.slots)).sum(1)
        ranked = [
            one.unflatten(0, (JUDGED, -1)).mT.flatten(0, 1) for one in (made, beyond_baselines(batch, windows.slots))
        ]
        self.means.add("renpnn/rank_correlation", rank_correlation(*ranked))

    # ------------------------------------------------------------------ learning

    def learn(self) -> None:
        """One update of critic, policy and the explorers that take part."""
        if self.updates == 0:
            self.calibrate(self.draw(self.config.ddpg.critic_batch))
        rows = self.rows_due()
        self.imagines = not self.replaces_states and self.replacement_due()
        if self.captured is not None:
            self.captured(rows)
        else:
            self.update(rows)
        self.updates += 1

    def update(self, rows: KindsOfRows | None) -> None:
        """Runs one update.

        Every Python branch taken here must be part of :meth:`kind_of_update`: a replayed CUDA graph runs no Python.

        :param rows: of this slot's states, where SENPNN learns
        """
        ddpg = self.config.ddpg
        if not ddpg.analytic:
            for _ in range(ddpg.warmup_critic_updates if self.warming else 1):
                self.improve("critic")
        if ddpg.analytic or not self.warming:
            self.improve(self.policy_name)
        if self.reward_explorer_due:
            for _ in range(self.config.reward.updates):
                self.improve("renpnn", self.windows_due())
        if rows is not None:
            self.improve("senpnn", rows)

    def kind_of_update(self) -> tuple[Any, ...]:
        """Updates of one kind launch the same operators: everything outside the device that decides which."""
        ascends_chain = self.stages["action"] and self.config.action.objective in ASCENDING
        step = self.chain_step if ascends_chain else None
        due = self.warming, step, self.reward_explorer_due, self.state_explorer_due
        return (self.visited, *self.stages.values(), self.trusts_generated, self.imagines, *due, self.autocast_type)

    @property
    def warming(self) -> bool:
        """Whether the critic alone learns in this update."""
        return self.updates < self.config.ddpg.warmup_updates

    @property
    def reward_explorer_due(self) -> bool:
        """Whether RENPNN learns in this update; from the start, so that its stage finds it trained."""
        due = self.updates % self.config.reward.every == 0
        return self.generates_reward and due and not self.rejects("reward")

    @property
    def state_explorer_due(self) -> bool:
        """Whether SENPNN learns in this update."""
        due = self.updates % self.config.state.every == 0
        return self.config.stages.state is not None and due and not self.rejects("state")

    def rows_due(self) -> KindsOfRows | None:
        """The rows that SENPNN learns from in this update, if it does: of :meth:`diffused`, or of the stored states."""
        if not self.state_explorer_due:
            return None
        problem: Any = self.world.problem
        if self.stored is None:
            return problem.rows(self.diffused())
        chosen = torch.randint(self.stored.batch, (self.world.batch,), generator=self.generator, device=self.device)
        return problem.rows(self.stored[chosen])

    def windows_due(self) -> Transition | None:
        """The slots of the reports that RENPNN learns from in this update, where it does from reports."""
        windows = self.world.windows
        if windows is None:
            return None
        count = max(self.config.reward.windows, self.config.ddpg.critic_batch // windows.slots) // self.processes
        with self.sections("replay"):
            return windows.sample(max(1, count), self.generator)

    def draw(self, count: int) -> Transition:
        """``count`` transitions, over all processes, of the replay."""
        with self.sections("replay"):
            if self.world.windows is not None and not self.trusts_generated:
                return self.world.windows.sample_slots(count // self.processes, self.generator)
            return self.replay.sample(count // self.processes, self.generator)

    def improve(self, name: str, given: Any = None) -> None:
        """One step of one learner on a batch of its own, or on what is given: rows of states, windows of reports."""
        learner = self.learners[name]
        given = self.draw(learner.batch) if given is None else given
        with self.sections(learner.section), self.autocast():
            self.step(name, learner.loss(given))
            if name in self.target_weights:
                polyak_update(self.target_weights[name], self.weights[name], self.config.ddpg.target_rate)

    @torch.no_grad()
    def propose(self, observation: Observation, count: int, generator: torch.Generator) -> Tensor:
        """``count`` actions for each state, [B, count, size], without exploration noise."""
        with self.autocast():
            return self.policy.sample(observation, count, generator).tanh()
