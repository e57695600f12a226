"""The parts of ``benchmarks/gpu.py``: each measures one thing, within its time, and saves what it has as it goes on."""

from __future__ import annotations

import json
import platform
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning_overhead import plain_agent
from machine import Machine, Measurement, Work, measure, medians, wait
from torch.utils.data import DataLoader
from updates import UPDATES, VARIANTS, prepared

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.capturable import Waits, refused_operators
from d2rl.algorithm.cuda_graphs import CapturedUpdates, CudaGraphs
from d2rl.algorithm.decisions import DecisionRule
from d2rl.benchmark.matrix import read_matrix
from d2rl.common.files import write_json
from d2rl.config.defaults import Config, option
from d2rl.evaluation.episodes import EpisodeEvaluation
from d2rl.evaluation.evaluate import Evaluation, make_evaluation, policy_of
from d2rl.problems import load_config, make_problems
from d2rl.problems.full_duplex.env import FullDuplexEnv
from d2rl.problems.full_duplex.simulator import evaluation_states
from d2rl.training.callbacks import (
    ChiSchedule,
    GpuTimeProfiler,
    MixedPrecision,
    PolicyEvaluation,
    RewardGuard,
    StagedIntegration,
)
from d2rl.training.train import decision_rule

CELLS = (1, 1024, 65_536)
STATES = (32, 1024, 8192)  # in an update, where memory is asked for
REPLAY = 512  # states kept, or those of a batch where they are more
SEEDS = 50  # of the headline, as many of them as fit
HEADLINE = ("conf=headline",)
GIVEN: tuple[str, ...] = ()  # key=value for every configuration
MOST_KINDS = 40  # training steps after which every kind of update has come twice


@dataclass
class GpuConfig(Measurement):
    """What the command takes."""

    minutes: float = option(8.0, "for all parts together", above=0)
    parts: str | None = option(None, "parts with commas; null: all")


@dataclass
class Budget:
    """The time of one part. :param end: ``time.time()`` at which it should be done"""

    end: float

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.end - time.time()

    def units(self, items: Any, share: float = 1.0) -> Iterator[Any]:
        """Items as long as there is time; the first in any case.

        :param share: of the longest item so far that must be left for the next
        """
        longest = 0.0
        for index, item in enumerate(items):
            if index and self.left < share * longest:
                return
            began = time.time()
            yield item
            longest = max(longest, time.time() - began)


@dataclass(frozen=True)
class Part:
    """One thing to measure.

    :param run: (asked, machine, budget, save) -> nothing; calls ``save`` with what it has
    :param share: of the time, beside those of the other parts
    """

    run: Callable[[GpuConfig, Machine, Budget, Callable[[Any], None]], None]
    share: float


def perform(asked: GpuConfig, name: str, budget: Budget) -> bool:
    """Run a part and save its result, or what went wrong; whether it went well."""
    began, kept = time.time(), {}

    def keep(results: Any) -> None:
        kept.update(results=results, seconds=time.time() - began)
        save(asked, name, kept)

    try:
        PARTS[name].run(asked, machine_of(asked), budget, keep)
    except Exception as error:
        kept["error"] = f"{type(error).__name__}: {error}"
        kept["traceback"] = traceback.format_exc().splitlines()
        save(asked, name, kept)
        return False
    return True


def save(asked: GpuConfig, name: str, content: dict[str, Any]) -> None:
    """Write a part's file."""
    write_json(Path(str(asked.out)).expanduser() / f"{name}.json", content)


def saved(asked: GpuConfig, name: str) -> dict[str, Any]:
    """What a part has saved so far."""
    path = Path(str(asked.out)).expanduser() / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


_machines: dict[str, Machine] = {}


def machine_of(asked: GpuConfig) -> Machine:
    """The device with its limits, measured once in a process."""
    if asked.device not in _machines:
        _machines[asked.device] = measure(asked)
    return _machines[asked.device]


def agent_of(machine: Machine, *overrides: str) -> D2RL:
    """An agent with a full replay, in all stages of its configuration."""
    given = ["ddpg.warmup_updates=0", f"trainer.updates_per_step={UPDATES}", *overrides, *GIVEN]
    config = load_config(given)
    config.ddpg.replay = max(REPLAY, config.ddpg.batch, config.ddpg.critic_batch, config.trainer.num_envs)
    return prepared(plain_agent(config, machine.device))


