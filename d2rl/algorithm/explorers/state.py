"""SENPNN: the state explorer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from d2rl.algorithm.diffusion import DiffusionSchedule
from d2rl.common.errors import CheckpointError
from d2rl.config.defaults import RunConfig

Rows = Mapping[str, Tensor]  # kind of row -> [n, d]

MOMENT_RATE = 0.05  # of the running moments of a predictor's estimates, per training loss
ERROR_RATE = 0.01  # of the running error covariance, which has more entries to average


class RowDenoiser(nn.Module):
    """Predicts the noise in rows of d real coefficients, and keeps account of how well it does.

    A linear path beside the hidden layer, both scaled and shifted by an embedding of the step: the linear
    path alone can be the ideal predictor of any Gaussian data.

    :param size: d      :param width: of the hidden layer; at least d is used      :param steps: P
    """

    centre: Tensor
    inner: Tensor
    power: Tensor
    error: Tensor
    count: Tensor

    def __init__(self, size: int, width: int, steps: int):
        super().__init__()
        width = max(width, size)
        self.step = nn.Embedding(steps + 1, 2 * width)
        self.inward = nn.Linear(size, width)
        self.hidden = nn.Linear(width, width)
        self.outward = nn.Linear(2 * width, size)
        nn.init.zeros_(self.step.weight)
        nn.init.zeros_(self.outward.weight)
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("inner", torch.zeros(steps + 1))  # of the deviations of x_0 and of its estimate
        self.register_buffer("power", torch.zeros(steps + 1))
        self.register_buffer("error", torch.eye(size).repeat(steps + 1, 1, 1))  # of a predictor that knows nothing
        self.register_buffer("count", torch.ones(steps + 1))

    def forward(self, xp: Tensor, step: int | Tensor) -> Tensor:
        """Noise in ``xp`` [..., d] at ``step``, an int or one integer per row."""
        table = self.step(step) if isinstance(step, Tensor) else self.step.weight[step]
        gain, shift = table.chunk(2, dim=-1)
        linear = self.inward(xp) * (1 + gain) + shift
        hidden = nn.functional.silu(self.hidden(nn.functional.silu(linear)))
        return self.outward(torch.cat([linear, hidden], dim=-1))

    @torch.no_grad()
    def track(self, x0: Tensor, estimate: Tensor, step: Tensor) -> None:
        """Fold rows x_0 and their estimates, [n, d], at steps [n] into the running moments."""
        mine = (torch.arange(len(self.count), device=step.device).unsqueeze(-1) == step).to(x0.dtype)
        with torch.autocast(x0.device.type, enabled=False):
            _fold(self.centre, x0.mean(0), MOMENT_RATE)
            deviation = estimate - self.centre
            _fold(self.inner, mine @ ((x0 - self.centre) * deviation).sum(-1), MOMENT_RATE)
            _fold(self.power, mine @ deviation.square().sum(-1), MOMENT_RATE)
            error = x0 - self.shrink(estimate, step)
            _fold(self.error, (mine.unsqueeze(-1) * error).mT @ error, ERROR_RATE)
            _fold(self.count, mine.sum(-1), ERROR_RATE)

    def shrink(self, estimate: Tensor, step: int | Tensor) -> Tensor:
        """Estimates of x_0 [..., d] pulled to the mean of the data as far as is best in mean square.

        Nothing changes for an ideal predictor; a poor one, amplified at large p, cannot spoil the chain.
        """
        factor = (self.inner[step] / self.power[step].clamp_min(1e-12)).unsqueeze(-1)
        return self.centre + factor * (estimate - self.centre)

    def error_covariance(self) -> Tensor:
        """Covariance of x_0 minus its shrunk estimate at every step, [P + 1, d, d]."""
        return self.error / self.count[:, None, None]


class SENPNN(L.LightningModule):
    """State explorer: corrupts rows of a real state forward to step p, then reverses (Mode II).

    What a row is, the problem says: whitened small-scale coefficients of one user's channel, for example, while mean
    gains stay those of the real geometry. Every row of a kind goes through that kind's noise predictor alone, so one
    set of weights serves any number of rows, and users are exchangeable. The reverse chain adds the noise that its own
    error, known from training, calls for (:meth:`DiffusionSchedule.noise_factors`); a plain chain of 6 steps would
    lose half of the power.

    Example::

        explorer = SENPNN(problem.row_sizes(), steps=6)
        Trainer(max_epochs=5).fit(explorer, RowDataset(problem.rows(states), states.batch).loader(64))
        synthetic = problem.with_rows(states, explorer.generate(problem.rows(states), generator=generator), generator)

    :param row_sizes: length of a row of each kind
    :param steps: P      :param kind: of the schedule, ``vp`` or ``cosine``
    :param width: of the hidden layers
    :param lr, weight_decay: of AdamW; a decay of 1 halves the overfitting to a few dozen states
    :param seed: of the noise when a Trainer fits this module alone
    """

    def __init__(
        self,
        row_sizes: Mapping[str, int],
        steps: int,
        kind: str = "vp",
        width: int = 64,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.schedule = DiffusionSchedule(steps, kind)
        networks = {name: RowDenoiser(size, width, steps) for name, size in row_sizes.items()}
        self.networks: Any = nn.ModuleDict(networks)

    @classmethod
    def build(cls, config: RunConfig, problem: Any) -> SENPNN:
        """The explorer of a configuration, for a problem that can be diffused."""
        state = config.state
        return cls(problem.row_sizes(), state.steps, width=state.width, lr=state.rate)

    @property
    def floor(self) -> float:
        """Loss of the ideal predictor on white Gaussian rows; structured ones can go below."""
        return self.schedule.noise_floor()

    def loss(self, rows: Rows, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the predicted noise over all coefficients, each row at a random step.

        In training mode it also updates the running moments of the error that :meth:`generate` uses.

        :param rows: [n, d] of each kind, of about unit variance
        :returns: loss; metrics ``loss`` and ``loss_<kind of row>``, detached
        :raises ValueError: rows of other kinds or lengths
        """
        errors = self._noise_errors(rows, generator, track=self.training)
        loss = _mean_square(errors)
        metrics = {f"loss_{name}": error.detach().square().mean() for name, error in errors.items()}
        return loss, {"loss": loss.detach(), **metrics}

    @torch.no_grad()
    def held_out_loss(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """The loss on rows kept from training, every row at every step; changes nothing."""
        return _mean_square(self._noise_errors(rows, generator, every_step=True))

    @torch.no_grad()
    def chain_factors(self) -> dict[str, Tensor]:
        """Noise factors of every kind's reverse chain, for :meth:`generate`; they change as training goes on."""
        return {name: self.schedule.noise_factors(net.error_covariance()) for name, net in self.networks.items()}

    @torch.no_grad()
    def generate(
        self,
        rows: Rows,
        step: int | None = None,
        *,
        generator: torch.Generator,
        factors: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """One new row for each real one: corrupt to ``step``, reverse.

        :param rows: [n, d] of each kind
        :param step: p in [1, P], default P; a smaller one stays closer to the real sample
        :param factors: of :meth:`chain_factors`, where they are at hand
        :raises ValueError: a step outside 1 to P, rows of other kinds or lengths
        """
        step = self.schedule.steps if step is None else step
        factors, made = self.chain_factors() if factors is None else factors, {}
        for name, real in self._checked(rows).items():
            start = self.schedule.corrupt(real, step, _normal(real, generator))
            made[name] = self._reverse(self.networks[name], start, step, generator, factors[name])
        return made

    def training_step(self, batch: Rows, batch_index: int) -> Tensor:
        """Loss of one batch when this module has a Trainer of its own."""
        generator = torch.Generator(self.device).manual_seed(self.hparams.seed + self.global_step)
        loss, metrics = self.loss(batch, generator)
        self.log_dict({f"state/{name}": value for name, value in metrics.items()}, batch_size=len(_first(batch)))
        return loss

    def validation_step(self, batch: Rows, batch_index: int) -> None:
        """Held-out loss of one batch, with the same noise every time."""
        loss = self.held_out_loss(batch, torch.Generator(self.device).manual_seed(batch_index))
        self.log("state/held_out_loss", loss, batch_size=len(_first(batch)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all predictors."""
        hparams = self.hparams
        return torch.optim.AdamW(self.parameters(), lr=hparams.lr, weight_decay=hparams.weight_decay, fused=True)

    def _reverse(
        self, network: RowDenoiser, start: Tensor, step: int, generator: torch.Generator, factors: Tensor
    ) -> Tensor:
        def estimate(xp: Tensor, p: int) -> Tensor:
            return network.shrink(self.schedule.predict_x0_from_noise(xp, network(xp, p), p), p)

        return self.schedule.reverse(estimate, start, start=step, generator=generator, noise_factors=factors)

    def _noise_errors(
        self, rows: Rows, generator: torch.Generator, *, track: bool = False, every_step: bool = False
    ) -> dict[str, Tensor]:
        """Predicted minus true noise of every kind of row, [n, d]."""
        errors, steps = {}, self.schedule.steps
        for name, x0 in self._checked(rows).items():
            if every_step:
                step = torch.arange(1, steps + 1, device=x0.device).repeat_interleave(len(x0))
                x0 = x0.repeat(steps, 1)
            else:
                step = torch.randint(1, steps + 1, x0.shape[:1], generator=generator, device=x0.device)
            noise, network = _normal(x0, generator), self.networks[name]
            xp = self.schedule.corrupt(x0, step, noise)
            predicted = network(xp, step).to(noise.dtype)
            if track:
                network.track(x0, self.schedule.predict_x0_from_noise(xp, predicted.detach(), step), step)
            errors[name] = predicted - noise
        return errors

    def _checked(self, rows: Rows) -> Rows:
        found = {name: tensor.shape[-1] for name, tensor in rows.items()}
        if found != dict(self.hparams.row_sizes):
            raise ValueError(f"SENPNN was built for rows of {dict(self.hparams.row_sizes)} numbers, these are {found}")
        return rows

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        for name, own in self.state_dict().items():
            stored = state_dict.get(prefix + name)
            if stored is not None and stored.shape != own.shape:
                mine = ", ".join(f"{key}={value}" for key, value in self.hparams.items() if key != "seed")
                raise CheckpointError(
                    f"the stored SENPNN does not fit this one ({mine}): {prefix + name} is {tuple(stored.shape)}, "
                    f"here {tuple(own.shape)}; build it with the rows, steps and width it was trained with"
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class RowDataset(Dataset):
    """Rows of N states for a Trainer; whole batches are indexed at once.

    :param rows: [N n, d] of each kind, those of a state side by side
    :param states: N
    :raises ValueError: rows that are not finite, not of about unit variance, or not as many for each state
    """

    def __init__(self, rows: Rows, states: int):
        for name, tensor in rows.items():
            if len(tensor) % states:
                raise ValueError(f"{len(tensor)} rows of {name} are not as many for each of {states} states")
            if not bool(tensor.isfinite().all()):
                raise ValueError(f"rows of {name} hold NaN or infinite values; remove those states")
            power = float(tensor.double().square().mean())
            if not 1e-2 < power < 1e2:
                raise ValueError(f"rows of {name} have a mean square of {power:.2g}, not about 1; whiten them first")
        self.rows = {name: tensor.unflatten(0, (states, -1)) for name, tensor in rows.items()}
        self.states = states

    def __len__(self) -> int:
        return self.states

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """The rows of some states."""
        chosen = torch.tensor(indices)
        return {name: tensor[chosen].flatten(0, 1) for name, tensor in self.rows.items()}

    def loader(self, batch_size: int, shuffle: bool = True, generator: torch.Generator | None = None) -> DataLoader:
        """Batches of rows."""
        return DataLoader(self, batch_size=batch_size, shuffle=shuffle, generator=generator, collate_fn=_as_it_is)


def _as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch


def _first(rows: Rows) -> Tensor:
    return next(iter(rows.values()))


def _mean_square(errors: dict[str, Tensor]) -> Tensor:
    squares = [error.square().sum() for error in errors.values()]
    return torch.stack(squares).sum() / sum(error.numel() for error in errors.values())


def _fold(average: Tensor, value: Tensor, rate: float) -> None:
    average.lerp_(torch.where(torch.isfinite(value), value, average), rate)


def _normal(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype, device=tensor.device)
