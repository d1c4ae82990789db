"""Folding: nodes whose results are known while the model is compiled become constants."""

import math

import numpy as np
import onnx
import onnx.reference
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.network import Array, static_shape, values

POOLS = ("MaxPool", "AveragePool", "LpPool")

MAX_GROWTH = 1 << 25
"""Numbers by which folding may make a model larger: a mask or an embedding, not what a chain of Tiles can make."""

_NEVER_FOLDED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
"""Quantization stays visible to ONNX Runtime's own fusions."""

_SLOW = {"Conv", "ConvTranspose", "Einsum", "GridSample", "GRU", "LSTM", "Resize", "RNN", "RoiAlign", *POOLS}
_MAX_SLOW_ELEMENTS = 1 << 12
"""Results of operators that onnx's reference computes in Python loops."""

_SHAPE_DATA = 64
"""Numbers that a shape, or what one is computed from, has at most."""


def fold(graph: gs.Graph, growth: int) -> tuple[bool, int]:
    """Replace nodes whose results are known by constants.

    Args:
        graph: the graph.
        growth: numbers by which it may become larger.

    Returns:
        (whether anything was folded, the growth that is left).
    """
    outputs = {t.name for t in graph.outputs}
    folded = False
    for node in list(graph.nodes):
        if folded:
            _infer_again(graph, node)
        if any(t.name in outputs for t in node.outputs) or len(node.outputs) != 1:
            continue
        result = _known_result(graph, node, growth)
        if result is not None:
            growth -= _grown(node, result.size)
            target = node.outputs[0]
            node.outputs.clear()
            network.become_constant(target, result)
            folded = True
    if folded:
        graph.cleanup(remove_unused_graph_inputs=False)
    return folded, growth


def _grown(node: gs.Node, size: int) -> int:
    """How many numbers more a node's result has than its inputs."""
    held = {id(t): math.prod(static_shape(t) or (0,)) for t in network.present(node)}
    return max(0, size - sum(held.values()))


def _known_result(graph: gs.Graph, node: gs.Node, growth: int) -> Array | None:
    if node.op in ("Shape", "Size"):
        shape = static_shape(node.inputs[0])
        if shape is None:
            return None
        sliced = shape[slice(node.attrs.get("start", 0), node.attrs.get("end", None))]
        return np.array(sliced if node.op == "Shape" else math.prod(shape), np.int64)
    inputs = {t.name: values(t) for t in network.present(node)}
    if node.op in _NEVER_FOLDED or network.has_subgraph(node) or any(v is None for v in inputs.values()):
        return None
    shape = static_shape(node.outputs[0])
    if shape is None or _grown(node, math.prod(shape)) > growth:
        return None
    if node.op in _SLOW and math.prod(shape) > _MAX_SLOW_ELEMENTS:
        return None
    return _evaluate(graph, node, inputs)


def _infer_again(graph: gs.Graph, node: gs.Node) -> None:
    """Give a node's results the shapes that follow from what has just been folded.

    So that a chain of shapes computed from shapes folds in one go, and not in one inference of the graph a link.
    Poolings and what they lead to are left to that: their extents may have to be put right first.
    """
    known = all(static_shape(t) is not None for t in node.outputs)
    if known or node.op in POOLS or network.domain(node) or network.has_subgraph(node):
        return
    inputs = network.present(node)
    if any(t.dtype is None or static_shape(t) is None for t in inputs):
        return
    types = {t.name: onnx.helper.make_tensor_type_proto(network.element_type(t.dtype), t.shape) for t in inputs}
    small = {t.name: values(t) for t in inputs if math.prod(t.shape) <= _SHAPE_DATA}
    data = {name: onnx.numpy_helper.from_array(array, name) for name, array in small.items() if array is not None}
    opsets = list(graph.import_domains)
    try:
        schema = onnx.defs.get_schema(node.op, graph.opset, "")
        inferred = onnx.shape_inference.infer_node_outputs(schema, _proto(graph, node), types, data, None, opsets)
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError):
        return  # what is wrong with it, the inference of the whole graph will say
    for tensor in network.outputs(node):
        kind = inferred[tensor.name].tensor_type if tensor.name in inferred else onnx.TypeProto.Tensor()
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            tensor.shape = [d.dim_value for d in kind.shape.dim]
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)


def _proto(graph: gs.Graph, node: gs.Node) -> onnx.NodeProto:
    """The node alone, as ONNX writes it."""
    inputs = [gs.Variable(t.name) for t in node.inputs]
    lone = node.copy(inputs=inputs, outputs=[gs.Variable(t.name) for t in node.outputs])
    graph = gs.Graph([lone], opset=graph.opset, import_domains=graph.import_domains)
    proto: onnx.NodeProto = gs.export_onnx(graph).graph.node[0]
    return proto


def _evaluate(graph: gs.Graph, node: gs.Node, inputs: dict[str, Array | None]) -> Array | None:
    """Run one node on onnx's reference implementation; None where it has none for this operator."""
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [_proto(graph, node)],
            "folded",
            [
                onnx.helper.make_tensor_value_info(t.name, network.element_type(t.dtype), t.shape)
                for t in network.present(node)
            ],
            [
                onnx.helper.make_tensor_value_info(
                    node.outputs[0].name, network.element_type(node.outputs[0].dtype), None
                )
            ],
        ),
        opset_imports=list(graph.import_domains),
    )
    try:
        (result,) = onnx.reference.ReferenceEvaluator(proto).run(None, inputs)
    except Exception:  # whatever an operator without a complete reference raises: then it just is not folded
        return None
    return np.asarray(result)
