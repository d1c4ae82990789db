"""Rewriting nodes of an ONNX model as it was parsed, before it becomes a `Network`."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import onnx

from krypton_onnx.passes import network
from krypton_onnx.passes.network import Array

_REAL = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


class Facts:
    """What rewrites need to know of the rest of a model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graphs = list(network.graphs_of(model.graph))
        self.taken = {name for graph in graphs for name in _tensor_names(graph)}
        self.used = {name for graph in graphs for name in _used_names(graph)}
        self.constants = dict(pair for graph in graphs for pair in _constants(graph))
        inferred = onnx.shape_inference.infer_shapes(model)
        typed = [t for g in network.graphs_of(inferred.graph) for t in (*g.input, *g.value_info, *g.output)]
        self._types = {t.name: t.type.tensor_type.elem_type for t in typed}
        # Behind operators that ONNX does not know everything is taken for what the image is.
        image = (t.type.tensor_type.elem_type for t in model.graph.input)
        self._default = next((kind for kind in image if kind in _REAL), onnx.TensorProto.FLOAT)

    def dtype(self, tensor: str) -> np.dtype[Any]:
        """The tensor's element type."""
        kind = self._types.get(tensor) or self._default
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))


class Rewriter:
    """Collects the nodes that replace one node.

    Args:
        node: the node.
        model: what is known of its model.
    """

    def __init__(self, node: onnx.NodeProto, model: Facts) -> None:
        self.node = node
        self._dtype = model.dtype(node.input[0]) if node.input else np.dtype(np.float32)
        self.attributes: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        self.nodes: list[onnx.NodeProto] = []
        self._taken = model.taken

    def op(self, op: str, *inputs: str, last: bool = False, **attributes: Any) -> str:
        """Add an operator with one output; the last one makes the node's own first output."""
        result = self.node.output[0] if last else self._fresh(op)
        name = (self.node.name if last else "") or result
        self.nodes.append(onnx.helper.make_node(op, inputs, [result], name, **attributes))
        return result

    def constant(self, value: float | Array) -> str:
        """Add a constant of the type that the node's first input has."""
        return self.op("Constant", value=onnx.numpy_helper.from_array(np.asarray(value).astype(self._dtype)))

    def _fresh(self, what: str) -> str:
        wanted = (f"{self.node.output[0]}/{what.lower()}.{n}" for n in count())
        name = next(name for name in wanted if name not in self._taken)
        self._taken.add(name)
        return name


def _tensor_names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (t.name for t in (*graph.input, *graph.output))
    yield from (t.name for t in graph.initializer)
    yield from (name for node in graph.node for name in node.output)


def _used_names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (t.name for t in graph.output)
    yield from (name for node in graph.node for name in node.input)


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    yield from ((t.name, t) for t in graph.initializer)
    for node in (n for n in graph.node if n.op_type == "Constant"):
        yield from ((node.output[0], a.t) for a in node.attribute if a.name == "value")
