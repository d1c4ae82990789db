"""Operators that look along the channels of one cell: 1×1 convolutions in other clothes, and normalizations."""

import onnx_graphsurgeon as gs

from krypton_onnx.passes.network import static_shape, values
from krypton_onnx.passes.rules.rule import Axes, NoRule, Rule, WindowRule, moving_beyond, numbers

_ALONG = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "LpNormalization": -1, "ArgMax": 0, "ArgMin": 0}
"""Operators along one axis, and its default."""
_TO_LAST = frozenset({"LayerNormalization", "RMSNormalization"})
"""Operators along all axes from one on."""
_PRODUCTS = {"MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3}
"""Matrix products, and which input is the second factor."""
_BY_CHANNEL = frozenset({"BatchNormalization", "LRN"})
_QUANTIZATION = frozenset({"QuantizeLinear", "DequantizeLinear"})

RULES = (
    frozenset({"Concat", "CumSum", "Einsum"})
    | _ALONG.keys()
    | _TO_LAST
    | _PRODUCTS.keys()
    | _BY_CHANNEL
    | _QUANTIZATION
)


def rule(node: gs.Node, axes: Axes, moving: frozenset[str]) -> Rule:
    """Any of them: pointwise, if nothing but channels is looked along."""
    if node.op == "Concat":
        return _concat(node, axes, moving)
    if node.op == "Einsum":
        return _einsum(node, axes, moving)
    if moving_beyond(node, moving):
        return NoRule("its parameters depend on the image")
    doubt = _doubt(node, axes)
    return NoRule(doubt) if doubt else WindowRule(axes=axes)


def _doubt(node: gs.Node, axes: Axes) -> str | None:
    """Why the node may look at more than one cell; None if it surely does not."""
    match node.op:
        case op if op in _ALONG:
            alone = node.attrs.get("axis", _ALONG[op]) % 4 == axes.channel
            return None if alone and node.attrs.get("keepdims", 1) else "it works along rows or columns"
        case op if op in _TO_LAST:
            return None if node.attrs.get("axis", -1) % 4 == axes.channel == 3 else "it normalizes over the map"
        case "CumSum":
            axis = numbers(node, 1)
            return None if axis is not None and int(axis[0]) % 4 == axes.channel else "it works along rows or columns"
        case op if op in _PRODUCTS:
            return _product_doubt(node, axes)
        case op if op in _BY_CHANNEL:
            return None if axes.channel == 1 else "its channels do not stand where it expects them"
        case op if op in _QUANTIZATION:
            return _quantization_doubt(node, axes)
        case _:
            return _reduction_doubt(node, axes)


def _reduction_doubt(node: gs.Node, axes: Axes) -> str | None:
    reduced = numbers(node, 1, "axes")
    if reduced is None or [int(axis) % 4 for axis in reduced] != [axes.channel]:
        return f"{node.op} looks along rows or columns"
    return None if node.attrs.get("keepdims", 1) else "its result is no 4-D map"


def _product_doubt(node: gs.Node, axes: Axes) -> str | None:
    if axes.channel != 3:
        return "a product along rows or columns"
    factor = static_shape(node.inputs[_PRODUCTS[node.op]])
    if factor is None or len(factor) < 2 or any(n != 1 for n in factor[:-2]):
        return "a product with different matrices at different places"
    return None


def _quantization_doubt(node: gs.Node, axes: Axes) -> str | None:
    if node.attrs.get("block_size", 0):
        return "its scales come in blocks"
    rank = len(static_shape(node.inputs[1]) or ())
    alone = rank == 0 or node.attrs.get("axis", 1) % 4 == axes.channel or static_shape(node.inputs[1]) == (1,)
    return None if rank <= 1 and alone else "its scales differ from place to place"


def _concat(node: gs.Node, axes: Axes, moving: frozenset[str]) -> Rule:
    if node.attrs["axis"] % 4 != axes.channel:
        return NoRule("Concat over another axis than channels")
    still = tuple(i for i, t in enumerate(node.inputs) if t.name not in moving)
    if any(values(node.inputs[i]) is None for i in still):
        return NoRule("Concat with a tensor that is computed, and not from the image")
    return WindowRule(spatial_constants=still, axes=axes)


def _einsum(node: gs.Node, axes: Axes, moving: frozenset[str]) -> Rule:
    """A sum over channels: rows, columns and batch stand in one operand and in the result."""
    operands, arrow, result = node.attrs["equation"].replace(" ", "").partition("->")
    labels = operands.split(",")
    images = [i for i, t in enumerate(node.inputs) if t.name in moving]
    if not arrow or len(images) != 1 or "." in operands or len(result) != 4 or len(labels[images[0]]) != 4:
        return NoRule("an Einsum that is no sum over channels")
    image, others = labels[images[0]], [t for i, t in enumerate(labels) if i != images[0]]
    batch, rows, cols = image[0], image[axes.rows], image[axes.cols]
    kept = {batch, rows, cols}
    if any(image.count(n) != 1 or result.count(n) != 1 or any(n in other for other in others) for n in kept):
        return NoRule("an Einsum that is no sum over channels")
    channel = next(iter(set(result) - kept), "")
    if result[0] != batch or result.count(channel) != 1:
        return NoRule("an Einsum that is no sum over channels")
    return WindowRule(axes=Axes(result.index(channel), result.index(rows), result.index(cols)))
