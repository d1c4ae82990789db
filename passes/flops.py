"""Floating-point operations of a node: two per multiply-add of convolutions and matrix products, else none."""

import math

import onnx_graphsurgeon as gs

from krypton_onnx.passes.network import static_shape


def flops(node: gs.Node) -> int:
    """Operations of one inference of this node, at its full output size."""
    shapes = [static_shape(t) for t in (*node.inputs, *node.outputs)]
    if not shapes or any(s is None for s in shapes[:2]) or shapes[-1] is None:
        return 0
    first, second, result = shapes[0] or (), shapes[1] or (), shapes[-1]
    match node.op:
        case "Conv":
            return 2 * math.prod(result) * math.prod(second[1:])
        case "ConvTranspose":
            return 2 * math.prod(first) * math.prod(second[1:])
        case "Gemm" | "MatMul" if len(first) and len(second):
            inner = first[0] if node.attrs.get("transA", 0) else first[-1]
            return 2 * math.prod(result) * inner
        case _:
            return 0
