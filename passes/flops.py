"""Floating-point operations of a node: two per multiply-add of convolutions and matrix products, else none.

None, either, for a convolution that only scales channels: that is a normalization in other clothes.
"""

import math

import onnx_graphsurgeon as gs

from krypton_onnx.passes.network import static_shape

_FACTORS = {
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "QLinearConv": (0, 3),
    "ConvTranspose": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
    "QGemm": (0, 3),
}
"""Which inputs are multiplied. In integers an operation counts as one in floating point."""


def flops(node: gs.Node) -> int:
    """Operations of one inference of this node, at its full output size."""
    if node.op == "Einsum":
        return _einsum(node)
    if node.op not in _FACTORS or scales_channels(node):
        return 0
    first, second = (static_shape(node.inputs[position]) for position in _FACTORS[node.op])
    result = static_shape(node.outputs[0])
    if not first or not second or result is None:
        return 0
    match node.op:
        case "Conv" | "ConvInteger" | "QLinearConv":
            return 2 * math.prod(result) * math.prod(second[1:])
        case "ConvTranspose":
            return 2 * math.prod(first) * math.prod(second[1:])
        case _:
            inner = first[0] if node.attrs.get("transA", 0) else first[-1]
            return 2 * math.prod(result) * inner


def scales_channels(node: gs.Node) -> bool:
    """Whether a convolution multiplies each channel by a number, and looks at nothing else."""
    weight = static_shape(node.inputs[1]) if node.op == "Conv" else None
    return weight is not None and weight[1:] == (1, 1, 1) and node.attrs.get("group", 1) == weight[0] > 1


def _einsum(node: gs.Node) -> int:
    """One multiply-add for each combination of all indices; none where nothing is multiplied or summed."""
    equation = node.attrs["equation"].replace(" ", "")
    terms, _, result = equation.partition("->")
    shapes = [static_shape(t) for t in node.inputs]
    if len(shapes) < 2 or "." in equation or any(s is None for s in shapes):
        return 0
    pairs = (zip(term, shape or (), strict=True) for term, shape in zip(terms.split(","), shapes, strict=True))
    extents = {letter: extent for pair in pairs for letter, extent in pair}
    return 2 * math.prod(extents.values()) if set(extents) - set(result) else 0
