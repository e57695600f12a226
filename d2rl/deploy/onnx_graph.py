"""What an export adds to the exporter of PyTorch: operators of fewer nodes, and a graph that is tidied up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import d2rl.common.elimination  # noqa: F401  defines the operator

FEW = 100  # runs of numbers that Gather copies in less time than Slice takes to begin


def tidy(graph: Any) -> None:
    """All of what follows, in place."""
    _forget_sources(graph)
    _shape_what_is_empty(graph)
    _sum_squares(graph)
    _gather_what_is_sliced(graph)
    used = {name for node in graph.node for name in node.input}
    for unused in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(unused)


def _forget_sources(graph: Any) -> None:
    """Leave out the source lines that each part came from: they name files of the exporting machine."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def _shape_what_is_empty(graph: Any) -> None:
    """Make empty tensors from their shape where users are in one direction alone.

    onnxruntime refuses a Reshape that leaves the batch open and has no elements. Such a tensor has a multiple of the
    batch as its first dimension, which value_info has as ``batch`` or ``4*batch``.
    """
    from onnx import helper, numpy_helper

    shapes = {info.name: info.type.tensor_type for info in graph.value_info}
    for index in reversed(range(len(graph.node))):
        (output, *_), kind = graph.node[index].output, graph.node[index].op_type
        dims = shapes[output].shape.dim if kind == "Reshape" and output in shapes else []
        if not any(dim.HasField("dim_value") and dim.dim_value == 0 for dim in dims):
            continue
        copies = int(dims[0].dim_param.rpartition("*")[0] or 1)
        names = [f"{output}_{part}" for part in ("batch", "copies", "rows", "rest", "shape")]
        batch, factor, rows, rest, shape = names
        for name, numbers in ((factor, [copies]), (rest, [dim.dim_value for dim in dims[1:]])):
            graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        nothing = helper.make_tensor("value", shapes[output].elem_type, [1], [0])
        made = [
            helper.make_node("Shape", [graph.input[0].name], [batch], start=0, end=1),
            helper.make_node("Mul", [batch, factor], [rows]),
            helper.make_node("Concat", [rows, rest], [shape], axis=0),
            helper.make_node("ConstantOfShape", [shape], [output], value=nothing),
        ]
        del graph.node[index]
        for node in reversed(made):
            graph.node.insert(index, node)


def _sum_squares(graph: Any) -> None:
    """Sum squares with one operator where products of something with itself are summed."""
    squares = {node.output[0]: node for node in graph.node if node.op_type == "Mul" and len(set(node.input)) == 1}
    for node in graph.node:
        if node.op_type == "ReduceSum" and node.input[0] in squares:
            node.op_type, node.input[0] = "ReduceSumSquare", squares[node.input[0]].input[0]
    used = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
    for unused in [node for name, node in squares.items() if name not in used]:
        graph.node.remove(unused)


def _gather_what_is_sliced(graph: Any) -> None:
    """Gather what is sliced along one axis, where that is little: it takes half the time."""
    from onnx import helper, numpy_helper

    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    shapes = {info.name: info.type.tensor_type.shape.dim for info in (*graph.value_info, *graph.input)}
    made: dict[tuple[int, ...], str] = {}
    for node in graph.node:
        source, *limits = node.input
        if node.op_type != "Slice" or source not in shapes or not all(name in constants for name in limits):
            continue
        start, end, axes, *steps = (constants[name].tolist() for name in limits)
        sizes = [dim.dim_value for dim in shapes[source]]  # 0: for any batch
        axis = axes[0] % len(sizes)
        places = tuple(range(sizes[axis])[start[0] : end[0] : steps[0][0] if steps else 1])
        if len(axes) > 1 or not 0 < len(places) * math.prod(size or 1 for size in sizes[:axis]) <= FEW:
            continue
        if places not in made:
            made[places] = f"places_{len(made)}"
            graph.initializer.append(numpy_helper.from_array(np.array(places), made[places]))
        node.CopyFrom(helper.make_node("Gather", [source, made[places]], node.output, node.name, axis=axis))


def eliminate(system, right):
    """ONNX operators for :func:`d2rl.common.elimination.eliminate`: a step for every complex row, two real ones.

    The two pivots of a complex row are one number, in exact arithmetic. So the mean of the system and of the same with
    the two real rows and columns of each complex one exchanged takes its place: rounding would set them apart, more so
    with every system that follows from the solution of another. Rows that are done stay, which saves an operator.
    """
    from onnxscript import opset18 as op

    size, rows, scaled = system.shape[-1], [], []
    if not size:  # no users in one direction
        wide = op.Concat(system, right, axis=-1)
        return wide, wide
    turn = np.kron(np.eye(size // 2), [[0, -1], [1, 0]])
    turned = op.MatMul(op.MatMul(_constant(turn / 2), system), _constant(turn.T))
    rest = op.Concat(op.Add(op.Mul(system, _constant(0.5)), turned), right, axis=-1)
    for at in range(0, size, 2):
        rows.append(op.Slice(rest, starts=[at], ends=[at + 2], axes=[-2]))
        pivot = op.Slice(rows[-1], starts=[0, at], ends=[1, at + 1], axes=[-2, -1])
        scaled.append(op.Div(rows[-1], pivot))
        if at + 2 < size:
            column = op.Slice(rest, starts=[at], ends=[at + 2], axes=[-1])
            rest = op.Sub(rest, op.MatMul(column, scaled[-1]))
    return op.Concat(*rows, axis=-2), op.Concat(*scaled, axis=-2)


def diagonal(matrix, offset=0, dim1=0, dim2=1):
    """ONNX operators for the diagonals of square matrices: every n + 1st of their numbers, row after row."""
    from onnxscript import opset18 as op

    rank, size = len(matrix.shape), matrix.shape[-1]
    if offset or {dim1 % rank, dim2 % rank} != {rank - 2, rank - 1} or matrix.shape[-2] != size:
        raise NotImplementedError("diagonals of other than the last two dimensions of square matrices")
    flat = op.Reshape(matrix, op.Constant(value_ints=[0] * (rank - 2) + [size * size]))
    return op.Slice(flat, starts=[0], ends=[size * size], axes=[-1], steps=[size + 1])


def _constant(values: Any) -> Any:
    from onnxscript import ir
    from onnxscript import opset18 as op

    tensor: Any = ir.tensor(np.asarray(values, dtype=np.float64))
    return op.Constant(value=tensor)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.d2rl.eliminate.default: eliminate,
    torch.ops.aten.diagonal.default: diagonal,
}
