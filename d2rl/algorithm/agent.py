"""D2RL: the outer reinforcement-learning module. Read :meth:`D2RL.interact` and :meth:`D2RL.learn` first."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from torch import Tensor

from d2rl.algorithm.cuda_graphs import CapturedUpdates, CudaGraphs
from d2rl.algorithm.ddpg import Critic, DeterministicActor, critic_loss, follow, saturation
from d2rl.algorithm.explorers import AENPNN, RENPNN, SENPNN
from d2rl.algorithm.explorers.action import group_weights
from d2rl.algorithm.explorers.reward import designed_reward, rank_correlation, raw_reward, worth
from d2rl.algorithm.learning_rates import Schedule, scale_rates
from d2rl.algorithm.means import Means
from d2rl.algorithm.networks import Observation, decide, make_encoder, make_transition, make_view, observe
from d2rl.algorithm.replay import ReplayBuffer
from d2rl.algorithm.world import make_worlds
from d2rl.common import distributed
from d2rl.common.errors import CheckpointError
from d2rl.common.timing import Sections
from d2rl.config.defaults import Config
from d2rl.problems.full_duplex.simulator import CellState, FullDuplexEnv, evaluation_states, rates_of, stream
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.propagation import LinkGains

logger = logging.getLogger(__name__)

HELD_OUT = 64  # states that SENPNN never trains on
SATURATED = 0.99  # a number of an action beyond it stands on a flat end of tanh


class D2RL(L.LightningModule):
    """Environment -> SENPNN -> AENPNN -> RENPNN -> replay -> DDPG update, with explorers switched on by stages.

    Callbacks steer it through ``stages`` (which explorers take part), ``chi`` (probability that a state
    is replaced), ``autocast_type`` (precision of the networks) and ``sections`` (timing); the module
    itself computes. One training step makes ``trainer.updates_per_step`` updates, and a slot before every
    ``trainer.updates_per_slot`` of them.

    :param config: everything a run needs
    """

    def __init__(self, config: Config):
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        scenario, network, ddpg = config.scenario, config.network, config.ddpg
        self.worlds, self.visited = make_worlds(config), 0
        head, example = self.env.head, self.env.state.channels
        shape: dict[str, Any]
        shape = {"kind": network.kind, "example": example, "width": network.width, "layers": network.layers}
        self.view = make_view(network.critic, head)
        transition = {**shape, "view": self.view.size, "critic": network.critic}

        designed = config.reward.case.startswith("designed")
        self.actor = DeterministicActor(make_encoder(**shape), head.layout, network.width)
        self.critic = Critic(make_transition(**transition), network.width)
        self.target_actor, self.target_critic = deepcopy(self.actor), deepcopy(self.critic)
        self.aenpnn = AENPNN(
            make_encoder(**shape),
            head.layout,
            network.width,
            config.action.steps,
            sampler=config.action.sampler,
            rate=ddpg.actor_rate,
        )
        self.renpnn = RENPNN(
            make_transition(**transition),
            network.width,
            config.reward.steps,
            per_link=designed,
            risk=config.reward.risk,
            quantile=config.reward.quantile,
            rate=config.reward.rate,
        )
        self.senpnn = SENPNN(
            scenario.transmit_antennas,
            scenario.receive_antennas,
            config.state.steps,
            width=config.state.width,
            lr=config.state.rate,
        )
        self.stages = {"action": False, "reward": False, "state": False}
        self.chi, self.owed = 0.0, 0.0
        self.chain_factors: dict[str, Tensor] | None = None
        self.autocast_type: torch.dtype | None = None
        self.sections = Sections()
        self.updates = self.environment_steps = 0
        self.schedule = Schedule(config.trainer.epochs * config.trainer.updates_per_epoch)
        self.processes = 1
        self.fallback = False
        self.brought = dict.fromkeys(self.stages, False)
        self.calibrated = False
        self.wandb_id: str | None = None
        self.resumed: dict[str, Any] | None = None
        self.skipped, self.steps = torch.zeros(()), 0
        self.rates_on_device = False
        self.captured: CapturedUpdates | None = None
        self.means = Means()

    @property
    def env(self) -> FullDuplexEnv:
        """The environment of the world that this training step stays in."""
        return self.worlds[self.visited].env

    @property
    def replay(self) -> ReplayBuffer:
        """The replay of the world that this training step stays in."""
        return self.worlds[self.visited].replay

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Actor, critic and each explorer's own, always all of them, so that a checkpoint loads at any stage."""
        ddpg = self.config.ddpg
        return [
            torch.optim.Adam(self.actor.parameters(), lr=ddpg.actor_rate, fused=True),
            torch.optim.Adam(self.critic.parameters(), lr=ddpg.critic_rate, fused=True),
            self.aenpnn.configure_optimizers(),
            self.renpnn.configure_optimizers(),
            self.senpnn.configure_optimizers(),
        ]

    def on_fit_start(self) -> None:
        """Move the world to where the networks are, and put it where a checkpoint left it."""
        if not hasattr(self, "generator"):
            self.generator = torch.Generator(self.device).manual_seed(stream(f"agent/{self.config.seed}"))
        if self.env.device != self.device:
            self.worlds = make_worlds(self.config, self.device)
        self.processes = distributed.world_size()
        if self.processes > 1:
            self.take_share()
        if self.resumed is not None:
            world = [self.resumed, *self.resumed.get("others", [])][distributed.rank()]
            try:
                self.generator.set_state(world["generator"].cpu())
            except RuntimeError:
                raise CheckpointError(
                    f"the run was on another kind of device than {self.device.type} and can only go on exactly there; "
                    "set trainer.accelerator."
                ) from None
            for visited, saved in zip(self.worlds, [world, *world.get("loads", [])], strict=True):
                visited.load_state_dict(saved)
            self.resumed = None
        self.hold_out()
        self.skipped = self.skipped.to(self.device)
        self.rates_on_device = self.device.type == "cuda"  # captured or not, for the same numbers
        self.captured = CapturedUpdates(self, CudaGraphs(self.generator)) if self.config.trainer.cuda_graphs else None

    def on_fit_end(self) -> None:
        """Give up recorded updates: they hold memory, and read weights where they are now."""
        self.captured = None

    def take_share(self) -> None:
        """This process's part of the cells and of the replay, with random numbers of its own."""
        seed, name = self.config.seed, f"rank {distributed.rank()} of {self.processes}"
        share = distributed.share(self.config)
        self.worlds = make_worlds(share, self.device, name)
        self.generator.manual_seed(stream(f"agent/{seed}/{name}"))

    def hold_out(self) -> None:
        """States that SENPNN is judged on but never trained on: the last fifth of a bank, else new drops."""
        bank = self.env.bank
        if bank is None:
            self.held_out = evaluation_states(self.config.scenario, HELD_OUT, stream("held out"), self.device)
            self.senpnn_bank = None
            return
        kept = bank.weights.shape[0] // 5
        # a bank too small to share is trained and judged on as a whole
        self.held_out, self.senpnn_bank = (bank[-kept:], bank[:-kept]) if kept > 1 else (bank, bank)

    def begin_stage(self, name: str) -> None:
        """Let ``action``, ``reward`` or ``state`` exploration take part from now on."""
        if name == "action" and not self.brought["action"] and (self.updates or self.config.initial):
            self.aenpnn.encoder.load_state_dict(self.actor.encoder.state_dict())
        self.stages[name] = True

    def training_step(self, batch: Any, batch_index: int) -> None:
        """Several updates in one world, with a slot before every few; the next step takes the next world."""
        trainer = self.config.trainer
        self.visited = self.updates // trainer.updates_per_step % len(self.worlds)
        self.schedule_rates()
        self.chain_factors = self.senpnn.chain_factors() if self.stages["state"] else None
        for update in range(trainer.updates_per_step):
            if update % trainer.updates_per_slot == 0:
                self.interact()
            self.learn()
        if self.config.stages.state is not None:
            distributed.average_(*self.senpnn.networks.buffers())

    # ------------------------------------------------------------------ the world

    @torch.no_grad()
    def interact(self) -> None:
        """One slot of every cell: S_0 -> S_t -> A_t -> R_t -> replay."""
        with self.sections("environment"):
            state = self.env.state
        if self.stages["state"] and self.replacement_due():
            with self.sections("senpnn"):
                state = self.replace_states(state)
        with self.sections("environment"):
            observation = observe(state.estimate, state.weights)
        with self.sections("aenpnn" if self.stages["action"] else "actor"):
            action = self.explore(observation)
        with self.sections("environment"):
            decision = decide(self.env.head, observation, action)
            rates = rates_of(state.channels, *decision)
        with self.sections("critic"):
            seen = {"action": action, "view": self.view(observation, action, decision)}
        generated = self.generate_reward(observation, seen["view"], rates)
        following = self.advance()
        with self.sections("replay"):
            self.replay.add({**observation.tensors(), **seen, "rates": rates, **generated, **following})
        self.environment_steps += self.env.num_envs * self.processes

    def replacement_due(self) -> bool:
        """Whether this slot is one of the share chi, evenly spread, whose states are replaced."""
        self.owed += self.chi
        if self.owed < 1 - 1e-9:
            return False
        self.owed -= 1
        return True

    def replace_states(self, state: CellState) -> CellState:
        """SENPNN, Mode II: the states of this slot become synthetic before the action.

        All at once: one chain for many states costs little more than for one.
        """
        step = self.config.state.corrupt or None
        synthetic = self.senpnn.generate(
            state.channels, state.gains, step, generator=self.generator, factors=self.chain_factors
        )
        return self.env.with_channels(state, synthetic)

    def explore(self, observation: Observation) -> Tensor:
        """Candidate actions [B, M, size]: drawn by AENPNN or copies of the actor's, each with Gaussian noise."""
        with self.autocast():
            if self.stages["action"]:
                action = self.aenpnn.sample(observation, self.config.action.candidates, self.generator).tanh()
            else:
                action = self.actor(observation).tanh().unsqueeze(1).expand(-1, self.config.action.candidates, -1)
        self.means.add("charts/saturated_actions", (action.abs() > SATURATED).float().mean())
        return self.perturb(action)

    def perturb(self, action: Tensor) -> Tensor:
        """Gaussian exploration, clipped to the action's range; its deviation falls linearly over training."""
        noise = self.noise_deviation()
        if noise == 0:
            return action
        draw = torch.randn(action.shape, generator=self.generator, device=action.device)
        return (action + noise * draw).clamp(-1, 1)

    def noise_deviation(self) -> float:
        """Standard deviation of the Gaussian exploration now."""
        ddpg = self.config.ddpg
        return ddpg.noise + (ddpg.noise_end - ddpg.noise) * self.progress

    @property
    def progress(self) -> float:
        """Share of the schedules of noise and rates that is done, in [0, 1]."""
        return self.schedule.at(self.updates)

    def schedule_rates(self) -> None:
        """Learning rates fall along half a cosine to ``rate_end`` of their start."""
        end = self.config.ddpg.rate_end
        factor = end + (1 - end) * (1 + math.cos(math.pi * self.progress)) / 2
        scale_rates(self.optimizers(), factor, self.device if self.rates_on_device else None)

    def measured_reward(self, batch: dict[str, Tensor]) -> Tensor:
        """Reward of measured link rates, in units of ``reward_scale``: raw before the reward stage, then its case."""
        if self.stages["reward"]:
            return self.case_reward(batch)
        return raw_reward(batch["rates"], batch["weights"]) / self.config.ddpg.reward_scale

    def case_reward(self, batch: dict[str, Tensor]) -> Tensor:
        """The measured reward of ``reward.case``, which RENPNN learns to generate at any stage."""
        scale, rates = self.config.ddpg.reward_scale, batch["rates"]
        if self.config.reward.case.startswith("designed"):
            links = self.config.scenario.downlink_users + self.config.scenario.uplink_users  # one unit for all loads
            return designed_reward(rates, batch["reference"]) * (links**0.5 / scale)
        return raw_reward(rates, batch["weights"]) / scale

    def generate_reward(self, observation: Observation, view: Tensor, rates: Tensor) -> dict[str, Tensor]:
        """RENPNN, Mode I: the reward generated for (S_t, A_t), where its case asks for one."""
        if not self.generates_reward:
            return {}
        batch = {"rates": rates, "reference": observation.reference, "weights": observation.weights}
        measured = self.case_reward(batch)
        with self.sections("renpnn"), self.autocast():
            generated = self.renpnn.generate(observation, view, self.config.reward.samples, self.generator)
        if view.shape[1] > 1:
            ranks = rank_correlation(worth(generated, observation.weights), worth(measured, observation.weights))
            self.means.add("renpnn/rank_correlation", ranks)
        # nothing that was not trusted when it was generated may be learned from later
        return {"generated": generated if self.trusts_generated else measured}

    @property
    def generates_reward(self) -> bool:
        """Whether RENPNN takes part and its case is one of the generated ones."""
        return self.config.stages.reward is not None and self.config.reward.case.endswith("gdm")

    @property
    def trusts_generated(self) -> bool:
        """Whether the agent learns from generated rewards now."""
        return self.generates_reward and self.stages["reward"] and not self.fallback

    def advance(self) -> dict[str, Tensor]:
        """The next slot; what the critic needs of it when gamma > 0."""
        with self.sections("environment"):
            state, truncated = self.env.advance()
            if self.config.ddpg.gamma == 0:
                return {}
            following = observe(state.estimate, state.weights).tensors()
        return {"continues": (~truncated).float(), **{f"next.{name}": tensor for name, tensor in following.items()}}

    # ------------------------------------------------------------------ learning

    def learn(self) -> None:
        """One update of critic, policy and the explorers that take part."""
        if self.updates == 0:
            self.calibrate()
        if self.captured is not None:
            self.captured()
        else:
            self.update(self.env.state.channels, self.env.state.gains)
        self.updates += 1

    def update(self, channels: ChannelState, gains: LinkGains) -> None:
        """The work of an update; what it does in Python is decided by :meth:`kind_of_update` and by nothing else.

        :param channels: of this slot      :param gains: of this slot
        """
        ddpg, warming = self.config.ddpg, self.warming
        if not ddpg.analytic:
            for _ in range(ddpg.warmup_critic_updates if warming else 1):
                self.update_critic()
        if ddpg.analytic or not warming:
            self.update_policy()
        if self.reward_explorer_due:
            self.update_reward_explorer()
        if self.state_explorer_due:
            self.update_state_explorer(channels, gains)

    def kind_of_update(self) -> tuple[Any, ...]:
        """Updates of one kind launch the same operators: everything outside the device that decides which."""
        ascends_chain = self.stages["action"] and self.config.action.objective != "weighted"
        step = self.chain_step if ascends_chain else None
        due = self.warming, step, self.reward_explorer_due, self.state_explorer_due
        return (self.visited, *self.stages.values(), self.trusts_generated, *due, self.autocast_type)

    @property
    def warming(self) -> bool:
        """Whether the critic alone learns in this update."""
        return self.updates < self.config.ddpg.warmup_updates

    @property
    def chain_step(self) -> int:
        """The step of AENPNN's chain whose estimate this update ascends."""
        return 1 + self.updates % min(self.config.action.gradient_steps, self.config.action.steps)

    @property
    def reward_explorer_due(self) -> bool:
        """Whether RENPNN learns in this update; from the start, so that its stage finds it trained."""
        return self.generates_reward and self.updates % self.config.reward.every == 0

    @property
    def state_explorer_due(self) -> bool:
        """Whether SENPNN learns in this update."""
        return self.config.stages.state is not None and self.updates % self.config.state.every == 0

    def draw(self, count: int) -> tuple[Observation, dict[str, Tensor]]:
        """``count`` transitions, over all processes, of the replay: what was observed, and everything by name."""
        with self.sections("replay"):
            batch = self.replay.sample(count // self.processes, self.generator)
            return Observation.from_tensors(batch), batch

    def reward_of(self, batch: dict[str, Tensor]) -> Tensor:
        """The reward to learn from: generated where RENPNN's stage has begun and it is trusted, else measured."""
        return batch["generated"] if self.trusts_generated else self.measured_reward(batch)

    def calibrate(self) -> None:
        """Set critic and RENPNN to the level of the first rewards.

        Of a critic that came from a checkpoint this moves the constant alone, on which no choice between actions
        depends; a RENPNN that came from one keeps the unit in which it has learned.
        """
        observation, batch = self.draw(self.config.ddpg.critic_batch)
        measured = self.measured_reward(batch)
        if bool(measured.isfinite().all()):
            self.critic.calibrate(observation, batch["view"], measured)
            if not self.calibrated:
                self.renpnn.calibrate(self.case_reward(batch))
        distributed.average_(self.critic.out.bias, self.renpnn.centre, self.renpnn.spread)

    def update_critic(self) -> None:
        """Regress Q on the reward (and on the discounted next value when gamma > 0)."""
        observation, batch = self.draw(self.config.ddpg.critic_batch)
        with self.sections("critic"), self.autocast():
            gamma, reward = self.config.ddpg.gamma, self.reward_of(batch)
            target = reward + gamma * self.next_value(batch) if gamma > 0 else reward
            loss = critic_loss(self.critic(observation, batch["view"]), target)
            self.step(1, loss)
            follow(self.target_critic, self.critic, self.config.ddpg.target_rate)
        self.means.add("losses/critic", loss)

    @torch.no_grad()
    def next_value(self, batch: dict[str, Tensor]) -> Tensor:
        """Q'(s', mu'(s')), [B, 1, K or 1]; nothing is added where an episode was cut."""
        names = [name for name in batch if name.startswith("next.")]
        following = Observation.from_tensors({name.removeprefix("next."): batch[name] for name in names})
        if self.stages["action"]:
            action = self.aenpnn.sample(following, 1, self.generator).tanh()
        else:
            action = self.target_actor(following).tanh().unsqueeze(1)
        value = self.target_critic(following, self.view(following, action)) * batch["continues"][:, None, None]
        per_link = self.stages["reward"] and self.config.reward.case.startswith("designed")
        return value if per_link else value.sum(-1, keepdim=True)

    def update_policy(self) -> None:
        """Ascend Q; AENPNN may also imitate the better of the actions measured for each state."""
        observation, batch = self.draw(self.config.ddpg.batch)
        if self.stages["action"]:
            with self.sections("aenpnn"), self.autocast():
                loss = self.action_explorer_loss(observation, batch)
                self.step(2, loss)
            return
        with self.sections("actor"), self.autocast():
            output = self.actor(observation)
            value = self.value(observation, output.tanh().unsqueeze(1)).mean()
            loss = self.config.ddpg.saturation_penalty * saturation(output) - value
            self.step(0, loss)
            follow(self.target_actor, self.actor, self.config.ddpg.target_rate)
        self.means.add("losses/actor", loss)

    def action_explorer_loss(self, observation: Observation, batch: dict[str, Tensor]) -> Tensor:
        """AENPNN's objective: ``chain``, ``weighted``, or both."""
        config, penalty = self.config.action, self.config.ddpg.saturation_penalty
        embedding, loss = self.aenpnn.encode(observation), torch.zeros((), device=self.device)
        if config.objective != "weighted":
            output = self.aenpnn.estimate(
                observation, config.samples, self.chain_step, self.generator, embedding=embedding
            )
            value = self.value(observation, output.tanh())
            share = group_weights(value.detach(), config.temperature)
            loss = loss - (share * value).sum(-1).mean() + penalty * saturation(output)
            self.means.add("losses/aenpnn_chain", -value.mean())
        if config.objective != "chain":
            weights = group_weights(worth(self.reward_of(batch), observation.weights), config.temperature)
            error, output = self.aenpnn.imitate(observation, batch["action"], weights, self.generator, embedding)
            loss = loss + config.weighted_scale * error + penalty * saturation(output)
            self.means.add("losses/aenpnn_weighted", error)
        return loss

    def value(self, observation: Observation, action: Tensor) -> Tensor:
        """What the critic, its weights held fixed, says of actions [B, M, size]: [B, M].

        With ``ddpg.analytic`` the closed-form rate on the known channels stands in its place.
        """
        if self.config.ddpg.analytic:
            with torch.autocast(self.device.type, enabled=False):
                rates = rates_of(observation.channels, *decide(self.env.head, observation, action))
            return raw_reward(rates, observation.weights).squeeze(-1) / self.config.ddpg.reward_scale
        self.critic.requires_grad_(False)
        value = self.critic(observation, self.view(observation, action))
        self.critic.requires_grad_(True)
        if self.stages["reward"] and self.config.reward.case.startswith("designed"):
            return worth(value, observation.weights)
        return value.sum(-1)

    def update_reward_explorer(self) -> None:
        """RENPNN's denoising loss on measured rewards."""
        observation, batch = self.draw(self.config.ddpg.critic_batch)
        with self.sections("renpnn"), self.autocast():
            loss, metrics = self.renpnn.loss(observation, batch["view"], self.case_reward(batch), self.generator)
            self.step(3, loss)
        self.means.add("losses/renpnn", metrics["loss"])

    def update_state_explorer(self, channels: ChannelState, gains: LinkGains) -> None:
        """SENPNN's denoising loss on the real states of this slot, or on as many of its bank."""
        with self.sections("senpnn"), self.autocast():
            if self.senpnn_bank is not None:
                size, count = self.senpnn_bank.weights.shape[0], self.env.num_envs
                chosen = torch.randint(size, (count,), generator=self.generator, device=self.device)
                channels, gains = self.senpnn_bank.channels[chosen], self.senpnn_bank.gains[chosen]
            loss, metrics = self.senpnn.loss(channels, gains, self.generator)
            self.step(4, loss)
        self.means.add("losses/senpnn", metrics["loss"])

    def step(self, index: int, loss: Tensor) -> None:
        """One step of one optimizer; skipped, and counted on the device, unless loss and gradients are finite."""
        optimizer = self.optimizers()[index]
        optimizer.zero_grad()
        self.manual_backward(loss)
        broken, adam = (~torch.isfinite(loss.detach())).float(), optimizer.optimizer
        gradients = [p.grad for group in adam.param_groups for p in group["params"] if p.grad is not None]
        # GradScaler's own check, here with a scale of 1: sets ``broken`` and never waits for the device
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, broken, torch.ones_like(broken))
        distributed.largest_(broken)
        adam.grad_scale, adam.found_inf = None, broken  # fused Adam then skips the step by itself
        optimizer.step()
        self.skipped.add_(broken)
        self.steps += 1

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Low precision around networks, where a callback asked for it; complex algebra stays out of it."""
        enabled = self.autocast_type is not None
        with torch.autocast(self.device.type, dtype=self.autocast_type, enabled=enabled):
            yield

    # ------------------------------------------------------------------ decisions

    def policy_output(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """One action for each state, [B, 1, size], before tanh; differentiable."""
        if self.stages["action"]:
            return self.aenpnn.sample(observation, 1, generator)
        return self.actor(observation).unsqueeze(1)

    @torch.no_grad()
    def propose(self, observation: Observation, count: int, generator: torch.Generator) -> Tensor:
        """``count`` actions for each state, [B, count, size], without exploration noise."""
        with self.autocast():
            if self.stages["action"]:
                return self.aenpnn.sample(observation, count, generator).tanh()
            return self.actor(observation).tanh().unsqueeze(1).expand(-1, count, -1)

    # ------------------------------------------------------------------ checkpoints

    def refused_transitions(self) -> int:
        """Transitions of all worlds that were not finite since the last call; waits for the device."""
        return sum(world.replay.refused_transitions() for world in self.worlds)

    def skipped_steps(self) -> float:
        """Optimizer steps skipped since the last call."""
        count = float(self.skipped)
        self.skipped.zero_()
        return count

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Everything beyond the weights that an exact continuation needs, as plain containers."""
        generator = self.generator.get_state() if hasattr(self, "generator") else None
        own, *loads = (world.state_dict() for world in self.worlds)
        world = {**own, **({"loads": loads} if loads else {}), "generator": generator}
        first, *others = distributed.gather(world)
        checkpoint["d2rl"] = {
            "config": asdict(self.config),
            **first,
            "others": others,
            "stages": dict(self.stages),
            "chi": self.chi,
            "owed": self.owed,
            "fallback": self.fallback,
            "calibrated": self.calibrated,
            "updates": self.updates,
            "schedule": asdict(self.schedule),
            "wandb": self.wandb_id,
            "environment_steps": self.environment_steps,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what :meth:`on_save_checkpoint` kept; the world waits until the device is known."""
        self.resumed = checkpoint["d2rl"]
        for name in ("stages", "chi", "owed", "fallback", "updates", "environment_steps"):
            setattr(self, name, self.resumed[name])
        self.calibrated = self.resumed.get("calibrated", False)
        trainer, planned = self.resumed["config"]["trainer"], self.schedule.planned
        before = Schedule(**self.resumed.get("schedule", {"planned": trainer["epochs"] * trainer["updates_per_epoch"]}))
        self.schedule = before.replanned(planned, self.updates)
        if self.schedule is not before:
            logger.info(
                f"the run is planned for {planned} updates instead of {before.planned}: exploration noise and learning "
                f"rates go on from where they were, {self.progress:.0%} of the way to their ends"
            )
