"""A graph that is tidied up computes what it did."""

from __future__ import annotations

import numpy as np
import pytest

from d2rl.deploy.onnx_graph import tidy

onnx, onnxruntime, _ = (
    pytest.importorskip(name, reason="the extra d2rl[export] is not installed")
    for name in ("onnx", "onnxruntime", "onnxscript")
)
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

CUTS = {  # starts, ends, axes, steps
    "rows": ([1], [3], [-2], [1]),
    "the last column": ([-1], [2**62], [2], [1]),
    "every other column": ([0], [2**63 - 1], [2], [2]),
    "states": ([1], [3], [0], [1]),
    "a corner": ([0, 1], [1, 2], [1, 2], [1, 1]),
}
GATHERED = {"rows", "the last column", "every other column"}


def graph_of(cuts: dict[str, tuple[list[int], ...]], columns: int) -> onnx.ModelProto:
    """Slices of numbers ["batch", 4, columns]."""
    names = {name: [f"{name} {part}" for part in ("starts", "ends", "axes", "steps")] for name in cuts}
    arrays = {one: cut for name, cut in cuts.items() for one, cut in zip(names[name], cuts[name], strict=True)}
    graph = helper.make_graph(
        [helper.make_node("Slice", ["numbers", *names[name]], [name]) for name in cuts],
        "cuts",
        [helper.make_tensor_value_info("numbers", TensorProto.DOUBLE, ["batch", 4, columns])],
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [None] * 3) for name in cuts],
        [numpy_helper.from_array(np.array(array, np.int64), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("columns", [6, 600])
def test_what_is_gathered_is_what_was_sliced(columns):
    model, numbers = graph_of(CUTS, columns), np.random.default_rng(0).normal(size=(3, 4, columns))
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"numbers": numbers})
    tidy(model.graph)
    onnx.checker.check_model(model)
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"numbers": numbers})
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, two)
    gathered = {node.output[0] for node in model.graph.node if node.op_type == "Gather"}
    assert gathered == (GATHERED if columns == 6 else GATHERED - {"every other column"})
    used = {name for node in model.graph.node for name in node.input}
    assert {one.name for one in model.graph.initializer} <= used
