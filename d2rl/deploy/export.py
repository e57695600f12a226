"""Export a policy's whole decision to ONNX: ``python -m d2rl.export ckpt=PATH out=policy.onnx [best_of=1]``."""

from __future__ import annotations

import importlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from d2rl.deploy.real_traffic import RealTrafficDecision
from d2rl.evaluation.evaluate import Decision, policy_of
from d2rl.problems.full_duplex.observation import with_priorities
from d2rl.runs.run_directory import write_bytes
from d2rl.wireless import ChannelState, link_rates
from d2rl.wireless.real_algebra import RealChannels

OPSET = 18
PARITY = 1e-4  # a file is not written where a number of its decisions differs by more from torch,
RATE_PARITY = 1e-3  # or the weighted rate by a larger part
STRONG, STRONG_PARITY = 1e5, 0.5  # at that level I + H^H H loses its I to rounding, on which decisions then depend
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
    decision = decision_of(policy, asked.best_of)
    console = Console()
    console.print(f"exporting the policy of {path}, which takes a while", markup=False, soft_wrap=True)
    content = to_bytes(decision)
    session = make_session(runtime, content)

    cells = decision.states(DROPS, asked.seed)
    numbers, rates = parity(policy, decision, session, cells)
    if decision.best_of == 1 and not numbers <= PARITY:  # of several candidates two may be equally good
        raise ExportError(f"its decisions differ from those in torch by {numbers:.1e}; {out} was not written.")
    for name, channels, limit in trials(decision.known(cells)):
        _, difference = parity(policy, decision, session, decision.with_known(cells, channels))
        if not difference <= limit:
            raise ExportError(
                f"with {name} its decisions are worth {difference:.1e} more or less than those in torch; "
                f"{out} was not written."
            )
    try:
        write_bytes(out, content)
    except OSError as error:
        raise ConfigError(f"out={out} cannot be written: {error.strerror}; choose another file.") from None
    latency = latencies(policy, decision, session, cells[:1])
    for kind, ends in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for one in ends:
            console.print(f"{kind:6} {one.name}: {one.shape}", markup=False)
    console.print(f"difference from torch on {DROPS} drops: {numbers:.1e} at most, {rates:.1e} of the weighted rate")
    console.print(
        f"one decision on one core, median of {REPEATS}: onnxruntime {latency['onnxruntime']:.3f} ms, "
        f"torch {latency['torch']:.3f} ms",
        soft_wrap=True,
    )
    console.print(f"written: {out} ({len(content) / 1e3:.0f} kB)", markup=False, soft_wrap=True)


def decision_of(policy: Policy, best_of: int = 1) -> RealDecision:
    """What is to be exported of a policy. :raises ConfigError: it cannot be"""
    if policy.problem.name != "traffic":
        return RealDecision(policy, best_of)
    if best_of > 1 or policy.config.network.kind != "link_graph":
        raise ConfigError(
            f"of problem=traffic one decision of the link_graph network can be exported, not best_of={best_of} with "
            f"network.kind={policy.config.network.kind}."
        )
    return RealTrafficDecision(policy)


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
            custom_translation_table={torch.ops.d2rl.whiten.default: whiten},
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


