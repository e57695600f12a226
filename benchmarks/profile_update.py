"""Where the time of an update goes: one profile, kept in ``benchmarks/profiles/``.

    python benchmarks/profile_update.py [variant=full_duplex] [device=auto] [threads=1] [steps=4] [out=FILE.txt]

``profile`` would be the better name of this file, but the standard library has it. Sections are timed by themselves,
without the profiler, whose own cost would fall on those of many small operators. A D2RL update at the default size is
many operators, each with little to do: on a CPU the cost of starting them, on a GPU that of launching their kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightning_overhead import plain_agent
from machine import Measurement, Work, measure, save, wait
from rich.console import Console
from torch.profiler import ProfilerActivity, profile
from updates import UPDATES, prepared

from d2rl.common.command_line import run
from d2rl.common.timing import Sections, TimedSections
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.problems import load_config

PROFILES = Path(__file__).resolve().parent / "profiles"


@dataclass
class ProfileConfig(Measurement):
    """What the command takes."""

    variant: str = option("full_duplex", "the experiment in conf/ whose update is profiled")
    steps: int = option(4, f"training steps of {UPDATES} updates", low=1)
    rows: int = option(25, "operators to list", low=1)
    replay: int = option(1024, "states kept", low=1)


def profile_command(arguments: list[str]) -> None:
    """python benchmarks/profile_update.py [variant=full_duplex] [device=auto] [threads=1] [steps=4] [out=FILE.txt]

    Writes sections, operators by self time and calls of an update to benchmarks/profiles/<device>.txt.
    """
    asked = load(arguments, ProfileConfig)
    machine = measure(asked)
    config = load_config([f"conf={asked.variant}", "ddpg.warmup_updates=0", f"trainer.updates_per_step={UPDATES}"])
    config.ddpg.replay = max(asked.replay, config.ddpg.batch, config.ddpg.critic_batch, config.trainer.num_envs)
    agent, updates = prepared(plain_agent(config, machine.device)), asked.steps * UPDATES

    def steps() -> None:
        for _ in range(asked.steps):
            agent.training_step(0, 0)
        wait(machine.device)

    steps()
    agent.sections = timed = TimedSections(machine.device)
    steps()
    sections, agent.sections = timed.read(), Sections()
    with Work() as work:
        steps()
    cuda = machine.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiled:
        steps()
    events = profiled.key_averages()
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    ordered = sorted(events, key=lambda event: getattr(event, key), reverse=True)[: asked.rows]
    total = sum(getattr(event, key) for event in events)
    lines = [
        f"An update of conf={asked.variant} on {machine}",
        f"{work.operators / updates:.0f} operators, {work.flops / updates / 1e6:.1f} MFLOP, "
        f"{work.bytes / updates / 1e6:.1f} MB in inputs and outputs",
        "",
        f"{'section':28}{'ms / update':>12}{'share':>8}",
        *_shares({name: 1e3 * seconds / updates for name, seconds in sections.items()}),
        "",
        f"{'operator':52}{'calls / update':>15}{'self ms / update':>18}{'share':>8}",
        *(
            f"{event.key[:50]:52}{event.count / updates:15.1f}{getattr(event, key) / 1e3 / updates:18.3f}"
            f"{getattr(event, key) / max(total, 1e-9):8.1%}"
            for event in ordered
        ),
        f"{'all':52}{sum(event.count for event in events) / updates:15.1f}{total / 1e3 / updates:18.3f}",
    ]
    console = Console()
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    out = Path(asked.out).expanduser() if asked.out else PROFILES / f"{machine.device.type}.txt"
    save(out, "\n".join(lines) + "\n")
    console.print(f"written: {out}", markup=False)


def _shares(times: dict[str, float]) -> list[str]:
    ordered = sorted(times.items(), key=lambda item: -item[1])
    return [f"{name:28}{value:12.2f}{value / sum(times.values()):8.1%}" for name, value in ordered]


if __name__ == "__main__":
    run(profile_command, ProfileConfig)