def capture(agent: D2RL) -> None:
    """Let an agent replay its updates from now on."""
    agent.captured = CapturedUpdates(agent, CudaGraphs(agent.generator))


def step_of(agent: D2RL) -> Callable[[], None]:
    """A training step of ``UPDATES`` updates."""
    return lambda: agent.training_step(0, 0)


def learning_of(agent: D2RL) -> Callable[[], None]:
    """As many updates without the slots between them."""

    def learn() -> None:
        for _ in range(UPDATES):
            agent.learn()

    return learn


def peak(machine: Machine) -> float | None:
    """Largest memory in MB since the last call, None on a CPU."""
    if machine.device.type != "cuda":
        return None
    found = torch.cuda.max_memory_allocated(machine.device) / 1e6
    torch.cuda.reset_peak_memory_stats(machine.device)
    return found


# ------------------------------------------------------------------ the parts


def about(asked: GpuConfig, machine: Machine, budget: Budget, keep: Callable[[Any], None]) -> None:
    """The machine and its limits: fp32 and bf16 matrix rate, bandwidth of a copy."""
    device, found = machine.device, {}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found = {"memory GB": properties.total_memory / 1e9, "multiprocessors": properties.multi_processor_count}
        found |= {"capability": f"{properties.major}.{properties.minor}", "CUDA": torch.version.cuda}
    left = torch.rand(asked.matrix, asked.matrix, device=device, dtype=torch.bfloat16)
    seconds = medians({"bf16": lambda: left @ left}, asked.rounds, asked.seconds, device)["bf16"]
    keep(
        {
            "device": machine.name,
            "torch": torch.__version__,
            "python": platform.python_version(),
            **found,
            "fp32 GFLOP/s": machine.flops / 1e9,
            "bf16 GFLOP/s": 2 * asked.matrix**3 / seconds / 1e9,
            "copy GB/s": machine.bandwidth / 1e9,
        }
    )


