"""SENPNN: the state explorer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from d2rl.algorithm.diffusion import DiffusionSchedule
from d2rl.algorithm.fused_adam import FusedAdam
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import RunConfig
from d2rl.problems.base import Rows

KindsOfRows = Mapping[str, Rows]

WIDTH_OF_NUMBER = 16  # of the layers for each number of a row: short rows, of which there are most, need less
MOMENT_RATE = 0.02  # of the running moments, per training loss
MOST_SURE = 1e-6  # least power of rows without their mean


class RowDenoiser(nn.Module):
    r"""Predicts the velocity of noisy rows, :math:`v = \cos\varphi_p\, \epsilon - \sin\varphi_p\, x_0`.

    Rows of d numbers pass through a layer of fixed width, so that weights and work grow with d; what is lost there is
    white noise, whose velocity is 0. Step, mean gain and place scale and shift that layer: each place has a linear
    predictor of its own, as the covariance of its channel asks for. The rows of a state see their mean. What is
    diffused are rows without their running mean and of unit power: of a line of sight that is the same in all rows only
    the scattered part is left to learn.

    :param size: d      :param places: c, numbers that tell where a row belongs; 0: none
    :param width: of the layers      :param steps: P
    """

    centre: Tensor
    power: Tensor
    seen: Tensor

    def __init__(self, size: int, places: int, width: int, steps: int):
        super().__init__()
        self.places = places
        self.step = nn.Embedding(steps + 1, 4 * width)
        self.known = nn.Sequential(nn.Linear(1 + places, width), nn.SiLU(), nn.Linear(width, 2 * width))
        self.inward = nn.Linear(size, width)
        self.shared = nn.Linear(width, width, bias=False)
        self.hidden = nn.Linear(width, width)
        self.outward = nn.Linear(2 * width, size)
        nn.init.zeros_(self.shared.weight)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)
        with torch.no_grad():
            self.step.weight[:, : 2 * width] = 1
            self.step.weight[:, 2 * width :] = 0
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("power", torch.ones(()))  # of what is left without the centre
        self.register_buffer("seen", torch.zeros(()))  # batches

    @torch.no_grad()
    def track(self, numbers: Tensor) -> None:
        """Fold rows [B, n, d] into the running moments, of which those of the first batches count alike."""
        self.seen += torch.isfinite(numbers).all()
        rate = (1 / self.seen).clamp(MOMENT_RATE, 1)
        self.centre.copy_(_folded(self.centre, numbers.mean((0, 1)), rate))
        self.power.copy_(_folded(self.power, (numbers - self.centre).square().mean(), rate))

    def standardised(self, numbers: Tensor) -> Tensor:
        """Rows of mean 0 and unit power."""
        return (numbers - self.centre) * self.power.clamp_min(MOST_SURE).rsqrt()

    def restored(self, numbers: Tensor) -> Tensor:
        """The inverse of :meth:`standardised`."""
        return torch.addcmul(self.centre, numbers, self.power.clamp_min(MOST_SURE).sqrt())

    def embed(self, rows: Rows) -> Tensor:
        """What does not change along a chain: [B, n, 2 width] of mean gain and place."""
        parts = [rows.level] if not self.places else [rows.level, rows.place]
        return self.known(torch.cat(parts, dim=-1))

    def forward(self, xp: Tensor, step: int | Tensor, known: Tensor) -> Tensor:
        """Velocity of ``xp`` [B, n, d].

        :param step: p, an int or [B] integers      :param known: of :meth:`embed`
        """
        table = self.step(step).unsqueeze(1) if isinstance(step, Tensor) else self.step.weight[step]
        weight, bias = table.chunk(2, dim=-1)
        gain, shift = torch.addcmul(bias, known, weight).chunk(2, dim=-1)
        linear = torch.addcmul(shift, self.inward(xp), 1 + gain)
        others = self.shared(linear.mean(1, keepdim=True))
        hidden = nn.functional.silu(self.hidden(nn.functional.silu(linear + others)))
        return self.outward(torch.cat([linear + others, hidden], dim=-1))


class SENPNN(L.LightningModule):
    """State explorer: corrupts rows of a real state forward to step p, then reverses (Mode II).

    What a row is, the problem says: whitened small-scale coefficients of one user's channel, for example, while mean
    gains stay those of the real geometry. The rows of a kind go through that kind's predictor, which knows where each
    belongs and sees the others of its state; one set of weights serves any number of rows, in any order. The reverse
    chain follows the velocity (:meth:`DiffusionSchedule.follow`) and keeps the power of white rows within 3 % at P = 6,
    however little was trained.

    Example::

        explorer = SENPNN(problem.row_sizes(), problem.place_sizes(), steps=6)
        Trainer(max_epochs=5).fit(explorer, RowDataset(problem.rows(states)).loader(64))
        synthetic = problem.with_rows(states, explorer.generate(problem.rows(states), generator=generator), generator)

    :param row_sizes: length of a row of each kind
    :param place_sizes: numbers that tell where a row of each kind belongs; missing: 0
    :param steps: P      :param kind: of the schedule, ``vp`` or ``cosine``
    :param width: of the layers, less for rows of one or two numbers
    :param lr, weight_decay: of AdamW
    :param seed: of the noise when a Trainer fits this module alone
    """

    def __init__(
        self,
        row_sizes: Mapping[str, int],
        place_sizes: Mapping[str, int] | None = None,
        steps: int = 6,
        kind: str = "vp",
        width: int = 64,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.schedule, places = DiffusionSchedule(steps, kind), place_sizes or {}
        networks = {
            name: RowDenoiser(size, places.get(name, 0), min(width, WIDTH_OF_NUMBER * size), steps)
            for name, size in row_sizes.items()
        }
        self.networks: Any = nn.ModuleDict(networks)

    @classmethod
    def build(cls, config: RunConfig, problem: Any) -> SENPNN:
        """The explorer of a configuration, for a problem that can be diffused."""
        state = config.state
        places = known_places(config, problem)
        return cls(problem.row_sizes(), places, state.steps, width=state.width, lr=state.rate, weight_decay=state.decay)

    @property
    def floor(self) -> float:
        """Loss of the ideal predictor on white Gaussian rows; structured ones can go below."""
        return self.schedule.noise_floor()

    def loss(self, rows: KindsOfRows, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the velocity over all numbers, each state at a random step.

        In training mode it also updates the running moments.

        :param rows: of each kind
        :returns: loss; metrics ``loss`` and ``loss_<kind of row>``, detached: the same error as one of the noise
        :raises ValueError: rows of other kinds or lengths
        """
        errors, signal = self._errors(rows, generator, track=self.training)
        noise = {name: signal * error.detach() for name, error in errors.items()}
        metrics = {f"loss_{name}": error.square().mean() for name, error in noise.items()}
        return _mean_square(errors), {"loss": _mean_square(noise), **metrics}

    @torch.no_grad()
    def held_out_loss(self, rows: KindsOfRows, generator: torch.Generator) -> Tensor:
        """The error of the noise in rows kept from training, every state at every step; changes nothing."""
        errors, signal = self._errors(rows, generator, every_step=True)
        return _mean_square({name: signal * error for name, error in errors.items()})

    @torch.no_grad()
    def generate(self, rows: KindsOfRows, step: int | None = None, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Other numbers for each row, shaped as the real ones: corrupt to ``step``, reverse.

        :param rows: of each kind
        :param step: p in [1, P], default P; a smaller one stays closer to the real sample
        :raises ValueError: a step outside 1 to P, rows of other kinds or lengths
        """
        step, rows = self.schedule.steps if step is None else step, self._checked(rows)
        numbers = {name: self.networks[name].standardised(turned(real, generator)) for name, real in rows.items()}
        known = {name: self.networks[name].embed(real) for name, real in rows.items()}
        widths = [one[0].numel() for one in numbers.values()]

        def parts(x: Tensor) -> dict[str, Tensor]:
            return {
                name: x.reshape(one.shape) for (name, one), x in zip(numbers.items(), x.split(widths, 1), strict=True)
            }

        def velocity(x: Tensor, p: int) -> Tensor:
            return torch.cat([self.networks[name](xp, p, known[name]).flatten(1) for name, xp in parts(x).items()], 1)

        real = torch.cat([one.flatten(1) for one in numbers.values()], dim=1)
        start = self.schedule.corrupt(real, step, _normal(real, generator))
        made = parts(self.schedule.follow(velocity, start, step))
        return {name: self.networks[name].restored(one) for name, one in made.items()}

    def training_step(self, batch: KindsOfRows, batch_index: int) -> Tensor:
        """Loss of one batch when this module has a Trainer of its own."""
        generator = torch.Generator(self.device).manual_seed(self.hparams.seed + self.global_step)
        loss, metrics = self.loss(batch, generator)
        self.log_dict({f"state/{name}": value for name, value in metrics.items()}, batch_size=_first(batch).batch)
        return loss

    def validation_step(self, batch: KindsOfRows, batch_index: int) -> None:
        """Held-out loss of one batch, with the same noise every time."""
        loss = self.held_out_loss(batch, torch.Generator(self.device).manual_seed(batch_index))
        self.log("state/held_out_loss", loss, batch_size=_first(batch).batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all predictors."""
        return FusedAdam(self.parameters(), self.hparams.lr, self.hparams.weight_decay)

    def _errors(
        self, rows: KindsOfRows, generator: torch.Generator, *, track: bool = False, every_step: bool = False
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Predicted minus true velocity of every kind of row, [B, n, d]; all rows of a state are at the same step.

        :returns: errors; [B, 1, 1], factor that makes them errors of the noise
        """
        rows, steps = self._checked(rows), self.schedule.steps
        first = _first(rows).numbers
        if every_step:
            step = torch.arange(1, steps + 1, device=first.device).repeat(len(first))
            rows = {name: one.repeat(steps) for name, one in rows.items()}
        else:
            step = torch.randint(1, steps + 1, first.shape[:1], generator=generator, device=first.device)
        errors = {}
        for name, one in rows.items():
            numbers, network = turned(one, generator), self.networks[name]
            if track:
                network.track(numbers)
            x0 = network.standardised(numbers)
            noise = _normal(x0, generator)
            velocity = network(self.schedule.corrupt(x0, step, noise), step, network.embed(one))
            errors[name] = velocity.to(noise.dtype) - self.schedule.velocity_of(x0, noise, step)
        return errors, self.schedule.alphas_bar[step].sqrt()[:, None, None]

    def _checked(self, rows: KindsOfRows) -> KindsOfRows:
        found = {name: one.numbers.shape[-1] for name, one in rows.items()}
        if found != dict(self.hparams.row_sizes):
            raise ValueError(f"SENPNN was built for rows of {dict(self.hparams.row_sizes)} numbers, these are {found}")
        return rows


def known_places(config: RunConfig, problem: Any) -> dict[str, int]:
    """Numbers that tell SENPNN where rows of each kind belong, by ``state.condition``.

    With ``auto`` a problem that has the method ``notice_placeless`` says so where its states tell no places.

    :raises ConfigError: places were asked for, and the states do not tell them
    """
    found = {name: size for name, size in problem.place_sizes().items() if size}
    if config.state.condition == "place" and not found:
        raise ConfigError(
            f"state.condition=place, but the states of problem={config.problem} do not tell where users are; give a "
            "bank with position_downlink and position_uplink, or set state.condition=gain."
        )
    if config.state.condition == "auto" and not found and hasattr(problem, "notice_placeless"):
        problem.notice_placeless()
    return {} if config.state.condition == "gain" else found


def turned(rows: Rows, generator: torch.Generator) -> Tensor:
    """The numbers, each row under another common phase where that phase is arbitrary."""
    numbers = rows.numbers
    if not rows.circular:
        return numbers
    phase = 2 * math.pi * torch.rand((*numbers.shape[:2], 1), generator=generator, device=numbers.device)
    turn = torch.polar(torch.ones_like(phase), phase)
    return torch.view_as_real(torch.view_as_complex(numbers.float().unflatten(-1, (-1, 2))) * turn).flatten(-2)


class RowDataset(Dataset):
    """Rows of N states for a Trainer; whole batches are indexed at once.

    :param rows: of each kind, batch N
    :raises ValueError: rows that are not finite, not of about unit variance, or not of as many states as the others
    """

    def __init__(self, rows: KindsOfRows):
        self.rows, self.states = dict(rows), _first(rows).batch
        for name, one in rows.items():
            if one.batch != self.states:
                raise ValueError(f"rows of {name} are of {one.batch} states, others of {self.states}")
            if not bool(one.numbers.isfinite().all()):
                raise ValueError(f"rows of {name} hold NaN or infinite values; remove those states")
            power = float(one.numbers.double().square().mean())
            if not 1e-2 < power < 1e2:
                raise ValueError(f"rows of {name} have a mean square of {power:.2g}, not about 1; whiten them first")

    def __len__(self) -> int:
        return self.states

    def __getitem__(self, index: int) -> dict[str, Rows]:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> dict[str, Rows]:
        """The rows of some states."""
        chosen = torch.tensor(indices)
        return {name: one[chosen] for name, one in self.rows.items()}

    def loader(self, batch_size: int, shuffle: bool = True, generator: torch.Generator | None = None) -> DataLoader:
        """Batches of rows."""
        return DataLoader(self, batch_size=batch_size, shuffle=shuffle, generator=generator, collate_fn=_as_it_is)


def _as_it_is(batch: dict[str, Rows]) -> dict[str, Rows]:
    return batch


def _first(rows: KindsOfRows) -> Rows:
    return next(iter(rows.values()))


def _mean_square(errors: dict[str, Tensor]) -> Tensor:
    squares = [error.square().sum() for error in errors.values()]
    return torch.stack(squares).sum() / sum(error.numel() for error in errors.values())


def _folded(average: Tensor, value: Tensor, rate: Tensor) -> Tensor:
    return torch.where(torch.isfinite(value), torch.lerp(average, value, rate), average)


def _normal(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype, device=tensor.device)
