"""What decisions of a trained policy take and reach: in torch, by onnxruntime, and with fewer bits.

    python benchmarks/deployed.py [ckpt=pretrained] [drops=256] [batch=1,16,256,1024] [calls=20] [out=FILE.csv]

Rows alternate within one process; each makes some calls in a row, for other states, as a base station that does nothing
else, for the first one finds the caches full of another row's work. Decisions by onnxruntime are those of
:class:`SessionPolicy`, with what Python does to call it; refining iterations are torch's. With fewer bits physics keeps
its precision: networks alone compute in bfloat16, and of an ONNX file products with constant weights alone are of int8
(dynamic quantisation). One thread of a CPU.

Beside a decision stands the fastest accelerated WMMSE that reaches its mean rate, of so many starts and iterations.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from machine import Machine, Measurement, axes, measure, medians, report

from d2rl.algorithm.decisions import DecisionRule
from d2rl.algorithm.policy import Policy
from d2rl.common.command_line import run
from d2rl.common.errors import counted
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.deploy import export
from d2rl.deploy.pretrained import load_policy
from d2rl.deploy.session import SessionPolicy
from d2rl.evaluation.evaluate import BEST_OF, policy_of
from d2rl.problems.full_duplex.simulator import CellState, evaluation_states
from d2rl.wireless.convergence import converged_wmmse, refined
from d2rl.wireless.wmmse import prepare

FEW = 4  # draws that take one decision to the rate of converged WMMSE (docs/results.md)
ONE, SOME, BEST = (DecisionRule(best_of=count, priority_spread=0.2 * (count > 1)) for count in (1, FEW, BEST_OF))
REFINED = replace(BEST, refine=5)
EXPORTED, REFERENCE = "ONNX", "WMMSE, converged"
STARTS, LIMITS = (1, 2, 4, 8, 12), (5, 10, 15, 20, 25, 35, 50, 75, 100, 150)  # of WMMSE that a decision is held against
SKETCHED = 16  # cells on which all of these are timed, before the one that is as good
COLUMNS = {
    **{"decision": "", "cells": "", "ms": ",.2f", "WMMSE as good": "", "ms of it": ",.2f", "its ms / this": ".1f"},
    **{"sum rate": ".2f", "share": ".4f"},
}


@dataclass
class DeployedConfig(Measurement):
    """What the command takes."""

    ckpt: str = option("pretrained", "policy of the full-duplex cell")
    drops: int = option(256, "evaluation drops whose sum rate counts", low=1)
    batch: str = option("1,16,256,1024", "cells decided at once")
    calls: int = option(20, "calls of a row before the next one's, each for other cells; their mean counts", low=1)


def deployed_command(arguments: list[str]) -> None:
    """python benchmarks/deployed.py [ckpt=pretrained] [drops=256] [batch=1,16,256,1024] [calls=20] [out=FILE.csv]

    Times the decisions of a trained policy, and measures what they reach.
    """
    asked = load(arguments, DeployedConfig)
    points, machine = axes(asked, "batch", ["batch"]), measure(asked)
    plain = load_policy(asked.ckpt, ["trainer.accelerator=cpu", "trainer.precision=32"])[0]
    drops = evaluation_states(plain.config.scenario, asked.drops, 0)
    policies, rows = decisions(plain), []
    policies |= fewer_bits(policies[EXPORTED], asked.ckpt)
    with torch.inference_mode():

        def rate(policy: Any) -> float:
            return float(plain.problem.measure(drops, policy(drops)).sum(-1).mean())

        rates = {name: rate(policy) for name, policy in policies.items()}
        searches = {told(*one): search(*one) for one in product(STARTS, LIMITS)}
        reached = {name: rate(one) for name, one in searches.items()}
        for _, batch in points:
            states = evaluation_states(plain.config.scenario, batch * asked.calls, 0)
            parts = [states[begin : begin + batch] for begin in range(0, states.batch, batch)]
            rough = timed(asked, machine, searches, parts[: max(1, SKETCHED // batch)], rounds=1)
            as_good = {
                name: min((other for other in reached if reached[other] >= own), key=rough.__getitem__, default="")
                for name, own in rates.items()
            }
            rivals = {name: searches[name] for name in as_good.values() if name}
            each = {"": math.nan} | timed(asked, machine, policies | rivals, parts, asked.rounds)
            for name, own in rates.items():
                other = as_good[name]
                beside = other, each[other], each[other] / each[name]
                rows.append([name, str(batch), each[name], *beside, own, own / rates[REFERENCE]])
    report(f"Decisions of {asked.ckpt}, {machine}", COLUMNS, rows, asked.out)


def timed(
    asked: DeployedConfig, machine: Machine, subjects: dict[str, Any], parts: list[CellState], rounds: int
) -> dict[str, float]:
    """Milliseconds that each subject takes for one of ``parts``, by name."""
    calls = {name: lambda decide=decide: [decide(part) for part in parts] for name, decide in subjects.items()}
    times = medians(calls, rounds, asked.seconds, machine.device, asked.clock)
    return {name: 1e3 * seconds / len(parts) for name, seconds in times.items()}


def decisions(policy: Policy) -> dict[str, Any]:
    """Every rule in torch and by onnxruntime, and WMMSE, by the name of its row; each decides for B states.

    :param policy: on the CPU, in single precision
    """
    several = SessionPolicy(policy, BEST)

    def refined_session(state: CellState) -> Any:
        return refined(state.estimate, *several(state), state.weights, REFINED.refine)

    return {
        "torch": policy_of(policy, ONE),
        f"torch, best of {FEW}": policy_of(policy, SOME),
        f"torch, best of {BEST_OF}": policy_of(policy, BEST),
        f"torch, best of {BEST_OF}, refine {REFINED.refine}": policy_of(policy, REFINED),
        EXPORTED: SessionPolicy(policy, ONE),
        f"ONNX, best of {FEW}": SessionPolicy(policy, SOME),
        f"ONNX, best of {BEST_OF}": several,
        f"ONNX, best of {BEST_OF}, refine {REFINED.refine}": refined_session,
        REFERENCE: lambda state: converged_wmmse(state.estimate, weights=state.weights),
    }


def search(starts: int, limit: int) -> Any:
    """WMMSE from so many starts, so many accelerated iterations each."""

    def decide(state: CellState) -> Any:
        start = prepare(state.estimate, starts, state.weights, None)
        return start.best(*refined(start.channels, start.precoder, start.power, start.weights, limit))

    return decide


def told(starts: int, limit: int) -> str:
    """The name of a :func:`search`."""
    return f"{counted(starts, 'start')}, {limit} iterations"


def fewer_bits(exported: SessionPolicy, ckpt: str) -> dict[str, Any]:
    """One decision by networks in bfloat16, and by int8 weights, by the name of its row.

    :param exported: decides in single precision
    :param ckpt: of its policy
    """
    quantised = copy(exported)
    quantised.session = export.make_session(export.require_libraries(), int8(export.to_bytes(quantised.decision)))
    return {
        "torch, bfloat16": policy_of(load_policy(ckpt, ["trainer.precision=bf16"])[0], ONE),
        "ONNX, int8": quantised,
    }


def int8(content: bytes) -> bytes:
    """An ONNX file whose products with constant weights are of 8 bits.

    :param content: of the file in single precision
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder:
        before, after = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(content)
        quantize_dynamic(before, after, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        return after.read_bytes()


if __name__ == "__main__":
    run(deployed_command, DeployedConfig)
