"""Seeded fixtures: channels of the default full-duplex scenario and of its variations."""

from __future__ import annotations

import atexit
import csv
import importlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch

from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.full_duplex import references
from d2rl.problems.full_duplex.kept_decisions import DIRECTORY
from d2rl.problems.full_duplex.problem import FullDuplexProblem
from d2rl.wireless import ChannelState
from d2rl.wireless.fading import complex_normal, rician, scale
from d2rl.wireless.propagation import LinkBudget, LinkGains, thermal_noise, user_positions

# Tests run on all cores already; programs that they start read the variable.
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))

# A shell that starts the tests in the background has them, and the programs that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CPU = torch.device("cpu")
SCRIPTS = Path(__file__).resolve().parents[1] / "benchmarks"

# Nobody's cache is read or written, and references of small sets need not converge; those of the package have.
if DIRECTORY not in os.environ:
    os.environ[DIRECTORY] = tempfile.mkdtemp(prefix="d2rl-")
    atexit.register(shutil.rmtree, os.environ[DIRECTORY], ignore_errors=True)
references.LIMIT = 30
references.ITERATIONS = 10


def draw_channels(
    batch: int = 16,
    seed: int = 0,
    *,
    downlink_users: int = 6,
    uplink_users: int = 4,
    transmit_antennas: int = 8,
    receive_antennas: int = 8,
    self_interference: float = -90.0,
    path_loss: str = "los",
) -> tuple[ChannelState, LinkGains]:
    """Independent drops of the default scenario (Rayleigh links, Rician self-interference) and their gains."""
    generator = torch.Generator().manual_seed(seed)
    budget = LinkBudget(
        bs_power=26.0,
        user_power=23.0,
        noise_downlink=thermal_noise(10.0, -174.0, 9.0),
        noise_uplink=thermal_noise(10.0, -174.0, 5.0),
        self_interference=self_interference,
        path_loss=path_loss,
    )
    gains = budget.gains(
        user_positions(batch, downlink_users, 100.0, 10.0, generator, CPU),
        user_positions(batch, uplink_users, 100.0, 10.0, generator, CPU),
    )
    small = ChannelState(
        downlink=complex_normal((batch, downlink_users, transmit_antennas), generator, CPU),
        uplink=complex_normal((batch, uplink_users, receive_antennas), generator, CPU),
        cross=complex_normal((batch, uplink_users, downlink_users), generator, CPU),
        self_interference=rician(
            complex_normal((batch, receive_antennas, transmit_antennas), generator, CPU), factor=1.0
        ),
    )
    return scale(small, gains), gains


def problem_of(channels: ChannelState, head: str = "structured") -> FullDuplexProblem:
    """The cell whose channels these are."""
    users = {"downlink_users": channels.downlink_users, "uplink_users": channels.uplink_users}
    antennas = {"transmit_antennas": channels.transmit_antennas, "receive_antennas": channels.receive_antennas}
    return FullDuplexProblem(FullDuplexConfig(**users, **antennas, head=head))


def pairs(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Combinations in which any two values of different factors meet; far fewer than all combinations."""

    def meetings(row: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(combinations(enumerate(row), 2))

    rows = list(product(*(range(len(factor)) for factor in factors)))
    missing, chosen = set().union(*map(meetings, rows)), []
    while missing:
        chosen.append(max(rows, key=lambda row: len(meetings(row) & missing)))
        missing -= meetings(chosen[-1])
    return [tuple(factor[n] for factor, n in zip(factors, row, strict=True)) for row in chosen]


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def make_channels() -> Callable[..., ChannelState]:
    """Factory of channels: ``make_channels(batch, seed, self_interference=-110.0, ...)``."""
    return lambda *args, **kwargs: draw_channels(*args, **kwargs)[0]


@pytest.fixture
def channels() -> ChannelState:
    """16 drops of the default scenario."""
    return draw_channels()[0]


@pytest.fixture
def gains() -> LinkGains:
    """The mean gains behind ``channels``."""
    return draw_channels()[1]


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own."""
    return torch.Generator().manual_seed(7)


# ------------------------------------------------------------------ agents that train in a moment

TINY = (
    *("scenario.downlink_users=3", "scenario.uplink_users=2"),
    *("scenario.transmit_antennas=4", "scenario.receive_antennas=4"),
    *("network.width=8", "network.layers=1", "ddpg.batch=8", "ddpg.replay=64", "ddpg.warmup_updates=2"),
    *("action.steps=3", "action.candidates=2", "reward.steps=2", "reward.samples=2", "reward.every=1"),
    *("state.steps=3", "state.width=8", "state.every=1"),
    *("trainer.epochs=2", "trainer.updates_per_epoch=4", "trainer.updates_per_step=2", "trainer.num_envs=8"),
    *("trainer.updates_per_slot=1", "trainer.checkpoint_every=1", "trainer.accelerator=cpu", "trainer.progress=false"),
    *("evaluation.drops=8", "logger.mode=disabled"),
)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """Factory of small configurations: ``tiny("reward.case=raw", ...)``."""
    from d2rl.problems import load_config

    return lambda *overrides: load_config([*TINY, *overrides])


@pytest.fixture(scope="session")
def tiny_arguments() -> list[str]:
    """The same as arguments of a command."""
    return list(TINY)


@pytest.fixture(scope="session")
def fit() -> Callable[..., Any]:
    """Train an agent in a Trainer with nothing but the callbacks given: ``fit(agent, callback, ..., epochs=1)``.

    A callback may be a function of (trainer, agent), which is called after every training step. ``checkpoint`` is the
    file to go on from.
    """
    import lightning as L
    from lightning.pytorch.callbacks import Callback, LambdaCallback
    from torch.utils.data import DataLoader

    from d2rl.training.checkpoint import CheckpointFiles

    def after_each_step(function: Callable[..., Any]) -> Callback:
        return LambdaCallback(on_train_batch_end=lambda trainer, agent, *_: function(trainer, agent))

    def train(
        agent: Any,
        *callbacks: Any,
        epochs: int = 1,
        logger: Any = False,
        accelerator: str = "cpu",
        checkpoint: Path | None = None,
    ) -> L.Trainer:
        plan = agent.config.trainer
        trainer = L.Trainer(
            accelerator=accelerator,
            max_epochs=epochs,
            logger=logger,
            callbacks=[one if isinstance(one, Callback) else after_each_step(one) for one in callbacks],
            enable_checkpointing=False,
            plugins=[CheckpointFiles()],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        steps = DataLoader(range(plan.updates_per_epoch // plan.updates_per_step), batch_size=None)
        trainer.fit(agent, steps, ckpt_path=checkpoint, weights_only=True)
        return trainer

    return train


@pytest.fixture
def script(monkeypatch) -> Callable[[str], Any]:
    """A script of benchmarks/ as a module, by name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return importlib.import_module
