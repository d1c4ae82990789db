"""Transform: quantized tensors of signed bytes become unsigned, as ONNX Runtime makes them on most processors."""

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.network import Array, Network, values

_SHIFT = 128


def make_bytes_unsigned(net: Network) -> Network:
    """Shift the zero points of tensors that are quantized only to be dequantized by one reader.

    Before: ``Quantize(x, scale, int8 z) → q → Dequantize(q, scale, int8 z)``. After: the same with ``uint8 z + 128``.

    ONNX Runtime does so where it finds the two side by side, and then fuses what is around them into integer kernels.
    Reads part the two, so that without this the windows would be computed in floats and rounded the other way at ties.
    """
    results = {id(t) for t in net.graph.outputs}
    taken = network.Names(net.graph)
    for node in net.graph.nodes:
        if node.op != "QuantizeLinear" or len(node.outputs[0].outputs) != 1 or id(node.outputs[0]) in results:
            continue
        reader = node.outputs[0].outputs[0]
        zeros = [_signed_zero(n) for n in (node, reader)]
        alone = len(reader.outputs[0].outputs) + (id(reader.outputs[0]) in results) == 1
        known = reader.op == "DequantizeLinear" and not any(zero is None for zero in zeros)
        if not known or not alone or _doubled(node, reader):
            continue
        for pair, zero in zip((node, reader), zeros, strict=True):
            shifted = (np.asarray(zero, np.int16) + _SHIFT).astype(np.uint8)
            pair.inputs[2] = network.constant(taken.fresh(f"{node.outputs[0].name}/zero"), shifted)
            pair.attrs.pop("output_dtype", None)
        node.outputs[0].dtype = np.dtype(np.uint8)
    return net


def _doubled(quantize: gs.Node, dequantize: gs.Node) -> bool:
    """Whether another such pair stands before or behind: pairs of one type would be merged, these are not."""
    before, behind = quantize.inputs[0].inputs, dequantize.outputs[0].outputs
    return any(n.op == "DequantizeLinear" for n in before) or any(n.op == "QuantizeLinear" for n in behind)


def _signed_zero(node: gs.Node) -> Array | None:
    """The zero point, if it is a constant of signed bytes."""
    tensor = network.input_or_none(node, 2)
    zero = None if tensor is None else values(tensor)
    return zero if zero is not None and zero.dtype == np.int8 else None
