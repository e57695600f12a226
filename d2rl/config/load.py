"""From arguments and YAML files to a checked configuration; every mistake is a ConfigError that names the key."""

from __future__ import annotations

import difflib
import importlib.util
import netrc
import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlparse

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from typing_extensions import TypeVar

from d2rl.common.errors import CheckpointError, ConfigError, first_line
from d2rl.config import schema as keys
from d2rl.config.defaults import AUTO, STAGES, Config, RunConfig, TrainerConfig, first_epoch
from d2rl.config.schema import Leaf, either, leaves, show, unknown

T = TypeVar("T", default=Config)
PROJECT = re.compile(r"[^/\\#?%:]{1,128}")
SPLIT = ("trainer.num_envs", "ddpg.replay", "ddpg.batch", "ddpg.critic_batch")  # totals over all processes
Given = dict[str, tuple[Any, str]]  # key: value as given, where ("" is the command line)


def load(
    arguments: Sequence[str],
    schema: type[T] = Config,  # type: ignore[assignment]
    directory: str | Path | None = None,
    base: Mapping[str, Any] | None = None,
) -> T:
    """Defaults, then ``base``, then ``conf=NAME``, then ``key=value``; the last one counts.

    Call :func:`check` on a :class:`Config` that is to be run.

    :param arguments: ``conf=NAME`` (or a path to a .yaml) and ``section.key=value``
    :param directory: where names are searched; ./conf, then the conf that comes with d2rl by default
    :param base: values instead of the defaults, such as the configuration of a checkpoint
    :raises ConfigError: names the key, what it got, what it wants and the nearest valid ones
    """
    known = leaves(schema if base is None else from_mapping(base, schema))
    given: Given = {}
    pairs = [_split(arguments[n:], known) for n in range(len(arguments))]
    if names := [text for key, text in pairs if key == "conf"]:
        for path, content in _files(names[-1], _directories(directory)):
            given |= _flat(content, known, f"{path}: ")
    for key, text in pairs:
        if key != "conf":
            given |= _flat({key: _parse(key, text, known)}, known)
    return _build(schema, known, _interpolate(known, given))


def given_value(
    key: str, arguments: Sequence[str], directory: str | Path | None = None, base: Mapping[str, Any] | None = None
) -> str | None:
    """What a key of the top level gets, before it is known which keys there are; None where it is not given."""
    values = {name: text for name, _, text in (argument.partition("=") for argument in arguments)}
    if key in values:
        return values[key]
    if "conf" in values:
        for _, content in reversed(_files(values["conf"], _directories(directory))):
            if key in content:
                return str(content[key])
    return None if base is None else base.get(key)


