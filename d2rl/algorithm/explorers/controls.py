"""Controls of the state explorer: synthetic states without diffusion, under the same stage and the same chi.

Each trains SENPNN beside, whose loss moves chi, and makes its states in another way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from d2rl.algorithm.explorers.state import SENPNN, KindsOfRows, turned
from d2rl.common.errors import ConfigError
from d2rl.problems.base import Rows

Stored = TypeVar("Stored")


class Turn(SENPNN):
    """The same states, each row under another common phase where that phase is arbitrary."""

    @torch.no_grad()
    def generate(self, rows: KindsOfRows, step: int | None = None, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Rows that only phases tell from the real ones."""
        return {name: turned(real, generator) for name, real in self._checked(rows).items()}


class Noise(SENPNN):
    """The same states with noise: a row is corrupted to step p (``state.corrupt``) and not denoised."""

    @torch.no_grad()
    def generate(self, rows: KindsOfRows, step: int | None = None, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Noisy rows."""
        step, made = self.schedule.steps if step is None else step, {}
        for name, real in self._checked(rows).items():
            numbers = turned(real, generator)
            noise = torch.randn(numbers.shape, generator=generator, device=numbers.device)
            made[name] = self.schedule.corrupt(numbers, step, noise)
        return made


class Mix(SENPNN):
    """Each row of a state is the row in its place of another stored state, drawn at random."""

    stored: KindsOfRows

    def remember(self, rows: KindsOfRows | None) -> None:
        """Take the rows of the states to train on.

        :raises ConfigError: there is no fixed set of them
        """
        self.stored = self.given(rows)

    @classmethod
    def given(cls, stored: Stored | None) -> Stored:
        """What is stored. :raises ConfigError: nothing is"""
        if stored is None:
            raise ConfigError(
                f"state.explorer={cls.__name__.lower()} makes states of a stored set, and every slot has new ones "
                "here; set scenario.stored_states or scenario.channel_bank, or state.explorer=senpnn."
            )
        return stored

    @torch.no_grad()
    def generate(self, rows: KindsOfRows, step: int | None = None, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Rows of several states beside each other."""
        return {name: mixed(real, self.stored[name], generator) for name, real in self._checked(rows).items()}


class Gaussian(Mix):
    """Each row is drawn from a Gaussian with mean and covariance of the rows in its place of all stored states.

    With few states the covariance is drawn to that of all places, as far as S states against d numbers ask for:
    C = (S C_place + d C_all) / (S + d). Rows of complex numbers with an arbitrary phase have mean 0 and a complex
    covariance.
    """

    def remember(self, rows: KindsOfRows | None) -> None:
        """Take means and covariances of the states to train on."""
        super().remember(rows)
        self.moments = {name: _moments(one) for name, one in self.stored.items()}

    @torch.no_grad()
    def generate(self, rows: KindsOfRows, step: int | None = None, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Gaussian rows."""
        made = {}
        for name, real in self._checked(rows).items():
            mean, factor = self.moments[name]
            shape = (*real.numbers.shape[:2], factor.shape[-1])
            noise = torch.randn(shape, generator=generator, dtype=factor.dtype, device=factor.device)
            row = mean + torch.einsum("nij,bnj->bni", factor, noise)
            made[name] = torch.view_as_real(row).flatten(-2) if row.is_complex() else row
        return made


def mixed(rows: Rows, others: Rows, generator: torch.Generator) -> Tensor:
    """Numbers [B, n, d] for rows, each those in its place of another state, under another common phase.

    :param others: rows of the states to take them from
    """
    shape, device = rows.numbers.shape[:2], rows.numbers.device
    chosen = torch.randint(others.batch, shape, generator=generator, device=device)
    return turned(replace(rows, numbers=others.numbers[chosen, torch.arange(shape[1], device=device)]), generator)


def _moments(rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean [n, d] and Cholesky factor [n, d, d] of the rows in each place; complex, with d / 2, where circular."""
    numbers = rows.numbers.double()
    if rows.circular:
        numbers = torch.view_as_complex(numbers.unflatten(-1, (-1, 2)))
    states, size = numbers.shape[0], numbers.shape[-1]
    mean = torch.zeros_like(numbers[0]) if rows.circular else numbers.mean(0)
    centred = (numbers - mean).transpose(0, 1)
    own = centred.mT @ centred.conj() / states
    shared = own.mean(0)
    covariance = (states * own + size * shared) / (states + size)
    covariance = covariance + 1e-6 * torch.eye(size, dtype=own.dtype, device=own.device)
    factor = torch.linalg.cholesky(covariance)
    single = torch.complex64 if rows.circular else torch.float32
    return mean.to(single), factor.to(single)
