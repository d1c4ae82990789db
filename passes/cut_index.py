"""Cutting the index arithmetic off the incremental graph, for a device.

There every node is a launch, however few numbers it makes, and a number from which an extent follows makes the host
wait. On the host the same nodes cost next to nothing. So a graph of their own, which runs there, finds out where
windows and their rows lie; the incremental graph takes that, and its extents depend on those of its inputs alone.
"""

import onnx
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.regions import used_names
from krypton_onnx.passes.windows import Inputs


def cut_index(graph: gs.Graph, inputs: Inputs, lines: frozenset[str]) -> tuple[gs.Graph, gs.Graph]:
    """Part what depends on the queries' places alone from the rest.

    Before: ``origins, window_sizes → … → Split → rows, columns → Add, Min, Max → Gather(view)``.
    After: ``origins, window_sizes → … → Split → rows, columns``, and ``rows, columns → Add, Min, Max → Gather(view)``.

    Args:
        graph: the incremental graph, in topological order.
        inputs: what it is told of the queries.
        lines: names of the tensors that hold where the rows, and the columns, of each read lie. What is made of these
            has a number for each cell, and stays.

    Returns:
        The index graph, which is told the same, and the rest, which takes its outputs in place of the queries' places.
    """
    _state_types(graph)
    handed = _handed_over(graph, inputs, lines)
    index, rest = graph.copy(), graph.copy()
    tensors = index.tensors()
    index.name = "index"
    index.inputs = [tensors[tensor.name] for tensor in inputs.all()]
    index.outputs = [tensors[name] for name in handed]
    index.cleanup(remove_unused_graph_inputs=False)
    tensors = rest.tensors()
    for name in handed:
        tensors[name].inputs.clear()
    told = {tensor.name for tensor in inputs.places}
    rest.inputs = [*(t for t in rest.inputs if t.name not in told), *(tensors[name] for name in handed)]
    rest.cleanup(remove_unused_graph_inputs=False)
    return index, rest


def _handed_over(graph: gs.Graph, inputs: Inputs, lines: frozenset[str]) -> list[str]:
    """Names of what depends on the queries' places alone, and is read by what does not."""
    places, found = {tensor.name for tensor in inputs.places}, set[str]()
    late = []
    for node in graph.nodes:
        read = [t.name for t in network.present(node) if not isinstance(t, gs.Constant)]
        of_extents = node.op == "Shape" and read == [inputs.patch_content.name]
        if of_extents or (read and places.issuperset(read)):
            found.update(t.name for t in node.outputs)
            places.update(t.name for t in node.outputs if t.name not in lines)
        else:
            late.append(node)
    return list(dict.fromkeys(name for node in late for name in used_names(node) if name in found))


def _state_types(graph: gs.Graph) -> None:
    """Write down the types and extents of all tensors, which inputs and outputs must have."""
    inferred = onnx.shape_inference.infer_shapes(network.shell(network.to_model(graph)))
    tensors = graph.tensors()
    for info in inferred.graph.value_info:
        tensor, kind = tensors.get(info.name), info.type.tensor_type
        if isinstance(tensor, gs.Variable) and kind.elem_type:
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            tensor.shape = [_extent(d) for d in kind.shape.dim] if kind.HasField("shape") else None


def _extent(dimension: onnx.TensorShapeProto.Dimension) -> int | str | None:
    """A number or a name; None for a name that onnx's inference has made up."""
    if dimension.HasField("dim_value"):
        return int(dimension.dim_value)
    return None if dimension.dim_param.startswith("unk__") else str(dimension.dim_param) or None
