"""Latency of one decision, alone and of many cells at once, beside WMMSE, and its growth with users and antennas.

    python benchmarks/decision.py [device=auto] [threads=1] [only=batch,users,antennas] [out=FILE.csv]

The policy is AENPNN over the link graph, untrained: latency does not depend on weights. What is timed is the whole
decision, from channel estimates to precoder and powers, in rounds that alternate between the rules and WMMSE. Decisions
exported to ONNX (the extra ``export``) are timed for one default cell, refined ones with the iterations in torch; their
work is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from machine import Measurement, Work, along, axes, measure, medians, report
from rich.progress import track

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.decisions import DecisionRule
from d2rl.common.command_line import run
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.deploy import export
from d2rl.deploy.real_decision import RealDecision
from d2rl.evaluation.evaluate import BEST_OF, policy_of
from d2rl.problems import load_config
from d2rl.problems.full_duplex.problem import Decision
from d2rl.problems.full_duplex.references import Policy
from d2rl.problems.full_duplex.simulator import CellState, evaluation_states
from d2rl.wireless.convergence import converged_wmmse, refined
from d2rl.wireless.wmmse import wmmse

AXES = ("batch", "users", "antennas", "both")
RULES = {
    "policy": DecisionRule(),
    f"best of {BEST_OF}": DecisionRule(best_of=BEST_OF, priority_spread=0.3),
    "policy, refine 5": DecisionRule(refine=5),
    f"best of {BEST_OF}, refine 5": DecisionRule(best_of=BEST_OF, priority_spread=0.3, refine=5),
}
EXPORTED = {
    "policy, ONNX": (1, 0),
    f"best of {BEST_OF}, ONNX": (BEST_OF, 0),
    f"best of {BEST_OF}, ONNX, refine 5": (BEST_OF, 5),
}
REFERENCE = "WMMSE, converged"
REFERENCES: dict[str, Policy] = {
    "WMMSE, 200 iterations": lambda state: wmmse(state.estimate, 200, weights=state.weights),
    REFERENCE: lambda state: converged_wmmse(state.estimate, weights=state.weights),
}
COLUMNS = {
    "axis": "",
    "value": "",
    "decision": "",
    "ms": ",.2f",
    "us / cell": ",.1f",
    "growth": ".2f",
    "over FLOPs'": ".2f",
    "WMMSE's / its": ".1f",
    "operators": ".0f",
    "MFLOP": ",.2f",
    "MB": ",.2f",
    "peak MB": ",.2f",
    "of matrix rate": ".1%",
    "of bandwidth": ".1%",
}


@dataclass
class DecisionConfig(Measurement):
    """What the command takes."""

    only: str = option(",".join(AXES[:3]), "axes, with commas")
    batch: str = option("1,1024", "cells decided at once")
    users: str = option("10,20,40,80,160", "links, six of ten downlink, one cell")
    antennas: str = option("8,16,32,64", "antennas in each direction, one cell")
    both: str = option("10,40,160", "links, with 0.8 antennas for each in each direction, one cell")
    wmmse: bool = option(True, "also WMMSE, and decisions that it refines")
    onnx: bool = option(True, "also what is exported to ONNX, for one cell, on a CPU")


def decision_command(arguments: list[str]) -> None:
    """python benchmarks/decision.py [device=auto] [threads=1] [only=batch,users,antennas] [out=FILE.csv]

    Measures the latency of decisions along each axis.
    """
    asked = load(arguments, DecisionConfig)
    points, rows = axes(asked, asked.only, AXES), []
    first: dict[tuple[str, str], tuple[float, float]] = {}
    machine = measure(asked)
    for axis, value in track(points, "points", transient=True):
        batch = value if axis == "batch" else 1
        given = [] if axis == "batch" else along(axis, value)
        config = load_config(["conf=full_duplex", "trainer.num_envs=1", *given])
        agent = D2RL(config).to(machine.device).eval()
        agent.begin_stage("action")
        state = evaluation_states(config.scenario, batch, 0, machine.device)
        policies = {name: policy_of(agent, rule) for name, rule in RULES.items() if asked.wmmse or not rule.refine}
        if axis == "batch" and batch == 1 and asked.onnx and machine.device.type == "cpu":
            policies |= exported(agent, state)
        policies |= REFERENCES if asked.wmmse else {}
        subjects = {name: lambda policy=policy, state=state: policy(state) for name, policy in policies.items()}
        with torch.inference_mode():  # as a base station would, for the policy and for WMMSE
            times = medians(subjects, asked.rounds, asked.seconds, machine.device, asked.clock)
        for name, subject in subjects.items():
            with Work() as work:
                subject()
            if name in EXPORTED:
                work.operators = work.flops = work.bytes = work.peak = math.nan
            seconds = times[name]
            least, fewest = first.setdefault((axis, name), (seconds, work.flops))
            growth, gain = seconds / least, times.get(REFERENCE, math.nan) / seconds
            each = (1e3 * seconds, 1e6 * seconds / batch, growth, growth * fewest / work.flops, gain)
            counts = (work.operators, work.flops / 1e6, work.bytes / 1e6, work.peak / 1e6)
            rows.append([axis, str(value), name, *each, *counts, *machine.shares(work, seconds)])
    report(f"Latency of a decision, {machine}", COLUMNS, rows, asked.out)


def exported(agent: D2RL, state: CellState) -> dict[str, Policy]:
    """Decisions of onnxruntime on one thread, by the names of ``EXPORTED``; each is for ``state`` alone."""
    runtime, feeds, policies = export.require_libraries(), {}, {}
    for best_of in (1, BEST_OF):
        decision = RealDecision(agent, best_of)
        session = export.make_session(runtime, export.to_bytes(decision))
        inputs = decision.inputs(agent.problem.known(state), torch.Generator().manual_seed(0))
        feeds[best_of] = session, export.arrays(inputs)
    for name, (best_of, refine) in EXPORTED.items():

        def policy(state: CellState, best_of=best_of, refine=refine) -> Decision:
            session, feed = feeds[best_of]
            pairs, power = (torch.from_numpy(array) for array in session.run(list(agent.problem.outputs), feed))
            precoder = torch.view_as_complex(pairs)
            return refined(state.estimate, precoder, power, state.weights, refine) if refine else (precoder, power)

        policies[name] = policy
    return policies


if __name__ == "__main__":
    run(decision_command, DecisionConfig)
