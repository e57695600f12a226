"""Export a policy's whole decision to ONNX: ``d2rl-export ckpt=PATH out=policy.onnx [best_of=1]``."""

from __future__ import annotations

import importlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.export import Dim

from d2rl.algorithm.decisions import DecisionRule
from d2rl.algorithm.policy import Policy
from d2rl.common.command_line import own_keys
from d2rl.common.errors import ConfigError, UserError
from d2rl.common.files import check_writable, write_bytes, writing
from d2rl.config.key_use import refuse_unused
from d2rl.deploy.onnx_graph import TRANSLATIONS, tidy
from d2rl.deploy.pretrained import load_policy
from d2rl.deploy.real_decision import RealDecision
from d2rl.evaluation.evaluate import policy_of

OPSET = 18
PARITY = 1e-4  # a file is not written where a number of its decisions differs by more from torch,
ALIKE = 1e-5  # unless they are worth the same up to this part: a power near 0 may double without being seen
RATE_PARITY = 1e-3  # nor where the weighted utility of seldom states differs by a larger part
STRONG, STRONG_LOSS = 1e5, 0.5  # at that level I + H^H H loses its I to rounding, on which decisions then depend
DROPS, REPEATS, WARM_UP = 16, 200, 20


class ExportError(UserError):
    """An exported file that does not do what the policy does."""

    kind = "export"


def export_command(arguments: list[str]) -> None:
    """d2rl-export ckpt=PATH out=policy.onnx [best_of=1] [key=value ...]

    Writes the whole decision, from channels to precoder and power, as one ONNX file for the scenario's numbers
    of users and antennas and any batch, compares it with torch in onnxruntime, and prints what one decision
    takes. ckpt is a checkpoint, a run directory, a policy folder, or pretrained. Needs the extra: d2rl[export].
    """
    needed = {"ckpt": "PATH, a checkpoint or a run directory", "out": "FILE, the .onnx file to write"}
    given, rest = own_keys(arguments, "d2rl-export", **needed)
    out = Path(given["out"]).expanduser()
    if out.suffix != ".onnx":
        raise ConfigError(f"out={out} must be a file that ends in .onnx.")
    refuse_unused("export", rest)
    runtime = require_libraries()
    check_writable(out, f"out={out}", "choose another file")
    policy, path = load_policy(given["ckpt"], [*rest, "trainer.accelerator=cpu", "trainer.precision=32"])
    asked = policy.config.evaluation
    if asked.ascend or asked.refine or asked.noise:
        raise ConfigError("ascend, refine and evaluation.noise cannot be exported; leave them out.")
    require_one_pass(policy)
    decision = RealDecision(policy, asked.best_of)
    console = Console()
    console.print(f"exporting the policy of {path}, which takes a while", markup=False, soft_wrap=True)
    content = to_bytes(decision)
    session = make_session(runtime, content)

    state = decision.problem.examples(DROPS, asked.seed)
    known = decision.problem.known(state)
    numbers, rates, _ = parity(decision, session, known)
    # of several candidates two may be equally good
    if decision.best_of == 1 and not (numbers <= PARITY or rates <= ALIKE):
        raise ExportError(f"its decisions differ from those in torch by {numbers:.1e}; {out} was not written.")
    for name, changed, measure, limit in trials(known):
        difference = getattr(parity(decision, session, changed), measure)
        if not difference <= limit:
            raise ExportError(
                f"with {name} its decisions are worth {difference:.1e} more or less than those in torch; "
                f"{out} was not written."
            )
    with writing(f"out={out}", "choose another file"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, content)
    latency = latencies(policy, decision, session, state[:1])
    for kind, ends in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for one in ends:
            console.print(f"{kind:6} {one.name}: {one.shape}", markup=False)
    console.print(
        f"difference from torch on {DROPS} drops: {numbers:.1e} at most, {rates:.1e} of the weighted utility",
        soft_wrap=True,
    )
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


def require_one_pass(policy: Policy) -> None:
    """Refuse an objective that asks the policy in rounds. :raises ConfigError: names it"""
    objective = getattr(policy.problem, "objective", None)
    if objective is not None and not objective.plain:
        raise ConfigError(
            f"scenario.objective={objective.kind} asks the policy in rounds and cannot be exported; "
            "export with scenario.objective=weighted_sum, and change the weights from call to call."
        )


