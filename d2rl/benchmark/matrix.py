"""From one YAML to the cells of a benchmark: variants x scenarios x seeds, each a checked configuration."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from d2rl.algorithm.checks import check_run
from d2rl.common.errors import ConfigError, meant
from d2rl.config.defaults import Config, option
from d2rl.config.key_use import refuse_unused
from d2rl.config.load import find_yaml, load, shipped_conf
from d2rl.config.schema import either, show
from d2rl.problems import load_config

PLACES = (Path("conf/benchmarks"), shipped_conf() / "benchmarks")
NAME = re.compile(r"\w[\w.]*")  # no dash: it joins the parts of a cell's name
OF_THE_CELL = ("seed", "run_dir", "resume", "initial", "logger.mode", "trainer.progress")
FORM = "a list of key=value, or a section with conf, set, title and initial"
KEYS = ("conf", "set", "title", "initial")  # of a variant's section
START = ("variant", "scenario")  # keys of its initial
DEFAULT = "default"  # scenario of a matrix without scenarios, and of an initial that names none


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
class Start:
    """The finished cell of the same seed whose weights a cell starts from."""

    variant: str
    scenario: str


@dataclass(frozen=True)
class Variant:
    """One algorithm: its conf, what it overrides, its name in figures, and what it starts from (None: nothing)."""

    conf: str
    overrides: tuple[str, ...]
    title: str
    initial: Start | None = None


@dataclass(frozen=True)
class Cell:
    """One training run.

    :param arguments: of d2rl-train, without run_dir
    :param fingerprint: of the resolved configuration and of the cell it starts from; a result with another one is out
        of date
    :param references: whether it also times the references' decisions
    :param policy: name of what it trains in its eval.json
    :param needs: name of the cell that it starts from, None where its weights are drawn anew
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
    needs: str | None = None

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


def fingerprint(config: Config, initial: str | None = None) -> str:
    """Same for two configurations that train the same agent, wherever they write.

    :param initial: fingerprint of the cell whose weights it starts from
    """
    same = asdict(replace(config, run_dir=None, resume=None, initial=None))
    return digest([same, initial] if initial else same)


