"""Odd configurations: what people write by mistake or on purpose, drawn in turn from lists and at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from d2rl.config.defaults import Config
from d2rl.config.schema import Leaf, leaves

KEYS = leaves(Config)
FREE = ("run_dir", "resume", "initial")  # paths, which only the lists below try
ALONE = [key for key in KEYS if key not in ("trainer.devices", "trainer.nodes")]  # which start further processes

# fmt: off
VALUES = (
    "", " ", "null", "~", "None", "true", "True", "off", "no", "on", "y", "1", "0", "-0", "-1", "2", "3", "+3", "3.",
    "1.5", ".5", "1e1", "1e2", "1e-3", "1e-300", "1e30", "1e300", "1e400", "-1e400", "1e", "1e1.5", "1..2", "--3",
    "nan", "NaN", ".nan", "inf", "-inf", ".inf", "Infinity", "0x10", "0b11", "0o17", "010", "1_000", "1,5", "1:30",
    "2147483648", "4294967296", "9007199254740993", "9223372036854775808", "9" * 400, "1/2", "50%", "3 dB", "3dB",
    "10MHz", "3 # three", "'3'", '"3"', "'", '"', "[1]", "[1, [2, [3]]]", "[]", "{}", "{a: 1}", "[", "{", "]", "&a 1",
    "*a", "<<: 3", "- 1", "!!int 3", "!!float nan", "!!python/name:os.system", "!!binary aGk=", "!!set {a}",
    "2020-01-01", "2020-01-01 00:00", "${seed}", "${nope}", "${", "${oc.env:HOME}", "${oc.env:D2RL_NOPE}",
    "${scenario}", "$HOME", "???", "%s", "%(a)s", "é", "１２", "١٢", "½", "∞", "−3", "\u200b3", "\ufeff3", "ﬁ", "🛰",
    "á", "\u202e3", "\t3", "3\t", "3\n4", "\\", "\\n", "a/b", "a:b", "a: b", "a=b", "==", "a" * 300, "x" * 5000,
    "mlp", "link_graph", "beamforming", "weighted", "designed_gdm", "cvar", "adaptive", "bf16", "gpu", "offline",
    "disabled", "nlos",
)
ARGUMENTS = (
    "", " ", "=", "==", "=3", "-", "--", "---", "-h3", "--lr", "--lr=3", "lr", "lr=3", "foo", "foo=", "foo bar",
    "seed", "seed =3", "seed= 3", "seed = 3", " seed=3", "seed=3 ", "--seed=3", "-seed=3", "SEED=3", "seed==3",
    "seed:3", "seed: 3", "seed;3", "seed=3=4", "'seed'=3", '"seed=3"', "seed[0]=3", "seed.=3", ".seed=3", "seed.x=3",
    "..=3", "ddpg=3", "ddpg=null", "ddpg=[]", "ddpg={}", "ddpg={batch: 3}", "ddpg={batch: {a: 1}}",
    "ddpg={batch: 3, batch: 4}", "ddpg={", "ddpg.=3", "ddpg..batch=3", "ddpg.batch.=3", "ddpg/batch=3",
    "ddpg:batch=3", "+ddpg.batch=3", "~ddpg.batch", "++seed=3", "@seed", "conf", "conf=", "conf=nowhere", "conf=.",
    "conf=/", "conf=..", "conf=smoke.yml", "conf=SMOKE", "conf=é", "conf=a" + "b" * 300, "conf=\t", "conf=conf",
    "conf=/etc/passwd", "conf=/dev/null", "conf=~", "conf=null", "resume=nowhere", "resume=.", "resume=/",
    "initial=nowhere", "initial=/", "initial=/dev/null", "initial=/etc/passwd",
    "resume=/dev/null", "resume=/etc/passwd", "resume=" + "x" * 300, "run_dir=/proc/x", "run_dir=/dev/null",
    "run_dir=/dev/null/x", "run_dir=" + "x" * 300, "run_dir=a/run_dir=a/run_dir=a/", "defaults=smoke",
    "hydra.run.dir=x", "_target_=os.system", "__class__=3", "scenario.__init__=3", "config=smoke", "ｓeed=3", "seed＝3",
    "sеed=3", "seed\u200b=3", "scenario.cell radius=3", "scenario.cell-radius=3", "scenario=los",
)
FILES = (
    "", "# nothing", "---", "...", "null", "~", "3", "seed", "- seed", "[1, 2]", "{", "}", "seed: [", "'", '"', "%",
    "\t", "seed:", "seed: ", "seed:3", "seed 3", "seed=3", "seed = 3", "seed: 3 4", "seed: 3: 4", "seed: 3\nseed: 4",
    "seed: 3\n", "seed: 3\n  batch: 4", "ddpg:\n\tbatch: 3", "ddpg:\nbatch: 3", "ddpg: 3", "ddpg:", "ddpg: null",
    "ddpg: []", "ddpg: {batch: 3, batch: 4}", "ddpg:\n  batch: 3\nddpg:\n  replay: 9", "ddpg: {batch: [3]}",
    "ddpg: [{batch: 3}]", "ddpg:\n  batch:\n    size: 3", "ddpg.batch: 3", "ddpg.batch: 3\nddpg:\n  batch: 4",
    "? [a]\n: 3", "? {a: 1}\n: 3", "seed: yes", "seed: 1e1", "seed: 010", "seed: 0x1f", "seed: 1_0", "seed: 1:30",
    "seed: 2020-01-01", "seed: 3 # x", "logger:\n  mode: off", "logger:\n  mode: no", "logger: off",
    "logger:\n  project: on", "logger:\n  name: 010", "network:\n  kind: MLP", "network:\n  kind: [mlp]",
    "network:\n  kind:", "trainer:\n  progress: 2", "trainer: gpu", "a: &a 3\nseed: *a", "seed: *a", "a: &a [*a]",
    "seed: &a [*a]", "<<: {seed: 3}", "<<: *a", "<<: [1]", "<<: 3", "<<:", "base: &b {batch: 3}\nddpg:\n  <<: *b",
    "ddpg:\n  <<: {batch: 3}", "seed: !!int 3", "seed: !!python/object:os.x {}", "defaults:", "defaults: 3",
    "defaults: []", "defaults: smoke", "defaults: nowhere", "defaults: {a: 1}", "defaults: mine",
    "seed: 3\n---\nseed: 4", "seed: 3\n...\nseed: 4", "\ufeffseed: 3", "sеed: 3", "séed: 3", "seed： 3", "seed: ３",
    "🛰: 3", "seed: |\n  3", "seed: >\n  3", "seed: '3'", 'seed: "\\x33"', "'seed': 3", "3: seed", "null: 3",
    "true: 3", "off: 3", "1.5: 3", "[a, b]: 3", "scenario: {cell_radius: 1e400}", "scenario: {bs_power: .nan}",
    "scenario: {bs_power: .inf}", "lr = 3", "mode=off", "N=1e3", "action: {steps: 1e3.5}", "x: " + "[" * 400,
    "x: " + "{a: " * 200, "x" * 70000, "seed: " + "9" * 5000, "scenario:\n" + "  a: 1\n" * 50,
    "seed: 3\r\nddpg:\r\n  batch: 4\r\n", "seed: 3\x00", "seed: \x07",
)
# fmt: on
# keys whose end fits no memory
LARGE = {"ddpg.replay", "trainer.num_envs", "ddpg.batch", "ddpg.critic_batch", "evaluation.drops"}


@dataclass(frozen=True)
class Case:
    """One configuration and what a refusal may name.

    :param kind: of what is wrong with it
    :param arguments: after those of a tiny run
    :param names: words of which a refusal must hold one
    :param file: content of a file mine.yaml that ``conf=mine`` names
    """

    kind: str
    arguments: tuple[str, ...]
    names: tuple[str, ...]
    file: str | None = None


def cases(count: int, seed: int) -> list[Case]:
    """``count`` cases in equal parts of every kind; the lists above come whole before anything is drawn again."""
    draw = random.Random(seed)
    kinds = [bad_values(draw), bad_keys(draw), bad_arguments(draw), bad_files(draw), combinations(draw)]
    return [next(kinds[n % len(kinds)]) for n in range(count)]


def bad_values(draw: random.Random) -> Iterator[Case]:
    """Every odd value in turn, for a key drawn at random."""
    while True:
        for value in draw.sample(VALUES, len(VALUES)):
            key = draw.choice(ALONE)
            yield Case("value", (f"{key}={value}",), (key, *(key.split("."))))


def bad_keys(draw: random.Random) -> Iterator[Case]:
    """A key with a letter lost, doubled, swapped or in the wrong case, or in another section."""
    while True:
        key = draw.choice(list(KEYS))
        at, section = draw.randrange(len(key)), draw.choice(list(KEYS)).rpartition(".")[0]
        wrong = draw.choice(
            [
                key[:at] + key[at + 1 :],
                key[:at] + key[at] + key[at:],
                key[: at - 1] + key[at : at + 1] + key[at - 1 : at] + key[at + 1 :],
                key.upper(),
                key.replace("_", draw.choice([" ", "-", ""])),
                f"{section}.{key.rpartition('.')[2]}",
                key.rpartition(".")[2],
                f"{key}.{draw.choice(['x', '0', ''])}",
            ]
        )
        yield Case("key", (f"{wrong}={draw.choice(['1', '0.5', 'off'])}",), (wrong.strip(" .-"), repr(wrong), key))


def bad_arguments(draw: random.Random) -> Iterator[Case]:
    """Arguments that are not what an argument looks like, alone or in pairs."""
    while True:
        for argument in draw.sample(ARGUMENTS, len(ARGUMENTS)):
            rest = draw.choice([(), (), (draw.choice(ARGUMENTS),)])
            words = [one.partition("=")[0].strip(" -+~@'\"") for one in (argument, *rest)]
            yield Case("argument", (argument, *rest), (argument, *rest, *filter(None, words), "''"))


def bad_files(draw: random.Random) -> Iterator[Case]:
    """A YAML file with a trap in it."""
    while True:
        for content in draw.sample(FILES, len(FILES)):
            yield Case("file", ("conf=mine",), ("mine", content.split(":")[0]), content)
        for _ in range(len(FILES) // 2):
            key, value = draw.choice(ALONE), draw.choice(VALUES)
            section, _, name = key.rpartition(".")
            content = f"{section}:\n  {name}: {value}\n" if section else f"{name}: {value}\n"
            yield Case("file", ("conf=mine",), ("mine", key), content)


def combinations(draw: random.Random) -> Iterator[Case]:
    """Two to twelve values that are each in range, at its ends more often than not."""
    while True:
        chosen = draw.sample([key for key in ALONE if key not in FREE], draw.randint(2, 12))
        arguments = {key: allowed(KEYS[key], draw) for key in chosen}
        yield Case("combination", tuple(f"{key}={value}" for key, value in arguments.items()), tuple(chosen))


def allowed(leaf: Leaf, draw: random.Random) -> str:
    """A value in the range of a key; sizes stay small, or go where no memory is large enough."""
    limits = leaf.metadata
    if leaf.optional and draw.random() < 0.3:
        return "null"
    if limits.get("choices"):
        return draw.choice([one for one in limits["choices"] if one not in ("gpu", "online", "offline")])
    if leaf.kind is bool:
        return draw.choice(["true", "false"])
    if leaf.kind is str:
        return draw.choice(["a", "1,1,2,2", "1,1,1,nan", "0,0,0,0", "é", "a/b"])
    low, high = limits.get("low", limits.get("above")), limits.get("high", limits.get("below"))
    if leaf.kind is int:
        if leaf.key in LARGE and draw.random() < 0.2:
            return str(int(high))
        return str(int(low or 0) + draw.choice([0, 0, 1, 2, 3, 5]))
    ends = [low if limits.get("above") is None else 1e-12, high if limits.get("below") is None else 1 - 1e-9]
    ends = [-1e3 if ends[0] is None else ends[0], 1e3 if ends[1] is None else ends[1]]
    return repr(float(draw.choice([*ends, draw.uniform(*ends), leaf.value if leaf.value is not None else ends[0]])))
