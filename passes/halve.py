"""Transform: what computes in float32 computes in float16, where that is all it loses. Approximate, and for devices.

Before: ``image → Conv(w) → Relu → Softmax → y``. After::

    image ─ Cast ─ Conv(w in float16) ─ Relu ─ Cast ─ Softmax ─ y

Convolutions, products and what stands between them are halved; sums over many cells, exponentials and all that is not
known to bear it stay in float32, and so do the model's inputs, its outputs and the nodes that make these, and what
subgraphs read.
"""

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.network import Network, element_type, values
from krypton_onnx.passes.regions import used_names

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
    inner = {name for node in graph.nodes if network.has_subgraph(node) for name in used_names(node)}
    kept = inner | {tensor.name for tensor in graph.outputs}
    writer = _Writer(graph)
    for node in list(graph.nodes):
        if _bears_it(node) and kept.isdisjoint(tensor.name for tensor in node.outputs):
            writer.halve(node)
        else:
            writer.restore(node)
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
        self._halved: set[str] = set()
        self._cast: dict[str, gs.Tensor] = {}

    def halve(self, node: gs.Node) -> None:
        """Let a node compute in float16 what it computes in float32."""
        for index, tensor in enumerate(node.inputs):
            if tensor.dtype == FULL and not network.is_absent(tensor):
                node.inputs[index] = self._in(HALF, tensor)
        for tensor in node.outputs:
            if tensor.dtype == FULL:
                tensor.dtype = HALF
                self._halved.add(tensor.name)

    def restore(self, node: gs.Node) -> None:
        """Let a node that stays in float32 read that."""
        for index, tensor in enumerate(node.inputs):
            if tensor.name in self._halved:
                node.inputs[index] = self._in(FULL, tensor)

    def _in(self, dtype: np.dtype[np.generic], tensor: gs.Tensor) -> gs.Tensor:
        """The same numbers in this type, which is the other one."""
        if tensor.name not in self._cast:
            name = self._names.fresh(f"{tensor.name}/{dtype}")
            array = values(tensor)
            made = gs.Variable(name, dtype) if array is None else network.constant(name, array.astype(dtype))
            if array is None:
                attrs, cast = {"to": element_type(dtype)}, f"{tensor.name}/as_{dtype}"
                self._graph.nodes.append(gs.Node("Cast", cast, attrs, [tensor], [made]))
            self._cast[tensor.name] = made
        return self._cast[tensor.name]
