"""From one YAML to the cells of a benchmark: variants x scenarios x seeds, each a checked configuration."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from d2rl.config import Config, option
from d2rl.errors import ConfigError
from d2rl.schema import either, show
from d2rl.settings import check, load

PLACES = (Path("conf/benchmarks"), Path(__file__).resolve().parents[2] / "conf" / "benchmarks")
NAME = re.compile(r"\w[\w.]*")  # no dash: it joins the parts of a cell's name
OF_THE_CELL = ("seed", "run_dir", "resume", "logger.mode", "trainer.progress")
FORM = "a list of key=value, or a section with conf, set and title"


@dataclass
class BenchmarkConfig:
    """A matrix; conf/benchmarks/<name>.yaml and the command line say what differs from these defaults."""

    title: str | None = option(None, "heading of the report")
    base: str = option("full_duplex", "conf=NAME that every variant starts from")
    set: Any = option(None, "list of key=value for every cell")
    variants: Any = option(None, f"name: {FORM}")
    scenarios: Any = option(None, "name: list of key=value, after the variant's; null: default")
    baseline: str | None = option(None, "variant that ratios are taken over")
    ours: str | None = option(None, "variant whose ratios head the summary")
    seeds: int = option(5, "how many", low=1)
    seed: int = option(0, "the first of them", low=0)
    out: str | None = option(None, "where it writes; null: runs/benchmark-<name>")
    launcher: str = option("local", "processes here, or tasks of a Ray cluster", choices=("local", "ray"))
    jobs: int = option(0, "cells side by side; 0: one per core, on a GPU one alone", low=0)
    latency: bool = option(True, "time the references' decisions too, in one cell of each scenario")


@dataclass(frozen=True)
class Variant:
    """One algorithm: its conf, what it overrides, and its name in figures."""

    conf: str
    overrides: tuple[str, ...]
    title: str


@dataclass(frozen=True)
class Cell:
    """One training run.

    :param arguments: of train.py, without run_dir
    :param fingerprint: of the resolved configuration; a result with another one is out of date
    :param references: whether it also times the references' decisions
    :param policy: name of what it trains in its eval.json
    """

    variant: str
    scenario: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    config: Config = field(compare=False)
    fingerprint: str
    references: bool
    policy: str = "d2rl"

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.variant}-{self.scenario}-{self.seed}"


@dataclass(frozen=True)
class Matrix:
    """A checked benchmark."""

    name: str
    config: BenchmarkConfig
    variants: dict[str, Variant]
    scenarios: tuple[str, ...]
    out: Path
    cells: list[Cell]

    @property
    def baseline(self) -> str:
        """Variant that ratios are taken over."""
        return str(self.config.baseline)

    @property
    def ours(self) -> str:
        """Variant whose ratios head the summary."""
        return str(self.config.ours)


def read_matrix(arguments: Sequence[str]) -> Matrix:
    """The benchmark that ``conf=NAME`` and the other arguments ask for.

    Arguments with a dot, such as ``trainer.epochs=2``, are overrides of every cell and count last.

    :raises ConfigError: names the file and the key
    """
    own = [one for one in arguments if "." not in one.partition("=")[0]]
    everywhere = [one for one in arguments if one not in own]
    name, path = _file(own)
    config = load([*own, f"conf={path}"], BenchmarkConfig)
    return _Reader(path, config, everywhere).matrix(name)


def fingerprint(config: Config) -> str:
    """Same for two configurations that train the same agent, wherever they write."""
    same = asdict(replace(config, run_dir=None, resume=None))
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def _file(own: Sequence[str]) -> tuple[str, Path]:
    names = [one.partition("=")[2] for one in own if one.startswith("conf=")]
    available = sorted({path.stem for place in PLACES for path in place.glob("*.yaml")})
    if not names:
        raise ConfigError(f"conf=NAME is missing; available in {either(PLACES)}: {', '.join(available)}.")
    for path in (Path(names[-1]).expanduser(), *(place / f"{names[-1]}.yaml" for place in PLACES)):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path.stem, path
    near = difflib.get_close_matches(names[-1], available, 1, 0.4)
    meant = f" Did you mean {near[0]}?" if near else ""
    raise ConfigError(f"conf={names[-1]} is no benchmark. Available: {', '.join(available) or 'nothing'}.{meant}")


class _Reader:
    """Checks a matrix while building it; every message begins with the file."""

    def __init__(self, path: Path, config: BenchmarkConfig, everywhere: list[str]):
        self.path, self.config = path, config
        self.all, self.last = self._overrides("set", config.set), self._overrides("command line", everywhere)

    def matrix(self, name: str) -> Matrix:
        config, out = self.config, Path(self.config.out or f"runs/benchmark-{name}").expanduser()
        variants = {key: self._variant(key, value) for key, value in self._named("variants", config.variants).items()}
        if not variants:
            raise self._error(f"variants is missing; give at least one, {FORM}.")
        for key in ("baseline", "ours"):
            self._choice(key, getattr(config, key), variants)
        scenarios = {
            key: self._overrides(f"scenarios.{key}", value)
            for key, value in (self._named("scenarios", config.scenarios) or {"default": []}).items()
        }
        cells = [
            cell
            for scenario, world in scenarios.items()
            for key, variant in variants.items()
            for cell in self._cells(out, key, variant, scenario, world)
        ]
        return Matrix(name, config, variants, tuple(scenarios), out, cells)

    def _cells(self, out: Path, name: str, variant: Variant, scenario: str, world: list[str]) -> list[Cell]:
        """The seeds of one variant in one scenario."""
        arguments = [f"conf={variant.conf}", "trainer.threads=1", *self.all, *variant.overrides, *world, *self.last]
        arguments += ["logger.mode=disabled", "trainer.progress=false"]
        try:
            config = load(arguments)
            check(config)
        except ConfigError as error:
            raise self._error(f"variants.{name} in scenario {scenario}: {error.args[0]}") from None
        cells = []
        for seed in range(self.config.seed, self.config.seed + self.config.seeds):
            seeded = replace(config, seed=seed)
            cells.append(
                Cell(
                    variant=name,
                    scenario=scenario,
                    seed=seed,
                    folder=out.absolute() / "cells" / f"{name}-{scenario}-{seed}",
                    arguments=(*arguments, f"seed={seed}"),
                    config=seeded,
                    fingerprint=fingerprint(seeded),
                    references=self.config.latency and name == self.config.ours and seed == self.config.seed,
                )
            )
        return cells

    def _variant(self, name: str, value: Any) -> Variant:
        key = f"variants.{name}"
        if not isinstance(value, Mapping):
            return Variant(self.config.base, tuple(self._overrides(key, value)), name)
        for given in value:
            if given not in ("conf", "set", "title"):
                near = difflib.get_close_matches(given, ("conf", "set", "title"), 1, 0)[0]
                raise self._error(f"{key}.{given} is not a key. Did you mean {key}.{near}?")
        for text in ("conf", "title"):
            if not isinstance(value.get(text, ""), str):
                raise self._error(f"{key}.{text} cannot be {show(value[text])}; it must be text.")
        overrides = self._overrides(f"{key}.set", value.get("set"))
        return Variant(value.get("conf", self.config.base), tuple(overrides), value.get("title", name))

    def _named(self, key: str, value: Any) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self._error(f"{key} cannot be {show(value)}; it must be a section with a name for each.")
        for name in value:
            if not NAME.fullmatch(str(name)):
                raise self._error(f"{key}.{name} is no name for a folder; use letters, digits, _ and dots.")
        return value

    def _overrides(self, key: str, value: Any) -> list[str]:
        if value is None:
            return []
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, str) for one in value):
            form = FORM if key.startswith("variants.") and not key.endswith(".set") else "a list of key=value"
            raise self._error(f"{key} cannot be {show(value)}; it must be {form}.")
        for override in value:
            given = override.partition("=")[0]
            if given in OF_THE_CELL:
                raise self._error(f"{key}: {given} is set by the benchmark itself; leave it out.")
            if given == "conf":
                raise self._error(f"{key}: conf is no override; use a section, such as {{conf: NAME, set: [...]}}.")
        return list(value)

    def _choice(self, key: str, name: str | None, variants: Mapping[str, Variant]) -> None:
        if name in variants:
            return
        if name is None:
            raise self._error(f"{key} is missing; it must be one of the variants {either(variants)}.")
        near = difflib.get_close_matches(name, variants, 1, 0)[0]
        raise self._error(f"{key} cannot be {name!r}; it must be one of the variants. Did you mean {near}?")

    def _error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.path}: {message}")
