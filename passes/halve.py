"""Transform: what computes in float32 computes in float16, where that is all it loses. Approximate, and for devices.

Before: ``image → Conv(w) → Relu → Softmax → y``. After::

    image ─ Cast ─ Conv(w in float16) ─ Relu ─ Cast ─ Softmax ─ y

Convolutions, products and what stands between them are halved; sums over many cells, exponentials and all that is not
known to bear it stay in float32, and so do the model's inputs and outputs.
"""

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.network import Network, element_type, values

# fmt: off
HALVED = frozenset({
    "Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "DepthToSpace", "Dropout", "Elu", "Expand",
    "Flatten", "Gather", "Gemm", "GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "MatMul",
    "MaxPool", "Mul", "PRelu", "Pad", "Relu", "Reshape", "Sigmoid", "Slice", "SpaceToDepth", "Split", "Squeeze", "Sub",
    "Tanh", "Tile", "Transpose", "Unsqueeze", "Where",
})
# fmt: on
"""Operators that compute in float16: none makes of numbers that float16 holds much larger ones, but for sums of
products, which the runtimes accumulate in float32."""

FULL, HALF = np.dtype(np.float32), np.dtype(np.float16)


def halved(net: Network) -> Network:
    """The model in float16.

    Args:
        net: the normalized model, left as it is.
    """
    graph = net.graph.copy()
    writer = _Writer(graph)
    for node in list(graph.nodes):
        kept = HALF if _bears_it(node) else FULL
        for index, tensor in enumerate(node.inputs):
            if tensor.dtype in (FULL, HALF) and not network.is_absent(tensor):
                node.inputs[index] = writer.of_type(tensor, kept)
        if kept == HALF:
            for index, tensor in enumerate(node.outputs):
                node.outputs[index] = writer.result(tensor)
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    return Network(graph, net.image, net.channels_last, net.notes)


def _bears_it(node: gs.Node) -> bool:
    """Whether a node computes in float16."""
    if node.op not in HALVED or network.domain(node) or any(t.dtype == np.float64 for t in node.outputs):
        return False
    constants = (values(tensor) for tensor in node.inputs if tensor.dtype == FULL)
    largest = float(np.finfo(HALF).max)
    return all(np.abs(array).max(initial=0) <= largest for array in constants if array is not None)


class _Writer:
    def __init__(self, graph: gs.Graph) -> None:
        self._graph, self._names = graph, network.Names(graph)
        self._outputs = {id(tensor) for tensor in graph.outputs}
        self._cast: dict[tuple[int, np.dtype[np.generic]], gs.Tensor] = {}

    def of_type(self, tensor: gs.Tensor, dtype: np.dtype[np.generic]) -> gs.Tensor:
        """The same numbers in this type."""
        if tensor.dtype == dtype:
            return tensor
        if (id(tensor), dtype) not in self._cast:
            name = self._names.fresh(f"{tensor.name}/{dtype}")
            array = values(tensor)
            made = gs.Variable(name, dtype) if array is None else network.constant(name, array.astype(dtype))
            if array is None:
                self._append_cast(tensor, made)
            self._cast[id(tensor), dtype] = made
        return self._cast[id(tensor), dtype]

    def result(self, tensor: gs.Variable) -> gs.Variable:
        """What a node in float16 gives; an output of the model is a copy of it in float32."""
        if tensor.dtype != FULL:
            return tensor
        if id(tensor) not in self._outputs:
            tensor.dtype = HALF
            return tensor
        half = gs.Variable(self._names.fresh(f"{tensor.name}/{HALF}"), HALF)
        self._append_cast(half, tensor)
        return half

    def _append_cast(self, tensor: gs.Tensor, result: gs.Variable) -> None:
        attrs, name = {"to": element_type(result.dtype)}, f"{tensor.name}/as_{result.dtype}"
        self._graph.nodes.append(gs.Node("Cast", name, attrs, [tensor], [result]))