def captures(asked: GpuConfig, machine: Machine, budget: Budget, keep: Callable[[Any], None]) -> None:
    """Whether the updates of every variant capture, and with the numbers of plain ones; what does not, by operator."""
    cuda = machine.device.type == "cuda"
    results: dict[str, Any] = {"operators refused by a capture": refused_operators(machine.device) if cuda else None}
    keep(results)
    for name, variant in budget.units(VARIANTS.items()):
        agent = agent_of(machine, *variant)
        agent.training_step(0, 0)  # the first one calibrates, which waits
        with Waits() as waits:
            agent.training_step(0, 0)
        found = results[name] = {"waits": waits.found, "captured": None}
        if cuda:
            plain, captured = agent_of(machine, *variant), agent_of(machine, *variant)
            capture(captured)
            try:
                for _ in range(MOST_KINDS // UPDATES):
                    for one in (plain, captured):
                        one.training_step(0, 0)
                wait(machine.device)
                found |= {"captured": True, "kinds": len(captured.captured.kinds), "difference": apart(plain, captured)}
            except Exception as error:
                found |= {"captured": False, "error": str(error)}
        keep(results)


def apart(first: D2RL, second: D2RL) -> float:
    """Largest difference of two agents' policies, relative to the largest weight of each tensor."""
    pairs = zip(first.policy.parameters(), second.policy.parameters(), strict=True)
    return max(float((one - two).abs().max() / one.abs().max().clamp_min(1e-3)) for one, two in pairs)


def updates(asked: GpuConfig, machine: Machine, budget: Budget, keep: Callable[[Any], None]) -> None:
    """Plain and captured updates per second, with slots between them and alone, and shares of the machine's limits."""
    keep(rates(asked, machine, budget, keep, ()))


def low_precision(asked: GpuConfig, machine: Machine, budget: Budget, keep: Callable[[Any], None]) -> None:
    """The same in bf16, networks alone."""
    keep(rates(asked, machine, budget, keep, ("trainer.precision=bf16",)))


def rates(
    asked: GpuConfig, machine: Machine, budget: Budget, keep: Callable[[Any], None], given: tuple[str, ...]
) -> dict[str, Any]:
    """Updates per second by variant, in rounds that alternate between plain and captured ones."""
    results: dict[str, Any] = {}
    for name, variant in budget.units(VARIANTS.items()):
        found, agents = results.setdefault(name, {}), {"plain": agent_of(machine, *variant, *given)}
        if machine.device.type == "cuda":
            agents["captured"] = agent_of(machine, *variant, *given)
        for agent in agents.values():
            agent.autocast_type = torch.bfloat16 if given else None
        try:
            if "captured" in agents:
                capture(agents["captured"])
                for _ in range(MOST_KINDS // UPDATES):
                    agents["captured"].training_step(0, 0)
        except Exception as error:
            found["captured error"] = str(error)
            del agents["captured"]
        steps = {key: step_of(agent) for key, agent in agents.items()}
        steps |= {f"{key} alone": learning_of(agent) for key, agent in agents.items()}
        steps["slot"] = agents["plain"].interact
        times = medians(steps, asked.rounds, min(asked.seconds, budget.left / len(VARIANTS)), machine.device)
        with Work() as work:
            agents["plain"].training_step(0, 0)
        slot = times.pop("slot")
        found |= {"slots / s": 1 / slot} | {f"{key} updates / s": UPDATES / seconds for key, seconds in times.items()}
        found |= {"operators": work.operators / UPDATES, "MFLOP": work.flops / UPDATES / 1e6}
        for key in agents:
            shares = machine.shares(work, times[key])
            found[f"{key}, share of matrix rate"], found[f"{key}, share of bandwidth"] = shares
        if "captured" in times:
            found["captured / plain"] = times["plain"] / times["captured"]
            found["captured / plain, alone"] = times["plain alone"] / times["captured alone"]
        keep(results)
    return results


def headline(asked: GpuConfig, machine: Machine, budget: Budget, keep: Callable[[Any], None]) -> None:
    """The headline matrix, seed by seed, ours and the baseline first: time to each gap closed by CUDA events."""
    before = saved(asked, "headline").get("results", [])  # of which the part ``seeds`` goes on
    matrix = read_matrix([*HEADLINE, f"seeds={SEEDS}", "latency=false", *GIVEN])
    order = [matrix.ours, matrix.baseline]
    cells = sorted(matrix.cells, key=lambda cell: (cell.seed, cell.variant not in order))
    done = {(run["variant"], run["seed"], run["captured"]) for run in before}
    results, evaluation = [], None
    graphs = (True, False) if machine.device.type == "cuda" else (False,)
    runs = [(cell, captured) for captured in graphs for cell in cells]
    # of plain updates only the first seed of the two that are compared
    runs = [(c, g) for c, g in runs if g or len(graphs) == 1 or (c.seed == cells[0].seed and c.variant in order)]
    for cell, captured in budget.units([one for one in runs if (one[0].variant, one[0].seed, one[1]) not in done]):
        config: Config = cell.config
        config.trainer.cuda_graphs, config.trainer.accelerator = captured, machine.device.type.replace("cuda", "gpu")
        if evaluation is None:  # the same frozen states for all
            evaluation = make_evaluation(config, make_problems(config)[0], machine.device)
        run = {"variant": cell.variant, "seed": cell.seed, "captured": captured}
        try:
            results.append(run | trained(config, evaluation, machine, budget))
        except Exception as error:
            results.append(run | {"error": f"{type(error).__name__}: {error}"})
        keep(results)


def trained(
    config: Config, evaluation: Evaluation | EpisodeEvaluation, machine: Machine, budget: Budget
) -> dict[str, Any]:
    """One training as ``train.py`` makes it, less what it writes: seconds, and what was reached.

    It is cut short, and says so, when the time is over.
    """
    curve: list[tuple[float, float]] = []

    class Curve(Callback):
        def on_train_batch_end(self, trainer, agent, outputs, batch, batch_index) -> None:
            curve.append((profiler.total, shown.latest["gap_closed"]))
            trainer.should_stop = budget.left < 0

    profiler = GpuTimeProfiler()
    shown = PolicyEvaluation(evaluation, decision_rule(config), config.evaluation.every)
    callbacks = [StagedIntegration(config.stages), ChiSchedule(config.chi), MixedPrecision(config.trainer.precision)]
    callbacks += [RewardGuard(config.reward.guard), profiler, shown, Curve()]
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(
        accelerator=machine.device.type, devices=1, max_epochs=config.trainer.epochs, callbacks=callbacks, **quiet
    )
    steps = range(config.trainer.updates_per_epoch // config.trainer.updates_per_step)
    began = time.time()
    agent = D2RL(config)
    trainer.fit(agent, DataLoader(steps, batch_size=None))
    reached: dict[str, Any] = {"complete": agent.progress == 1}
    reached |= {name: value for name, value in shown.latest.items() if name in ("gap_closed", evaluation.metric)}
    best = max(gap for _, gap in curve)
    return reached | {"best gap_closed": best, "wall seconds": time.time() - began, **profiler.report(), "curve": curve}


def cells(asked: GpuConfig, machine: Machine, budget: Budget, keep: Callable[[Any], None]) -> None:
    """Slots of the environment and decisions per second of many cells side by side."""
    results: dict[str, Any] = {}
    agent = agent_of(machine, *VARIANTS["D2RL"])
    policy, config = policy_of(agent.eval(), DecisionRule()), agent.config
    for count in budget.units(CELLS, share=len(CELLS)):
        env = FullDuplexEnv(config.scenario, count, 0, machine.device)
        action = torch.zeros(count, env.action_size, device=machine.device)
        state = evaluation_states(config.scenario, count, 0, machine.device)

        def slot(env: FullDuplexEnv = env, action: torch.Tensor = action) -> None:
            env.measure(env.state, action)
            env.advance()

        peak(machine)
        with torch.inference_mode():
            subjects = {"slots": slot, "decisions": lambda state=state: policy(state)}
            times = medians(subjects, asked.rounds, min(asked.seconds, budget.left / 2), machine.device)
        results[str(count)] = {f"{key} / s": count / seconds for key, seconds in times.items()}
        results[str(count)] |= {"decision ms": 1e3 * times["decisions"], "peak MB": peak(machine)}
        keep(results)


def memory(asked: GpuConfig, machine: Machine, budget: Budget, keep: Callable[[Any], None]) -> None:
    """Peak memory and updates per second of the whole D2RL as the states in an update grow."""
    results = {}
    for states in budget.units(STATES, share=4):
        peak(machine)
        sizes = [f"ddpg.{key}={states}" for key in ("batch", "critic_batch")]
        agent = agent_of(machine, *VARIANTS["D2RL"], *sizes, f"trainer.num_envs={states}")
        seconds = medians({"": step_of(agent)}, asked.rounds, min(asked.seconds, budget.left / 2), machine.device)[""]
        results[str(states)] = {"updates / s": UPDATES / seconds, "peak MB": peak(machine)}
        keep(results)


def profiled(asked: GpuConfig, machine: Machine, budget: Budget, keep: Callable[[Any], None]) -> None:
    """Where the device's time goes in a training step: the costliest kernels, plain and captured."""
    from torch.profiler import ProfilerActivity, profile

    cuda, results = machine.device.type == "cuda", {}
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    agent = agent_of(machine, *VARIANTS["D2RL"])
    for captured in (False, True) if cuda else (False,):
        if captured:
            capture(agent)
        for _ in range(MOST_KINDS // UPDATES):
            agent.training_step(0, 0)
        wait(machine.device)
        with profile(activities=activities) as events:
            began = time.perf_counter()
            agent.training_step(0, 0)
            wait(machine.device)
            seconds = time.perf_counter() - began
        rows = sorted(events.key_averages(), key=lambda event: -getattr(event, key))
        busy = sum(getattr(event, key) for event in rows) / 1e6
        results["captured" if captured else "plain"] = {
            "seconds": seconds,
            "busy seconds": busy,
            "operators": [[row.key, row.count, getattr(row, key) / 1e3] for row in rows[:40]],
        }
        keep(results)


PARTS = {
    "machine": Part(about, 3),
    "capture": Part(captures, 14),
    "updates": Part(updates, 18),
    "headline": Part(headline, 30),
    "cells": Part(cells, 8),
    "bf16": Part(low_precision, 10),
    "memory": Part(memory, 8),
    "profile": Part(profiled, 4),
    "seeds": Part(headline, 5),
}