def digest(settings: Any) -> str:
    """What tells settings apart, 16 letters."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _file(own: Sequence[str]) -> tuple[str, Path]:
    names = [one.partition("=")[2] for one in own if one.startswith("conf=")]
    if not names:
        available = sorted({path.stem for place in PLACES for path in place.glob("*.yaml")})
        raise ConfigError(f"conf=NAME is missing; available in {either(PLACES)}: {', '.join(available)}.")
    path = find_yaml(names[-1], PLACES, f"the benchmark conf={names[-1]}")
    return path.stem, path


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
            for key, value in (self._named("scenarios", config.scenarios) or {DEFAULT: []}).items()
        }
        drawn: dict[tuple[str, str], list[Cell]] = {
            (scenario, key): self._cells(out, key, variant, scenario, world)
            for scenario, world in scenarios.items()
            for key, variant in variants.items()
            if variant.initial is None
        }
        cells = []
        for scenario, world in scenarios.items():
            for key, variant in variants.items():
                if variant.initial is None:
                    cells += drawn[scenario, key]
                    continue
                start = self._start(key, variant.initial, drawn, scenarios)
                if scenario != variant.initial.scenario:  # there the training would only go on
                    cells += self._cells(out, key, variant, scenario, world, start)
        return Matrix(name, config, variants, tuple(scenarios), out, cells)

    def _start(
        self, name: str, start: Start, drawn: Mapping[tuple[str, str], list[Cell]], scenarios: Mapping[str, Any]
    ) -> list[Cell]:
        """The cells that a variant starts from, one for each seed."""
        key = f"variants.{name}.initial"
        self._choice(key, start.variant, [variant for _, variant in drawn], "variants without an initial of their own")
        self._choice(f"{key}.scenario", start.scenario, scenarios, "scenarios")
        if len(scenarios) == 1:
            raise self._error(f"{key} needs a scenario besides {start.scenario}: the one in which training goes on.")
        return drawn[start.scenario, start.variant]

    def _cells(
        self,
        out: Path,
        name: str,
        variant: Variant,
        scenario: str,
        world: list[str],
        start: Sequence[Cell] | None = None,
    ) -> list[Cell]:
        """The seeds of one variant in one scenario, each from the weights of its cell in ``start``."""
        arguments = [f"conf={variant.conf}", "trainer.threads=1", *self.all, *variant.overrides, *world, *self.last]
        arguments += ["logger.mode=disabled", "trainer.progress=false"]
        try:
            config = load_config(arguments)
            check_run(config)
        except ConfigError as error:
            raise self._error(f"variants.{name} in scenario {scenario}: {error.args[0]}") from None
        for key in ("resume", "initial"):
            if getattr(config, key) is not None:
                raise self._error(f"variants.{name}: conf={variant.conf} gives {key}, which the benchmark itself sets.")
        cells = []
        for index, seed in enumerate(range(self.config.seed, self.config.seed + self.config.seeds)):
            seeded, before = replace(config, seed=seed), start[index] if start else None
            initial = [f"initial={before.folder}"] if before else []
            cells.append(
                Cell(
                    variant=name,
                    scenario=scenario,
                    seed=seed,
                    folder=out.absolute() / "cells" / f"{name}-{scenario}-{seed}",
                    arguments=(*arguments, f"seed={seed}", *initial),
                    config=seeded,
                    fingerprint=fingerprint(seeded, before.fingerprint if before else None),
                    references=self.config.latency and name == self.config.ours and seed == self.config.seed,
                    needs=before.name if before else None,
                )
            )
        return cells

    def _variant(self, name: str, value: Any) -> Variant:
        key = f"variants.{name}"
        if not isinstance(value, Mapping):
            return Variant(self.config.base, tuple(self._overrides(key, value)), name)
        for given in value:
            if given not in KEYS:
                near = difflib.get_close_matches(given, KEYS, 1, 0)[0]
                raise self._error(f"{key}.{given} is not a key. Did you mean {key}.{near}?")
        for text in ("conf", "title"):
            if not isinstance(value.get(text, ""), str):
                raise self._error(f"{key}.{text} cannot be {show(value[text])}; it must be text.")
        overrides = self._overrides(f"{key}.set", value.get("set"))
        start = self._initial(f"{key}.initial", value.get("initial"))
        return Variant(value.get("conf", self.config.base), tuple(overrides), value.get("title", name), start)

    def _initial(self, key: str, value: Any) -> Start | None:
        """``initial: VARIANT`` in scenario default, or ``initial: {variant: NAME, scenario: NAME}``."""
        if value is None:
            return None
        given = {"variant": value} if isinstance(value, str) else value
        texts = isinstance(given, Mapping) and all(isinstance(one, str) for one in given.values())
        if not texts or "variant" not in given or any(name not in START for name in given):
            raise self._error(
                f"{key} cannot be {show(value)}; it must be a variant, or a section with variant and scenario."
            )
        return Start(given["variant"], given.get("scenario", DEFAULT))

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
            try:
                refuse_unused("benchmark", [override])
            except ConfigError as error:
                raise self._error(f"{key}: {error.args[0]}") from None
            if given == "conf":
                raise self._error(f"{key}: conf is no override; use a section, such as {{conf: NAME, set: [...]}}.")
        return list(value)

    def _choice(self, key: str, name: str | None, among: Collection[str], kind: str = "variants") -> None:
        if name in among:
            return
        if name is None:
            raise self._error(f"{key} is missing; it must be one of the {kind} {either(among)}.")
        raise self._error(f"{key} cannot be {name!r}; it must be one of the {kind}.{meant(name, among, 0)}")

    def _error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.path}: {message}")
