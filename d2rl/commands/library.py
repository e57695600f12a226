"""Training for programs and notebooks: :func:`d2rl.train`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from d2rl.algorithm.policy import Policy
from d2rl.commands.train_eval import configuration, train_run
from d2rl.common.command_line import NOISE, TALKATIVE
from d2rl.common.errors import ConfigError
from d2rl.common.host import surroundings_kept
from d2rl.config.defaults import RunConfig
from d2rl.config.load import conf_name, processes
from d2rl.deploy.pretrained import load_policy
from d2rl.problems import load_config


@dataclass(frozen=True)
class TrainedRun:
    """A training that has ended.

    :param path: the run directory
    :param report: content of its eval.json: the policy and the references
    """

    path: Path
    report: dict[str, Any]

    @cached_property
    def policy(self) -> Policy:
        """The policy of the best epoch, ready to decide."""
        return load_policy(str(self.path))[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """What Lightning tells of itself stays out of a program's output, and what it and PyTorch set when they are
    imported out of its environment."""
    before = {name: logging.getLogger(name).level for name in TALKATIVE}
    with warnings.catch_warnings(), surroundings_kept():
        for message in NOISE:
            warnings.filterwarnings("ignore", message=f".*{message}.*")
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


def train_quietly(config: str | RunConfig, overrides: Sequence[str]) -> TrainedRun:
    if isinstance(config, str):
        arguments, base = [config, *overrides], None
    elif not isinstance(config, RunConfig):
        raise ConfigError(
            f'd2rl.train takes texts, such as d2rl.train("conf=smoke", "seed=1"), or a configuration, and got a '
            f"{type(config).__name__}; a list of texts is given as d2rl.train(*LIST)."
        )
    else:
        arguments, base = list(overrides), asdict(config)
    asked, checkpoint = configuration(arguments, load_config(arguments, base=base))
    if processes(asked.trainer) > 1:
        raise ConfigError(
            "trainer.devices x trainer.nodes is more than 1: several processes are started by d2rl-train, not from "
            "within a program; set both to 1."
        )
    quiet = replace(asked, trainer=replace(asked.trainer, progress=False))
    with _quiet():
        done = train_run(quiet, conf_name(arguments), checkpoint, quiet=True)
    assert done is not None  # this is the first process
    run, report = done
    return TrainedRun(run.path, report)