def whiten(system, right):
    """ONNX operators for :func:`d2rl.wireless.real_algebra.whiten`: the Cholesky factorisation, unrolled.

    Two real rows stand for a complex one. Only the first is computed, and the second made of it: rounding would make
    them differ, and every step would multiply the difference.
    """
    from onnxscript import ir
    from onnxscript import opset18 as op

    def constant(values: Any) -> Any:
        tensor: Any = ir.tensor(np.array(values, dtype=np.float64))
        return op.Constant(value=tensor)

    size, width, axes = system.shape[-1], system.shape[-1] + right.shape[-1], len(system.shape)
    second, one = constant(np.kron(np.eye(width // 2), [[0, 1], [-1, 0]])), constant(1)
    rows = op.Slice(op.Concat(system, right, axis=-1), starts=[0], ends=[size], axes=[-2], steps=[2])
    factor = None
    for index, row in enumerate(op.Split(rows, num_outputs=size // 2, axis=-2)):
        here = {"starts": [2 * index], "ends": [2 * index + 1], "axes": [-1]}
        if factor is not None:
            left = op.Transpose(op.Slice(factor, **here), perm=[*range(axes - 2), axes - 1, axes - 2])
            row = op.Sub(row, op.MatMul(left, factor))
        row = op.Div(row, op.Sqrt(op.Max(op.Slice(row, **here), one)))  # no pivot of I + B^H B is below 1
        both = row, op.MatMul(row, second)
        factor = op.Concat(*both, axis=-2) if factor is None else op.Concat(factor, *both, axis=-2)
    return op.Slice(factor, starts=[size], ends=[width], axes=[-1])


def make_session(runtime: Any, content: bytes) -> Any:
    """An onnxruntime session on one thread of the CPU."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def inputs_for(decision: RealDecision, cells: Any, generator: torch.Generator) -> dict[str, Tensor]:
    """Inputs by name for what the base station knows of B cells, with new noise."""
    inputs = decision.example(cells.batch, generator)
    return {**inputs, **RealChannels.of(decision.known(cells)).tensors(), **decision.given(cells)}


@torch.no_grad()
def decide_with(policy: Policy, cells: Any, inputs: dict[str, Tensor]) -> Decision:
    """The decision in torch's complex numbers from the same weights and noise: precoder and uplink power."""
    observation = policy.problem.observe(cells)
    weights = inputs.get("proposal_weights", cells.weights.unsqueeze(1))
    asked = with_priorities(observation, weights) if "weights" in inputs else observation
    network: Any = policy.policy
    if "noise" in inputs:
        noises = inputs["noise"].flatten(0, 1).transpose(0, 1).unsqueeze(2)
        action = network.sample(asked, 1, noises=noises).tanh()
    else:
        action = network(asked).tanh()
    return best_decision(policy.problem, observation, action.reshape(*weights.shape[:2], -1))


def parity(policy: Policy, decision: RealDecision, session: Any, cells: Any) -> tuple[float, float]:
    """How decisions in onnxruntime differ from those in torch.

    :returns: the largest difference of any number, and the mean relative one of the weighted rate on the known channels
    """
    inputs = inputs_for(decision, cells, torch.Generator().manual_seed(0))
    pairs, power = (torch.from_numpy(array) for array in session.run(list(OUTPUTS), arrays(inputs)))
    found, expected = (torch.view_as_complex(pairs), power), decide_with(policy, cells, inputs)
    numbers = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    channels = decision.known(cells)
    rate, asked = ((link_rates(channels, *each) * cells.weights).sum(-1) for each in (found, expected))
    return numbers, float(((rate - asked).abs() / asked.clamp_min(1)).mean())


def trials(channels: ChannelState) -> Iterator[tuple[str, ChannelState, float]]:
    """The same drops as they are and with what drops seldom hold: what it is, channels, and the parity to ask for."""
    yield "the drops as they are", channels, RATE_PARITY
    for link in ("downlink", "uplink"):
        users = getattr(channels, link)
        silent, equal = (torch.cat([first, users[:, 1:]], dim=1) for first in (0 * users[:, :1], users[:, -1:]))
        yield f"a silent {link} user", replace(channels, **{link: silent}), RATE_PARITY
        yield f"two equal {link} users", replace(channels, **{link: equal}), RATE_PARITY
    for name in ("cross", "self_interference"):
        yield f"{name} of zero", replace(channels, **{name: 0 * getattr(channels, name)}), RATE_PARITY
    for level, limit in ((0, RATE_PARITY), (1 / STRONG, RATE_PARITY), (STRONG, STRONG_PARITY)):
        scaled = ChannelState(*(level * tensor for tensor in channels.tensors().values()))
        yield f"channels at {level:g} times their level", scaled, limit


def arrays(inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Inputs as onnxruntime takes them."""
    return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in inputs.items()}


def latencies(policy: Policy, decision: RealDecision, session: Any, cell: Any) -> dict[str, float]:
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
