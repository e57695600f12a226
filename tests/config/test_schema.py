"""What a key takes, for every key of the tree."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest

from d2rl.common.errors import ConfigError
from d2rl.config.defaults import Config, option
from d2rl.config.load import load, to_yaml
from d2rl.config.schema import help_text, leaves, sections, unknown


def message_of(arguments, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        load(arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("seed=1e3", 1000),
        ("seed=010", 10),  # YAML 1.1 would say 8
        ("seed=9007199254740993", 9007199254740993),  # beyond what a float holds
        ("ddpg.actor_rate=1e-4", 1e-4),
        ("scenario.cell_radius=50", 50.0),
        ("scenario.rician=null", None),
        ("scenario.rician=3", 3.0),
        ("stages.state=4", 4),
        ("trainer.progress=off", False),
        ("trainer.progress=True", True),
        ("trainer.precision=32", "32"),
        ("logger.name=2026_01", "2026_01"),  # YAML 1.1 would say 202601
        ("logger.name=off", "off"),
        ("logger.name='null'", "null"),
        ("run_dir=a: b # c=d", "a: b # c=d"),
        ("run_dir=run-${seed}-${oc.env:D2RL_TEST}", "run-0-here"),
    ],
)
def test_a_value_becomes_the_type_of_its_field(argument, value, monkeypatch):
    monkeypatch.setenv("D2RL_TEST", "here")
    config = load([argument])
    given = leaves(config)[argument.partition("=")[0]].value
    assert given == value
    assert type(given) is type(value)


@pytest.mark.parametrize("key", list(leaves(Config)))
def test_no_key_takes_nonsense(key):
    """Text without choices may be any words, but not blank."""
    leaf = leaves(Config)[key]
    assert key in message_of([f"{key}=''"])
    if leaf.kind is str and not leaf.metadata["choices"]:
        assert leaves(load([f"{key}=[nan, 2"]))[key].value == "[nan, 2"
    else:
        assert key in message_of([f"{key}=[nan, 2"])


def test_every_limit_of_the_tree_is_kept():
    for leaf in leaves(Config).values():
        for limit, included in (("low", True), ("high", True), ("above", False), ("below", False)):
            if (bound := leaf.metadata[limit]) is None:
                continue
            outside = bound + (-1 if limit in ("low", "above") else 1)
            for value in (outside,) if included else (outside, bound):
                with pytest.raises(ConfigError, match=re.escape(f"{leaf.key} cannot be {value}")):
                    leaf.convert(str(value))
            if included:
                assert leaf.convert(str(bound)) == bound


def test_every_key_is_found_again_by_a_slip_of_the_pen():
    known = leaves(Config)
    for key in known:
        for wrong in (f"{key}s", key[:-1] + "q", key.upper()):
            if wrong not in known and len(key) > 4:
                assert key in unknown(wrong, known), wrong


def test_sections_are_the_keys_that_hold_others():
    assert sections(["a.b.c", "a.d", "e"]) == ["a", "a.b"]


def test_help_lists_every_key_in_full_with_its_default(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_text(Config).splitlines()
    for key, leaf in leaves(Config).items():
        row = next(line for line in lines if line.split()[:1] == [key])
        assert row.split()[1].lower() == ("null" if leaf.value is None else str(leaf.value).lower())


@dataclass
class Inner:
    rates: list[float] = field(default_factory=lambda: [1.0])


@dataclass
class Tree(Config):
    inner: Inner = field(default_factory=Inner)
    ckpt: str | None = option(None, "what [b]to[/b] evaluate")


def test_another_tree_works_as_well(tmp_path):
    tree = load(["inner.rates=[1, 2.5e-1]", "ckpt=a.ckpt", "seed=3"], schema=Tree)
    assert (tree.inner.rates, tree.ckpt, tree.seed) == ([1.0, 0.25], "a.ckpt", 3)
    assert "inner.rates[1] cannot be 'x'" in message_of(["inner.rates=[1, x]"], schema=Tree)
    assert "inner.rates cannot be 1" in message_of(["inner.rates=1"], schema=Tree)
    assert "[b]to[/b]" in help_text(Tree)
    (tmp_path / "tree.yaml").write_text(to_yaml(tree))
    assert load(["conf=tree"], schema=Tree, directory=tmp_path) == tree
