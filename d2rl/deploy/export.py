"""Export a policy's whole decision to ONNX: ``python -m d2rl.export ckpt=PATH out=policy.onnx [best_of=1]``."""

from __future__ import annotations

import importlib
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.export import Dim

from d2rl.algorithm.decisions import DecisionRule, best_decision
from d2rl.algorithm.policy import Policy
from d2rl.commands.train_eval import own_keys
from d2rl.common.errors import ConfigError, UserError
from d2rl.config.key_use import refuse_unused
from d2rl.deploy.pretrained import load_policy
from d2rl.deploy.real_decision import OUTPUTS, RealDecision
from d2rl.evaluation.evaluate import Decision, policy_of
from d2rl.problems.full_duplex.observation import with_priorities
from d2rl.problems.full_duplex.simulator import CellState, evaluation_states
from d2rl.runs.run_directory import write_bytes
from d2rl.wireless.real_algebra import RealChannels

OPSET = 18
PARITY = 1e-4  # an exported file whose decisions differ by more is not written
DROPS, REPEATS, WARM_UP = 16, 200, 20


class ExportError(UserError):
    """An exported file that does not do what the policy does."""

    kind = "export"


def export_command(arguments: list[str]) -> None:
    """python -m d2rl.export ckpt=PATH out=policy.onnx [best_of=1] [key=value ...]

    Writes the whole decision, from channels to precoder and power, as one ONNX file for the scenario's numbers
    of users and antennas and any batch, compares it with torch in onnxruntime, and prints what one decision
    takes. ckpt is a checkpoint, a run directory, a policy folder, or pretrained. Needs the extra: d2rl[export].
    """
    given, rest = own_keys(arguments)
    for key, meaning in (("ckpt", "PATH, a checkpoint or a run directory"), ("out", "FILE, the .onnx file to write")):
        if key not in given:
            raise ConfigError(f"python -m d2rl.export needs {key}={meaning}.")
    out = Path(given["out"]).expanduser()
    if out.suffix != ".onnx":
        raise ConfigError(f"out={out} must be a file that ends in .onnx.")
    refuse_unused("export", rest)
    runtime = require_libraries()
    policy, path = load_policy(given["ckpt"], [*rest, "trainer.accelerator=cpu", "trainer.precision=32"])
    asked = policy.config.evaluation
    if asked.refine or asked.noise:
        raise ConfigError("refine and evaluation.noise cannot be exported; leave them out.")
    decision = RealDecision(policy, asked.best_of)
    console = Console()
    console.print(f"exporting the policy of {path}, which takes a while", markup=False, soft_wrap=True)
    content = to_bytes(decision)
    session = make_session(runtime, content)

    cells = evaluation_states(policy.config.scenario, DROPS, asked.seed)
    difference = parity(policy, decision, session, cells)
    if decision.best_of == 1 and not difference <= PARITY:  # among several candidates two may be equally good
        raise ExportError(f"its decisions differ from those in torch by {difference:.1e}; {out} was not written.")
    try:
        write_bytes(out, content)
    except OSError as error:
        raise ConfigError(f"out={out} cannot be written: {error.strerror}; choose another file.") from None
    latency = latencies(policy, decision, session, cells[:1])
    for kind, ends in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for one in ends:
            console.print(f"{kind:6} {one.name}: {one.shape}", markup=False)
    console.print(f"largest difference from torch on {DROPS} drops: {difference:.1e}")
    console.print(
        f"one decision on one core, median of {REPEATS}: onnxruntime {latency['onnxruntime']:.3f} ms, "
        f"torch {latency['torch']:.3f} ms",
        soft_wrap=True,
    )
    console.print(f"written: {out} ({len(content) / 1e3:.0f} kB)", markup=False, soft_wrap=True)


def require_libraries() -> Any:
    """onnxruntime. :raises ConfigError: a library of the extra ``export`` is missing"""
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ConfigError(
            f"the export needs {error.name}, which is not installed: pip install 'd2rl[export]'."
        ) from None


def to_bytes(decision: RealDecision) -> bytes:
    """The decision as an ONNX file of standard operators, for any batch."""
    inputs, batch = decision.example(batch=3), Dim("batch")
    first, further = [{0: batch}] * 5, ({0: batch},) * (len(inputs) - 5)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            decision,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(OUTPUTS),
            dynamic_shapes=(*first, further) if further else (*first,),
            opset_version=OPSET,
            custom_translation_table={torch.ops.d2rl.solve.default: eliminate},
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    _forget_sources(model.graph)
    for key, value in decision.description().items():
        model.metadata_props.add(key=f"d2rl.{key}", value=str(value))
    return model.SerializeToString()


