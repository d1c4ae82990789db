"""Analysis: does axis 0 of a tensor stay one row a query, if many queries are computed at once?

A dense node runs on all queries of a batch together. That is right only where the operator treats axis 0 as a
batch, which an export for a single image need not do: ``Reshape`` to a leading 1, ``Flatten(axis=0)``, reductions
over all axes. Each known operator has a rule; any doubt loses the axis, and what follows runs query by query.
"""

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.network import Network, describe, outputs, static_shape, values
from krypton_onnx.passes.operators import NARY, UNARY
from krypton_onnx.passes.regions import used_names

_BATCHED = frozenset(
    {"AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "LRN"}
    | {"InstanceNormalization", "GroupNormalization", "DepthToSpace", "SpaceToDepth"}
)
"""Operators that are defined on [N, C, …] and never look across N, their other inputs being constant."""

_PARAMETERS_ONLY = frozenset({"Conv", "ConvTranspose", "BatchNormalization"})
"""The same, as long as only their first input depends on the image."""

_ALONG_AXIS = frozenset(
    {"Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin", "TopK", "CumSum", "LayerNormalization", "LpNormalization"}
    | {"Concat", "Split", "Gather"}
)
"""Operators that work along one axis, given by their attribute `axis`."""

_DEFAULT_AXIS = {"ArgMax": 0, "ArgMin": 0, "Split": 0, "Gather": 0}
_LAST = -1


def lost_batch_axes(net: Network, moving: frozenset[str], windowed: frozenset[str]) -> dict[str, str]:
    """Find the tensors whose axis 0 is not surely the batch.

    Args:
        net: the normalized model, with the shapes that it has for one image.
        moving: names of the tensors that depend on the image.
        windowed: those that are computed in windows, for which the builder keeps the batch axis itself.

    Returns:
        By tensor name, why the axis is lost.
    """
    lost: dict[str, str] = {}
    for node in net.graph.nodes:
        used = [name for name in used_names(node) if name in moving]
        if not used or outputs(node)[0].name in windowed:
            continue
        inherited = next((lost[name] for name in used if name in lost), None)
        reason = inherited or _doubt(node, moving)
        if reason:
            where = reason if inherited else f"{describe(node)}: {reason}"
            lost.update({t.name: where for t in outputs(node)})
    return lost


def _doubt(node: gs.Node, moving: frozenset[str]) -> str | None:
    """Why the node may not keep axis 0 a batch, or None if it surely does."""
    if node.domain not in (None, "", "ai.onnx") or network.has_subgraph(node):
        return "no batch rule for this operator"
    shapes = {t.name: static_shape(t) for t in (*network.present(node), *outputs(node))}
    if any(shapes[t.name] is None for t in outputs(node)) or any(s is None for n, s in shapes.items() if n in moving):
        return "its shape is not known"
    if any((shapes[t.name] or (0,))[0] != 1 for t in outputs(node)):
        return "its result for one image does not begin with an axis of one"
    if any((shapes[t.name] or (0,))[0] != 1 for t in node.inputs if t.name in moving):
        return "its input for one image does not begin with an axis of one"
    return _operator_doubt(node, moving)


def _operator_doubt(node: gs.Node, moving: frozenset[str]) -> str | None:
    extras = [t for t in network.present(node)[1:] if t.name in moving]
    rank = len(static_shape(node.inputs[0]) or ())
    match node.op:
        case "MaxPool" if len(outputs(node)) > 1:
            return "its indices count across the batch"
        case op if op in UNARY or op in _BATCHED:
            return None if not extras else "more than one input depends on the image"
        case op if op in _PARAMETERS_ONLY:
            return None if not extras else "its parameters depend on the image"
        case op if op in NARY:
            return _broadcast_doubt(node, moving)
        case op if op in _ALONG_AXIS:
            return _axis_doubt(node, moving, rank)
        case op if op.startswith("Reduce"):
            return _reduce_doubt(node, rank)
        case "Flatten":
            axis = node.attrs.get("axis", 1)
            return None if axis in (1, 1 - rank) else "it flattens other axes into the first"
        case "Reshape":
            return None if values(node.inputs[1]) is not None else "its target shape is computed"
        case "Transpose":
            return None if node.attrs.get("perm", [rank - 1])[0] == 0 else "it moves the first axis"
        case "Squeeze" | "Unsqueeze":
            return _squeeze_doubt(node)
        case "Gemm":
            plain = not extras and node.inputs[0].name in moving and not node.attrs.get("transA", 0)
            return None if plain and _rows_broadcast(node) else "it is no product with a constant matrix"
        case "MatMul":
            return _matmul_doubt(node, moving, rank)
        case "Pad":
            return _pad_doubt(node, rank)
        case "Dropout":
            return None
        case _:
            return "no batch rule for this operator"


def _broadcast_doubt(node: gs.Node, moving: frozenset[str]) -> str | None:
    rank = len(static_shape(node.outputs[0]) or ())
    for tensor in network.present(node):
        shape = static_shape(tensor)
        if shape is None:
            return "an operand's shape is not known"
        if tensor.name in moving and len(shape) != rank:
            return "operands of different rank"
        if tensor.name not in moving and len(shape) == rank and shape[0] != 1:
            return "a constant operand with an extent on the first axis"
    return None


def _axis_doubt(node: gs.Node, moving: frozenset[str], rank: int) -> str | None:
    axis_input = network.input_or_none(node, 1) if node.op == "CumSum" else None
    default = _DEFAULT_AXIS.get(node.op, _LAST)
    axis = node.attrs.get("axis", default) if axis_input is None else values(axis_input)
    if axis is None or int(np.asarray(axis).reshape(())) % rank == 0:
        return "it works along the first axis"
    first, *others = network.present(node)
    if node.op == "Concat":
        return None if all(t.name in moving for t in (first, *others)) else "it joins a tensor without a batch"
    return None if first.name in moving and all(t.name not in moving for t in others) else "its indices are computed"


def _reduce_doubt(node: gs.Node, rank: int) -> str | None:
    axes_input = network.input_or_none(node, 1)
    axes = node.attrs.get("axes") if axes_input is None else values(axes_input)
    if axes is None or len(np.atleast_1d(axes)) == 0:
        return "it reduces all axes"
    return "it reduces the first axis" if 0 in [int(a) % rank for a in np.atleast_1d(axes)] else None


def _squeeze_doubt(node: gs.Node) -> str | None:
    axes_input = network.input_or_none(node, 1)
    axes = None if axes_input is None else values(axes_input)
    if axes is None:
        return "it removes every axis of one"
    ranks = [len(static_shape(t) or ()) for t in (node.inputs[0], node.outputs[0])]
    return "it adds or removes the first axis" if 0 in [int(a) % max(ranks) for a in np.atleast_1d(axes)] else None


def _rows_broadcast(node: gs.Node) -> bool:
    addend = network.input_or_none(node, 2)
    shape = () if addend is None else static_shape(addend)
    return shape is not None and (len(shape) < 2 or shape[0] == 1)


def _matmul_doubt(node: gs.Node, moving: frozenset[str], rank: int) -> str | None:
    left, right = node.inputs
    other = static_shape(right)
    if other is None or left.name not in moving:
        return "its first factor is not computed from the image"
    if right.name in moving:
        return None if rank == len(other) >= 3 else "a product of two tensors that depend on the image"
    return (
        None
        if rank >= 2 and (len(other) <= 2 or (len(other) <= rank and other[0] == 1))
        else "its constant has a batch"
    )


def _pad_doubt(node: gs.Node, rank: int) -> str | None:
    amounts, axes = values(node.inputs[1]), network.input_or_none(node, 3)
    if amounts is None or axes is not None:
        return "its padding is not plain"
    return None if amounts[0] == 0 and amounts[rank] == 0 else "it pads the first axis"
