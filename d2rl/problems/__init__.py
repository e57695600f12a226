"""Radio problems: what an agent acts in. None of them knows of learning.

To add one, write a folder, a line in :data:`PROBLEMS`, and a YAML; from outside this package, ``problem=MODULE:CLASS``
needs no line. The class has ``settings`` (a dataclass of its keys), ``section`` (the name of that section) and
``variants(settings, seed)`` (the problems that one training visits in turn, the first its own). One that stands on
another problem names the sections of that in ``beside`` (name -> dataclass), and gets them after its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from d2rl.common.errors import ConfigError
from d2rl.common.imports import named_class
from d2rl.config.defaults import Config, RunConfig
from d2rl.config.load import check, given_value, load

if TYPE_CHECKING:
    from d2rl.problems.base import Problem

DEFAULT = "full_duplex"
PROBLEMS = {
    DEFAULT: "d2rl.problems.full_duplex.problem:FullDuplexProblem",
    "gymnasium": "d2rl.problems.gymnasium:GymnasiumProblem",
    "ris": "d2rl.problems.ris.problem:RisProblem",
    "traffic": "d2rl.problems.traffic.problem:TrafficProblem",
}


def problem_class(name: str) -> Any:
    """The class of a problem, by its name in :data:`PROBLEMS` or as MODULE:CLASS.

    :raises ConfigError: there is none, or it cannot be imported
    """
    return named_class(name, PROBLEMS, "problem")


@cache
def config_class(name: str) -> type[RunConfig]:
    """The configuration of a run on a problem: everything of a run, and the problem's own section."""
    if name == DEFAULT:
        return Config
    problem = problem_class(name)
    own = {problem.section: problem.settings, **getattr(problem, "beside", {})}
    parts = [(section, settings, field(default_factory=settings)) for section, settings in own.items()]
    return make_dataclass("Config", parts, bases=(RunConfig,), namespace={"__module__": __name__})


def load_config(arguments: Sequence[str], base: Any = None, directory: Any = None) -> Any:
    """The configuration that arguments ask for, of the class that fits their problem; see :func:`load`.

    ``problem=NAME`` without ``conf=`` begins from the file of that name: the defaults are those of the first problem.

    :raises ConfigError: as :func:`load` does; a key of another problem than this one
    """
    name = given_value("problem", arguments, directory, base) or DEFAULT
    if base is None and name in {*PROBLEMS} - {DEFAULT} and given_value("conf", arguments) is None:
        arguments = [f"conf={name}", *arguments]
    own = {one.name for one in fields(config_class(name))}
    for section in {argument.partition("=")[0].partition(".")[0] for argument in arguments} & {*PROBLEMS} - own:
        raise ConfigError(
            f"{section} is a section of problem={section}, and this is problem={name}; add problem={section}."
        )
    return load(arguments, config_class(name), directory, base)


def check_config(config: RunConfig) -> None:
    """Refuse values that fit alone but not together. :raises ConfigError: names the keys"""
    check(config)
    problem_class(config.problem).check(config)


def check_files(config: RunConfig) -> None:
    """Read the files that the problem's section names. :raises ConfigError: one cannot be used"""
    reads = getattr(problem_class(config.problem), "check_files", None)
    if reads is not None:
        reads(config)


def tied_keys(config: RunConfig) -> list[str]:
    """Keys of the problem's section that stored weights, replay and world are tied to."""
    problem = problem_class(config.problem)
    keys = getattr(problem, "tied", None) or [field.name for field in fields(problem.settings)]
    beside = [f"{name}.{field.name}" for name, kind in getattr(problem, "beside", {}).items() for field in fields(kind)]
    return [*(f"{problem.section}.{key}" for key in keys), *beside]


def settings_of(config: RunConfig) -> Any:
    """The problem's own section of a configuration."""
    return getattr(config, problem_class(config.problem).section)


def make_problems(config: RunConfig) -> list[Problem]:
    """The problems that a training visits in turn; the first is the configuration's own."""
    problem = problem_class(config.problem)
    beside = [getattr(config, section) for section in getattr(problem, "beside", {})]
    return problem.variants(settings_of(config), *beside, config.seed)