def to_bytes(decision: RealDecision) -> bytes:
    """The decision as an ONNX file of standard operators, for any batch."""
    inputs, batch = decision.example(batch=3), Dim("batch")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            decision,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(decision.outputs),
            dynamic_shapes=(({0: batch},) * len(inputs),),
            opset_version=OPSET,
            custom_translation_table=TRANSLATIONS,
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    tidy(model.graph)
    made = {"problem": decision.problem, "best_of": decision.best_of}
    made["calm_first"] = decision.diffusion and decision.policy.config.calm_first
    made["policy"] = "diffusion" if decision.diffusion else "deterministic"
    for key, value in made.items():
        model.metadata_props.add(key=f"d2rl.{key}", value=str(value))
    return model.SerializeToString()


def make_session(runtime: Any, content: bytes) -> Any:
    """An onnxruntime session on one thread of the CPU."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_reuse = False  # small tensors: to give their memory back costs more than it saves
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class Parity(NamedTuple):
    """How decisions of an exported file differ from those in torch.

    :param numbers: the largest difference of any number
    :param rates: the mean one of the weighted utility on what is known, as a part of its mean
    :param loss: by what part the mean weighted utility is lower
    """

    numbers: float
    rates: float
    loss: float


@torch.no_grad()
def parity(decision: RealDecision, session: Any, known: dict[str, Tensor]) -> Parity:
    """How decisions in onnxruntime differ from those of the same weights and noise in torch.

    :param known: what is known of B states
    """
    inputs, problem = decision.inputs(known, torch.Generator().manual_seed(0)), decision.problem
    expected = decision.decide(known, *list(inputs.values())[len(known) :])
    parts = [torch.from_numpy(array) for array in session.run(list(decision.outputs), arrays(inputs))]
    found = [torch.complex(*a.unbind(-1)) if b.is_complex() else a for a, b in zip(parts, expected, strict=True)]
    numbers = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True) if a.numel())
    seen = problem.observe_known(known)
    worth, asked = (
        (problem.utility(seen, tuple(each)).squeeze(1) * seen.weights).sum(-1) for each in (found, expected)
    )
    whole = asked.abs().mean().clamp_min(1)
    return Parity(numbers, float((worth - asked).abs().mean() / whole), float((asked - worth).mean() / whole))


def trials(known: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor], str, float]]:
    """The same states as they are and with what they seldom hold.

    :param known: what is known of B states, by name
    :returns: what the trial is, what is known in it, what of the :class:`Parity` to look at, and its limit
    """
    channels = {name: tensor for name, tensor in known.items() if tensor.is_complex()}
    alike = "rates", RATE_PARITY
    yield "the drops as they are", known, *alike
    for name, tensor in channels.items():
        yield f"{name} of zero", {**known, name: 0 * tensor}, *alike
        silent, equal = (torch.cat([row, tensor[:, 1:]], dim=1) for row in (0 * tensor[:, :1], tensor[:, -1:]))
        yield f"a row of zeros in {name}", {**known, name: silent}, *alike
        yield f"two equal rows in {name}", {**known, name: equal}, *alike
    for level, asked in ((1 / STRONG, alike), (STRONG, ("loss", STRONG_LOSS))):
        scaled = {name: level * tensor for name, tensor in channels.items()}
        yield f"channels at {level:g} times their level", {**known, **scaled}, *asked


def arrays(inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Inputs as onnxruntime takes them."""
    return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in inputs.items()}


def latencies(policy: Policy, decision: RealDecision, session: Any, state: Any) -> dict[str, float]:
    """Median milliseconds of one core that a decision for one state takes, warm-up left out."""
    feed = arrays(decision.inputs(decision.problem.known(state), torch.Generator().manual_seed(0)))
    decide = policy_of(policy, DecisionRule(best_of=decision.best_of))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "onnxruntime": _median_milliseconds(lambda: session.run(list(decision.outputs), feed)),
            "torch": _median_milliseconds(lambda: decide(state)),
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
