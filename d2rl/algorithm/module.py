"""What an RL module under Lightning needs whatever the algorithm: worlds, learners, schedules, exact checkpoints."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from d2rl.algorithm.learning_rates import Schedule, scale_rates
from d2rl.algorithm.means import Means
from d2rl.algorithm.replay import ReplayBuffer
from d2rl.algorithm.world import World, make_worlds
from d2rl.common import distributed
from d2rl.common.errors import CheckpointError
from d2rl.common.timing import Sections
from d2rl.config.defaults import STAGES, RunConfig
from d2rl.problems.base import Problem, stream

logger = logging.getLogger(__name__)

# counters and switches that a checkpoint keeps
KEPT = ("stages", "decided", "chi", "replacements_due", "fallback", "reward_unit_known", "updates", "environment_steps")


@dataclass(frozen=True)
class Learner:
    """A network that learns.

    :param module: what its optimizer moves
    :param optimizer: made at the start, so that a checkpoint loads at any stage
    :param section: under which its updates are timed
    :param loss: of a batch of the replay, or of rows of states (SENPNN), which also logs
    :param batch: states of a batch, over all processes; 0: it learns from rows
    """

    module: nn.Module
    optimizer: Callable[[], torch.optim.Optimizer]
    section: str
    loss: Callable[[Any], Tensor]
    batch: int


class RLModule(L.LightningModule):
    """The outer module, less its algorithm.

    :param config: everything but the problem
    :param problems: what it trains in, in turn
    """

    learners: dict[str, Learner]
    fallback: bool
    reward_unit_known: bool

    def __init__(self, config: RunConfig, problems: Sequence[Problem]):
        super().__init__()
        self.automatic_optimization = False
        self.config: Any = config
        self.problems, self.problem = problems, problems[0]
        self.worlds = make_worlds(problems, config)
        self.visited = 0
        self.stages = dict.fromkeys(STAGES, False)
        self.decided: dict[str, bool] = {}  # of stages with auto, whether they begin
        self.initial_stages = dict.fromkeys(STAGES, False)  # begun by the checkpoint that this run started from
        self.chi, self.replacements_due, self.imagines = 0.0, 0.0, False
        self.updates = self.environment_steps = 0
        self.schedule = Schedule(config.trainer.epochs * config.trainer.updates_per_epoch)
        self.processes = 1
        self.autocast_type: torch.dtype | None = None
        self.sections = Sections()
        self.means = Means()
        self.skipped, self.steps = torch.zeros(()), 0
        self.rates_on_device = False
        self.wandb_id: str | None = None
        self.saved: dict[str, Any] | None = None

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Those of all learners, in their order."""
        return [learner.optimizer() for learner in self.learners.values()]

    @property
    def world(self) -> World:
        """The world that this training step stays in."""
        return self.worlds[self.visited]

    @property
    def replay(self) -> ReplayBuffer:
        """The replay of that world."""
        return self.world.replay

    @property
    def objective(self) -> str:
        """Name of the metric that evaluations maximise."""
        return getattr(self.problem, "metric", "return")

    def on_fit_start(self) -> None:
        """Move the worlds to where the networks are, and put them where a checkpoint left them."""
        if not hasattr(self, "generator"):
            self.generator = torch.Generator(self.device).manual_seed(stream(f"agent/{self.config.seed}"))
        if self.world.device != self.device:
            self.worlds = make_worlds(self.problems, self.config, self.device)
        self.processes = distributed.world_size()
        if self.processes > 1:
            self.take_share()
        if self.saved is not None:
            self.go_on_from(self.saved)
            self.saved = None
        self.skipped = self.skipped.to(self.device)
        self.rates_on_device = self.device.type == "cuda"  # captured or not, for the same numbers

    def take_share(self) -> None:
        """This process's part of the states and of the replay, with random numbers of its own."""
        name = f"rank {distributed.rank()} of {self.processes}"
        self.worlds = make_worlds(self.problems, distributed.share(self.config), self.device, name)
        self.generator.manual_seed(stream(f"agent/{self.config.seed}/{name}"))

    # ------------------------------------------------------------------ learners

    def step(self, name: str, loss: Tensor) -> None:
        """One step of a learner's optimizer; left out, and counted, unless loss and gradients are finite."""
        optimizer = self.optimizers()[list(self.learners).index(name)]
        adam = optimizer.optimizer
        parameters = [parameter for group in adam.param_groups for parameter in group["params"]]
        for parameter in parameters:
            parameter.grad = None
        self.manual_backward(loss)
        checked = [loss.detach(), *(parameter.grad for parameter in parameters if parameter.grad is not None)]
        distributed.average_(*checked)  # what is not finite in one process is so in all of them then
        broken, one = torch.zeros((), device=loss.device), torch.ones((), device=loss.device)
        # GradScaler's own check, here with a scale of 1: sets ``broken`` and never waits for the device
        torch._amp_foreach_non_finite_check_and_unscale_(checked, broken, one)
        adam.grad_scale, adam.found_inf = None, broken  # fused Adam then skips the step by itself
        optimizer.step()
        self.skipped.add_(broken)
        self.steps += 1

    # ------------------------------------------------------------------ schedules and precision

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

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Low precision around networks, where a callback asked for it; complex algebra stays out of it."""
        enabled = self.autocast_type is not None
        with torch.autocast(self.device.type, dtype=self.autocast_type, enabled=enabled):
            yield

    def perturb(self, action: Tensor) -> Tensor:
        """Gaussian exploration, clipped to the action's range; its deviation falls linearly over training.

        Correlated from slot to slot where asked for, a discrete Ornstein-Uhlenbeck process of the same deviation.
        """
        noise = self.noise_deviation()
        if noise == 0:
            return action
        draw = torch.randn(action.shape, generator=self.generator, device=action.device)
        if correlation := self.config.ddpg.noise_correlation:
            draw = self.world.correlated(draw, correlation)
        return (action + noise * draw).clamp(-1, 1)

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
        own = {"worlds": [world.state_dict() for world in self.worlds], "generator": generator}
        checkpoint["d2rl"] = {
            "config": asdict(self.config),
            "ranks": distributed.gather(own),
            "schedule": asdict(self.schedule),
            "wandb": self.wandb_id,
            **{name: getattr(self, name) for name in KEPT},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what :meth:`on_save_checkpoint` kept; the worlds wait until the device is known."""
        self.saved = checkpoint["d2rl"]
        for name in KEPT:
            setattr(self, name, self.saved.get(name, getattr(self, name)))  # older checkpoints have no decisions
        before, planned = Schedule(**self.saved["schedule"]), self.schedule.planned
        self.schedule = before.replanned(planned, self.updates)
        if self.schedule is not before:
            logger.info(
                f"the run is planned for {planned} updates instead of {before.planned}: exploration noise and learning "
                f"rates go on from where they were, {self.progress:.0%} of the way to their ends"
            )

    def go_on_from(self, saved: dict[str, Any]) -> None:
        """Put random numbers and worlds where a checkpoint left them.

        :raises CheckpointError: the run was on another kind of device
        """
        own = saved["ranks"][distributed.rank()]
        try:
            self.generator.set_state(own["generator"].cpu())
        except RuntimeError:
            raise CheckpointError(
                f"the run was on another kind of device than {self.device.type} and can only go on exactly there; "
                "set trainer.accelerator."
            ) from None
        for world, kept in zip(self.worlds, own["worlds"], strict=True):
            world.load_state_dict(kept)
