"""Updates per second of D2RL and of what it is compared with, and how they grow with batch, users and antennas.

    python benchmarks/updates.py [device=auto] [threads=1] [setting=cell|paper|large] [only=users,...] [out=FILE.csv]

An update is one step of everything that learns and its part of a slot of every cell, without Lightning
(``lightning_overhead.py`` says what that adds). Each point repeats training steps of ten updates, as in training, in
rounds that alternate between the variants. FLOPs and bytes are counted as :class:`machine.Work` says, and compared
with the limits that were measured just before; beside the growth of the time stands what is left of it when it is
divided by that of the FLOPs. ``setting=large`` has batches of a few states, so that cells of many links fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightning_overhead import plain_agent
from machine import Machine, Measurement, Work, along, axes, measure, medians, report
from rich.progress import track

from d2rl.algorithm.agent import D2RL
from d2rl.common.command_line import run
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.problems import load_config

UPDATES = 10  # in a training step, as in training
VARIANTS = {
    "D2RL": ["conf=full_duplex"],
    "+A+R designed": ["conf=full_duplex", "stages.state=null", "reward.case=designed"],
    "deterministic, designed": [
        *("conf=full_duplex", "stages.action=null", "stages.state=null", "reward.case=designed"),
    ],
    "DDPG, critic of powers": ["conf=ddpg_powers"],
    "DDPG": ["conf=ddpg"],
}
PAPER = {
    "DDPG": ["conf=paper_ddpg"],
    "+A, P = 1": ["conf=paper", "stages.reward=null", "stages.state=null", "action.steps=1"],
    "+A": ["conf=paper", "stages.reward=null", "stages.state=null"],
    "+A+S": ["conf=paper", "stages.reward=null"],
    "deterministic, designed": ["conf=paper", "stages.action=null", "stages.state=null", "reward.case=designed"],
    "+A+R designed": ["conf=paper", "stages.state=null", "reward.case=designed"],
    "+A+R designed GDM": ["conf=paper", "stages.state=null"],
    "+A+R+S": ["conf=paper"],
}
FEW = ["ddpg.batch=4", "ddpg.critic_batch=4", "trainer.num_envs=4"]
LARGE = {name: [*VARIANTS[name], *FEW] for name in ("D2RL", "deterministic, designed")}
GRAPHS = {"D2RL, CUDA graphs": [*VARIANTS["D2RL"], "trainer.cuda_graphs=true"]}  # on a GPU, besides
AXES = ("batch", "users", "antennas", "both")
COLUMNS = {
    "axis": "",
    "value": "",
    "variant": "",
    "ms / update": ".2f",
    "growth": ".2f",
    "over FLOPs'": ".2f",
    "updates / s": ".1f",
    "operators": ".0f",
    "MFLOP": ".1f",
    "MB": ".1f",
    "peak MB": ".1f",
    "of matrix rate": ".1%",
    "of bandwidth": ".1%",
}


@dataclass
class UpdatesConfig(Measurement):
    """What the command takes."""

    rounds: int = option(3, "timed rounds, of which the median counts; the first is left out besides", low=1)
    seconds: float = option(3.0, "fewer rounds of what takes longer than this in all", above=0)
    setting: str = option(
        "cell",
        "variants of the default cell, of the paper's setting, or for large cells",
        choices=("cell", "paper", "large"),
    )
    only: str | None = option(",".join(AXES[:3]), "axes with commas; null: each variant as configured alone")
    batch: str = option("16,128,1024", "states in an update of policy and critic")
    users: str = option("10,40,160", "links, six of ten downlink")
    antennas: str = option("8,16,64", "antennas in each direction")
    both: str = option("10,40,160", "links, with 0.8 antennas for each in each direction")
    replay: int = option(256, "states kept, or the batch where that is more: wide cells need room", low=1)


def updates_command(arguments: list[str]) -> None:
    """python benchmarks/updates.py [device=auto] [threads=1] [setting=cell|paper|large] [only=AXIS,...] [out=FILE.csv]

    Measures updates per second of every variant, as configured and along each axis.
    """
    asked = load(arguments, UpdatesConfig)
    points = [("as configured", "", [])]
    points += [(axis, str(value), overrides(axis, value)) for axis, value in axes(asked, asked.only, AXES)]
    machine, rows = measure(asked), []
    first: dict[tuple[str, str], tuple[float, int]] = {}
    for axis, value, given in track(points, "points", transient=True):
        for name, seconds, work in point(asked, given, machine):
            least, fewest = first.setdefault((axis, name), (seconds, work.flops))
            growth = seconds / least
            grown = (growth, growth * fewest / work.flops)
            counts = (work.operators / UPDATES, work.flops / UPDATES / 1e6, work.bytes / UPDATES / 1e6, work.peak / 1e6)
            shares = machine.shares(work, seconds * UPDATES)
            rows.append([axis, value, name, 1e3 * seconds, *grown, 1 / seconds, *counts, *shares])
    report(f"Updates per second, {machine}", COLUMNS, rows, asked.out)


def overrides(axis: str, value: int) -> list[str]:
    """What a point changes of each variant."""
    if axis == "batch":
        return [f"ddpg.batch={value}", f"ddpg.critic_batch={value}"]
    return along(axis, value)


def point(asked: UpdatesConfig, given: list[str], machine: Machine) -> list[tuple[str, float, Work]]:
    """Seconds of an update and the work of a training step, by variant."""
    agents = {}
    graphs = GRAPHS if machine.device.type == "cuda" else {}
    variants = {"cell": VARIANTS | graphs, "paper": PAPER, "large": LARGE}[asked.setting]
    for name, variant in variants.items():
        config = load_config([*variant, "ddpg.warmup_updates=0", f"trainer.updates_per_step={UPDATES}", *given])
        config.ddpg.replay = max(asked.replay, config.ddpg.batch, config.ddpg.critic_batch, config.trainer.num_envs)
        agents[name] = prepared(plain_agent(config, machine.device))

    def step(agent: D2RL):
        return lambda: agent.training_step(0, 0)

    times = medians(
        {n: step(agent) for n, agent in agents.items()}, asked.rounds, asked.seconds, machine.device, asked.clock
    )
    results = []
    for name, agent in agents.items():
        agent.captured = None  # a replay does the same work, and shows no operators
        with Work() as work:
            agent.training_step(0, 0)
        results.append((name, times[name] / UPDATES, work))
    return results


def prepared(agent: D2RL) -> D2RL:
    """An agent whose replay is full and whose explorers do all that they ever do in a training step."""
    agent.chi = agent.config.chi.maximum if agent.stages["state"] else 0.0
    while len(agent.replay) < agent.replay.capacity:
        agent.interact()
    return agent


if __name__ == "__main__":
    run(updates_command, UpdatesConfig)
