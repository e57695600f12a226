"""What decisions of a trained policy take and reach: in torch, by onnxruntime, and with fewer bits.

    python benchmarks/deployed.py [ckpt=pretrained] [drops=256] [batch=1,16,256,1024] [calls=20] [out=FILE.csv]

Rows alternate within one process, beside WMMSE run until it has converged; each makes some calls in a row, as a base
station that does nothing else, for the first one finds the caches full of another row's work. Decisions by onnxruntime
are those of :class:`SessionPolicy`, with what Python does to call it; refining iterations are torch's. With fewer bits
physics keeps its precision: networks alone compute in bfloat16, and of an ONNX file products with constant weights
alone are of int8 (dynamic quantisation). One thread of a CPU.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from machine import Measurement, axes, measure, medians, report

from d2rl.algorithm.decisions import DecisionRule
from d2rl.algorithm.policy import Policy
from d2rl.common.command_line import run
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.deploy import export
from d2rl.deploy.pretrained import load_policy
from d2rl.deploy.session import SessionPolicy
from d2rl.evaluation.evaluate import BEST_OF, policy_of
from d2rl.problems.full_duplex.simulator import CellState, evaluation_states
from d2rl.wireless.convergence import converged_wmmse, refined

ONE, BEST = DecisionRule(), DecisionRule(best_of=BEST_OF, priority_spread=0.2)
REFINED = replace(BEST, refine=5)
EXPORTED, REFERENCE = "ONNX", "WMMSE, converged"
COLUMNS = {"decision": "", "cells": "", "ms": ",.2f", "WMMSE's / its": ".1f", "sum rate": ".2f", "share": ".4f"}


@dataclass
class DeployedConfig(Measurement):
    """What the command takes."""

    ckpt: str = option("pretrained", "policy of the full-duplex cell")
    drops: int = option(256, "evaluation drops whose sum rate counts", low=1)
    batch: str = option("1,16,256,1024", "cells decided at once")
    calls: int = option(20, "calls of a row before the next one's, of which the mean counts", low=1)


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
        rates = {
            name: float(plain.problem.measure(drops, policy(drops)).sum(-1).mean()) for name, policy in policies.items()
        }
        for _, batch in points:
            state = evaluation_states(plain.config.scenario, batch, 0)
            subjects = {
                name: lambda policy=policy, state=state: [policy(state) for _ in range(asked.calls)]
                for name, policy in policies.items()
            }
            times = medians(subjects, asked.rounds, asked.seconds, machine.device, asked.clock)
            for name, seconds in times.items():
                reached = rates[name], rates[name] / rates[REFERENCE]
                rows.append([name, str(batch), 1e3 * seconds / asked.calls, times[REFERENCE] / seconds, *reached])
    report(f"Decisions of {asked.ckpt}, {machine}", COLUMNS, rows, asked.out)


def decisions(policy: Policy) -> dict[str, Any]:
    """Every rule in torch and by onnxruntime, and WMMSE, by the name of its row; each decides for B states.

    :param policy: on the CPU, in single precision
    """
    several = SessionPolicy(policy, BEST)

    def refined_session(state: CellState) -> Any:
        return refined(state.estimate, *several(state), state.weights, REFINED.refine)

    return {
        "torch": policy_of(policy, ONE),
        f"torch, best of {BEST_OF}": policy_of(policy, BEST),
        f"torch, best of {BEST_OF}, refine {REFINED.refine}": policy_of(policy, REFINED),
        EXPORTED: SessionPolicy(policy, ONE),
        f"ONNX, best of {BEST_OF}": several,
        f"ONNX, best of {BEST_OF}, refine {REFINED.refine}": refined_session,
        REFERENCE: lambda state: converged_wmmse(state.estimate, weights=state.weights),
    }


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
