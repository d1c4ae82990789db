"""Building the tail graph: what the incremental graph hands over → the model's other outputs."""

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes.network import Network
from krypton_onnx.passes.per_query import query_shape
from krypton_onnx.plan import Tail


def build_tail(net: Network, tail: Tail) -> gs.Graph:
    """Cut the model before what it hands over.

    Before: ``image → … → flat [1, 25088] → Gemm → … → logits [1, 1000]``.
    After: ``flat [Q, 25088] → Gemm → … → logits [Q, 1000]``.

    Args:
        net: the normalized model, whose dense nodes take any number of queries; left as it is.
        tail: where to cut.
    """
    graph = net.graph.copy()
    tensors = graph.tensors()
    graph.inputs = [tensors[name] for name in tail.inputs]
    for tensor in graph.inputs:
        tensor.inputs.clear()
        tensor.dtype, tensor.shape = np.dtype(tensor.dtype), ["Q", *tensor.shape[1:]]
    graph.outputs = [tensors[name] for name in tail.outputs]
    for tensor in graph.outputs:
        tensor.shape = ["Q", *query_shape(tensor)]
    graph.name = "tail"
    graph.cleanup().toposort()
    for tensor in (t for node in graph.nodes for t in node.outputs if t not in graph.outputs):
        tensor.shape = None  # of one query as yet
    return graph