def _forget_sources(graph: Any) -> None:
    """Leave out the source lines that each part came from: they name files of the exporting machine."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def eliminate(system, right):
    """ONNX operators for :func:`d2rl.wireless.real_algebra.solve`: Gauss-Jordan, unrolled, two rows at a time.

    The diagonal 2 x 2 blocks of the real form of a Hermitian matrix are multiples of the identity and stay so,
    and a positive definite matrix needs no pivoting.
    """
    from onnxscript import ir
    from onnxscript import opset18 as op

    def constant(values: Any) -> Any:
        tensor: Any = ir.tensor(np.array(values, dtype=np.float64))
        return op.Constant(value=tensor)

    size = system.shape[-1]
    augmented = op.Concat(system, right, axis=-1)
    for first in range(0, size, 2):
        rows = op.Slice(augmented, starts=[first], ends=[first + 2], axes=[-2])
        columns = op.Slice(augmented, starts=[first], ends=[first + 2], axes=[-1])
        pivot = op.Slice(rows, starts=[0, first], ends=[1, first + 1], axes=[-2, -1])
        others = constant([[row not in (first, first + 1)] for row in range(size)])
        factors = op.Mul(columns, op.Div(others, pivot))
        augmented = op.Sub(augmented, op.MatMul(factors, rows))
    left = op.Slice(augmented, starts=[0], ends=[size], axes=[-1])
    diagonal = op.ReduceSum(op.Mul(left, constant(np.eye(size))), [-1], keepdims=1)
    return op.Div(op.Slice(augmented, starts=[size], ends=[2**31], axes=[-1]), diagonal)


def make_session(runtime: Any, content: bytes) -> Any:
    """An onnxruntime session on one thread of the CPU."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def inputs_for(decision: RealDecision, cells: CellState, generator: torch.Generator) -> dict[str, Tensor]:
    """Inputs by name for what the base station knows of B cells, with new noise."""
    inputs = decision.example(cells.estimate.batch, generator)
    return {**inputs, **RealChannels.of(cells.estimate).tensors(), "weights": cells.weights}


@torch.no_grad()
def decide_with(policy: Policy, cells: CellState, inputs: dict[str, Tensor]) -> Decision:
    """The decision in torch's complex numbers from the same weights and noise: precoder and uplink power."""
    observation = policy.problem.observe(cells)
    weights = inputs.get("proposal_weights", cells.weights.unsqueeze(1))
    asked = with_priorities(observation, weights)
    network: Any = policy.policy
    if "noise" in inputs:
        noises = inputs["noise"].flatten(0, 1).transpose(0, 1).unsqueeze(2)
        action = network.sample(asked, 1, noises=noises).tanh()
    else:
        action = network(asked).tanh()
    return best_decision(policy.problem, observation, action.reshape(*weights.shape[:2], -1))


def parity(policy: Policy, decision: RealDecision, session: Any, cells: CellState) -> float:
    """Largest difference of any number of the decisions in onnxruntime and in torch."""
    inputs = inputs_for(decision, cells, torch.Generator().manual_seed(0))
    precoder, power = session.run(list(OUTPUTS), arrays(inputs))
    expected = decide_with(policy, cells, inputs)
    return max(
        float(np.abs(precoder - torch.view_as_real(expected[0].resolve_conj()).numpy()).max()),
        float(np.abs(power - expected[1].numpy()).max()),
    )


def arrays(inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Inputs as onnxruntime takes them."""
    return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in inputs.items()}


def latencies(policy: Policy, decision: RealDecision, session: Any, cell: CellState) -> dict[str, float]:
    """Median milliseconds of one core that one decision for one cell takes, warm-up left out."""
    feed = arrays(inputs_for(decision, cell, torch.Generator().manual_seed(0)))
    decide = policy_of(policy, DecisionRule(best_of=decision.best_of))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "onnxruntime": _median_milliseconds(lambda: session.run(list(OUTPUTS), feed)),
            "torch": _median_milliseconds(lambda: decide(cell)),
        }
    finally:
        torch.set_num_threads(threads)


def _median_milliseconds(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(WARM_UP + REPEATS):
        begin = time.process_time()  # of an idle core; other programs would be counted by a clock
        call()
        times.append(time.process_time() - begin)
    return 1e3 * statistics.median(times[WARM_UP:])