def shipped_conf() -> Path:
    """The folder of the configurations that come with d2rl: inside the installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def conf_name(arguments: Sequence[str]) -> str:
    """The name that ``conf=`` gives, for run directories; ``default`` without one."""
    names = [argument.partition("=")[2] for argument in arguments if argument.startswith("conf=")]
    return Path(names[-1]).stem if names else "default"


def from_mapping(mapping: Mapping[str, Any], schema: type[T] = Config) -> T:  # type: ignore[assignment]
    """The configuration that a checkpoint carries (``dataclasses.asdict``); keys it lacks take their default.

    :raises CheckpointError: a key or value that this version does not know
    """
    try:
        return from_keywords(mapping, schema)
    except ConfigError as error:
        raise CheckpointError(f"its configuration does not fit this version: {error.args[0]}") from None


def from_keywords(mapping: Mapping[str, Any], schema: type[T] = Config) -> T:  # type: ignore[assignment]
    """The configuration with these values; keys it lacks take their default.

    :raises ConfigError: names the key, what it got, what it wants and the nearest valid ones
    """
    known = leaves(schema)
    return _build(schema, known, _flat(mapping, known))


def to_yaml(config: Any, changed: bool = False) -> str:
    """Every value as YAML, which :func:`load` reads back.

    :param changed: only those that are not the defaults
    """
    defaults = leaves(type(config)) if changed else {}
    known = {key: leaf for key, leaf in leaves(config).items() if not changed or leaf.value != defaults[key].value}
    values = {key: _escape(leaf.value) for key, leaf in known.items()}
    return yaml.safe_dump(nested(values), sort_keys=False, allow_unicode=True)


def processes(config: TrainerConfig) -> int:
    """How many processes the run will have on all nodes."""
    return config.devices * config.nodes


def check(config: RunConfig) -> None:
    """Refuse values that fit alone but not together, whatever the problem. :raises ConfigError: names both keys"""
    known = leaves(config)

    def named(key: str) -> str:
        return f"{key} ({known[key].value:g})"

    for small, large in (
        ("ddpg.batch", "ddpg.replay"),
        ("ddpg.critic_batch", "ddpg.replay"),
        ("trainer.num_envs", "ddpg.replay"),
        ("state.corrupt", "state.steps"),
    ):
        if known[small].value > known[large].value:
            raise ConfigError(f"{named(small)} is more than {named(large)}; lower the first or raise the second.")
    whole, part = "trainer.updates_per_epoch", "trainer.updates_per_step"
    if known[whole].value % known[part].value:
        raise ConfigError(f"{named(whole)} must be a multiple of {named(part)}.")
    count = processes(config.trainer)
    for key in SPLIT:
        if known[key].value % count:
            raise ConfigError(
                f"{named(key)} must be a multiple of trainer.devices x trainer.nodes ({count}): each process takes "
                "an equal share of it."
            )
    if config.trainer.cuda_graphs and config.trainer.accelerator == "cpu":
        raise ConfigError(
            "trainer.cuda_graphs=true needs a GPU, and trainer.accelerator=cpu leaves it out; set "
            "trainer.cuda_graphs=false, or trainer.accelerator=gpu."
        )
    for key, why in (("cuda_graphs", ": what processes exchange is not captured"), ("compile", "")):
        if getattr(config.trainer, key) and (count > 1 or config.trainer.strategy == "ddp"):
            raise ConfigError(
                f"trainer.{key}=true is for one process without DDP, and trainer.devices x trainer.nodes is {count}, "
                f"trainer.strategy={config.trainer.strategy}{why}. Set trainer.{key}=false."
            )
    if config.trainer.cuda_graphs and config.trainer.compile:
        raise ConfigError(
            "trainer.compile=true and trainer.cuda_graphs=true exclude each other: what is compiled in the middle of a "
            "capture breaks it. Leave one of them out; CUDA graphs need no compiler."
        )
    if config.reward.risk == "cvar" and config.reward.samples < 2:
        raise ConfigError("reward.risk=cvar needs reward.samples of 2 at least, got 1: one sample has no worst part.")
    check_stages(config)
    if config.stages.action is not None and config.action.objective == "weighted" and config.action.candidates < 2:
        raise ConfigError(
            "action.objective=weighted needs action.candidates of 2 at least, got 1: it learns from which of a "
            "state's actions is better."
        )
    if config.logger.mode != "disabled" and not PROJECT.fullmatch(config.logger.project):
        raise ConfigError(
            f"logger.project={config.logger.project} is no name for W&B: up to 128 characters without / \\ # ? % :"
        )
    if config.logger.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "logger.tensorboard=true needs TensorBoard, which is not installed: pip install 'd2rl[tensorboard]'."
        )
    if config.logger.mode != "disabled" and importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            f"logger.mode={config.logger.mode} needs W&B, which is not installed: pip install wandb, or set "
            "logger.mode=disabled."
        )
    if config.logger.mode == "online" and not wandb_key():
        raise ConfigError(
            "logger.mode=online needs a W&B key: run `wandb login` or set WANDB_API_KEY, "
            "or keep logger.mode=offline and run `wandb sync` later."
        )


def check_stages(config: RunConfig) -> None:
    """Refuse stages that cannot begin as they are asked to. :raises ConfigError: names the keys"""
    begun = []
    for name in STAGES:
        value, epoch = getattr(config.stages, name), first_epoch(config, name)
        if epoch is not None:
            begun.append((epoch, f"stages.{name} ({value}{f': epoch {epoch}' if value == AUTO else ''})"))
    for (before, first), (after, second) in pairwise(begun):
        if before > after:
            raise ConfigError(
                f"impossible order: {first} would begin after {second}; the epochs of action, reward and state must "
                "not fall. null leaves a stage out."
            )
    if AUTO in (config.stages.reward, config.stages.state) and config.trainer.epochs < 2:
        raise ConfigError(
            f"stages of auto are decided after the first epoch at the earliest, and trainer.epochs="
            f"{config.trainer.epochs} ends there; raise it, or give their epoch."
        )


def wandb_key() -> bool:
    """Whether W&B would find a key without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in filter(None, (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")):
        try:
            if netrc.netrc(os.path.expanduser(path)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
    return False


class _Loader(yaml.SafeLoader):
    """Leaves every plain scalar but null as text: the field's type, not YAML 1.1, says what off, 010 or 1:30 mean."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands there twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0].endswith((":null", ":merge"))]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path, asked: str = "") -> Any:
    """The content of a YAML file, whose plain scalars but null stay text.

    :param asked: what asks for it, begins the message
    :raises ConfigError: it cannot be read
    """
    try:
        return _yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{asked}{path} cannot be read ({getattr(error, 'strerror', 'not UTF-8')}).") from None


def _yaml(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ConfigError(f"{origin}{line} is not valid YAML: {reason}.") from None


def _directories(directory: str | Path | None) -> list[Path]:
    return [Path(directory)] if directory else [Path("conf"), shipped_conf()]


def _files(name: str, directories: list[Path], above: tuple[Path, ...] = ()) -> list[tuple[Path, dict]]:
    """The file called ``name`` after the one that its ``defaults:`` names."""
    asked = f"{above[-1]}: defaults: {name}" if above else f"conf={name}"
    path = find_yaml(name, directories, asked, above)
    if path.resolve() in above:
        raise ConfigError(f"{asked} leads back to {path}; a file cannot be its own base.")
    content = read_yaml(path, f"{asked}: ")
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, not {show(content)}.")
    base = content.pop("defaults", None)
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"{path}: defaults must be one name, not {show(base)}.")
    below = _files(base, [path.parent, *directories], (*above, path.resolve())) if base else []
    return [*below, (path, content)]


def find_yaml(name: str, directories: Sequence[Path], asked: str, above: tuple[Path, ...] = ()) -> Path:
    """The first file of this name or path; a file that extends one of the same name means the next.

    :param asked: key and value that ask for it, for messages
    :param above: files that lead to it
    :raises ConfigError: there is none; names those that there are, the nearest first
    """
    path = Path(os.path.expanduser(name))
    candidates = (path, *(one for place in directories for one in (place / name, place / f"{name}.yaml")))
    found = [one for one in candidates if one.suffix in (".yaml", ".yml") and os.path.isfile(one)]
    if found:
        return next((one for one in found if one.resolve() not in above), found[0])
    available = sorted({file.stem for directory in directories for file in directory.glob("*.yaml")})
    near = difflib.get_close_matches(path.stem, available, len(available) or 1, 0.4)
    listed = ", ".join([*near, *(one for one in available if one not in near)]) or "nothing"
    raise ConfigError(f"{asked} is not there. Available in {either(directories)}: {listed}.")


def _split(arguments: Sequence[str], known: Mapping[str, Leaf]) -> tuple[str, str]:
    """Key and text of the first argument; the others tell what was meant when it is malformed."""
    key, equals, text = arguments[0].partition("=")
    name = key.strip().lstrip("-")
    if key == name and name and equals and text == text.strip():
        if not text:
            none = f"; {key}=null stands for none" if key in known and known[key].optional else ""
            raise ConfigError(f"{key}= has no value{none}.")
        return key, text
    following = next((one.strip(" =") for one in arguments[1:3] if one.strip(" =")), "VALUE")
    value = text.strip() or ("VALUE" if "=" in following else following)
    if name in known or name == "conf":
        raise ConfigError(f"{arguments[0]!r} is not key=value: write {name}={value}, without blanks or dashes.")
    reason = unknown(name, known) if name else "It names no key."
    raise ConfigError(f"{arguments[0]!r} is not key=value, such as conf=NAME or section.key=3. {reason}")


def _parse(key: str, text: str, known: Mapping[str, Leaf]) -> Any:
    """The value of an argument; text stays as it is typed, so that run_dir=a: b is no mapping."""
    if key in known and known[key].kind is str and text[0] not in "'\"" and text not in ("null", "~"):
        return text
    try:
        return _yaml(text, "")
    except ConfigError:
        return text


def _flat(nested: Mapping[str, Any], known: Mapping[str, Leaf], origin: str = "", prefix: str = "") -> Given:
    """Dotted keys from nested ones. :raises ConfigError: a key that is none, a section with a value"""
    flat: Given = {}
    for name, value in nested.items():
        key = f"{prefix}{name}"
        if key in known:
            flat[key] = value, origin
        elif key not in keys.sections(known):
            raise ConfigError(f"{origin}{unknown(key, known)}")
        elif isinstance(value, Mapping):
            flat |= _flat(value, known, origin, f"{key}.")
        else:
            inside = [one for one in known if one.startswith(f"{key}.")]
            raise ConfigError(
                f"{origin}{key} is a section, it cannot be {show(value)}; set a key in it, such as {inside[0]}."
            )
    return flat


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of the dotted keys."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *path, name = key.split(".")
        section = nested
        for part in path:
            section = section.setdefault(part, {})
        section[name] = value
    return nested


def _interpolate(known: Mapping[str, Leaf], given: Given) -> Given:
    """Replace ``${key}`` and ``${oc.env:NAME}`` in the given values."""
    used = [key for key, (value, _) in given.items() if "${" in str(value)]
    if not used:
        return given
    values = {key: _escape(leaf.value) for key, leaf in known.items()} | {key: one for key, (one, _) in given.items()}
    try:
        tree = OmegaConf.create(nested(values))
        return given | {key: (OmegaConf.select(tree, key), given[key][1]) for key in used}
    except OmegaConfBaseException as error:
        raise ConfigError(f"{given[used[0]][1]}{either(used)} cannot be resolved: {first_line(error)}.") from None


def _escape(value: Any) -> Any:
    """Text that OmegaConf takes literally."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _build(schema: type[T], known: Mapping[str, Leaf], given: Given) -> T:
    values = {key: leaf.value for key, leaf in known.items()}
    values |= {key: known[key].convert(value, origin) for key, (value, origin) in given.items()}
    try:
        tree = OmegaConf.merge(OmegaConf.structured(schema), nested({k: _escape(v) for k, v in values.items()}))
        return cast(T, OmegaConf.to_object(tree))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'a key'}: {first_line(error)}.") from None
