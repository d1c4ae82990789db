"""The compiler's working form of a model: a graphsurgeon graph whose weights are kept beside it.

Weights of more than a few hundred bytes are *detached*: the graph knows their type and shape, the numbers stay
in one numpy array each. Checks and shape inference then cost milliseconds however large the model is, and an
exported graph names its weights in an external file (`WEIGHTS_FILE`) that several graphs can share.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import DTypeLike, NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues

from krypton_onnx.artifact import WEIGHTS_FILE
from krypton_onnx.errors import KryptonError
from krypton_onnx.passes.contrib import STANDARD, with_standard_operators

DETACH_BYTES = 1024
"""Constants above this size are detached; smaller ones (shapes, scalars) are data that shape inference reads."""

_LONGEST_VECTOR = 1 << 14
_MAKE_VECTORS = {"ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile"}
"""Operators whose results can be far longer than their inputs."""
_UNKNOWN = onnx.TensorShapeProto.Dimension()

Array = NDArray[np.generic]


class DetachedValues(LazyValues):  # type: ignore[misc]
    """A constant's numbers, which graphsurgeon exports by reference: as an external tensor of `WEIGHTS_FILE`."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.tensor = onnx.TensorProto(data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        self.tensor.data_location = onnx.TensorProto.EXTERNAL
        self.tensor.external_data.add(key="location", value=WEIGHTS_FILE)
        self.shape = list(array.shape)
        self.dtype = array.dtype

    def load(self) -> Array:
        """The numbers themselves."""
        return self.array


@dataclass(frozen=True, slots=True)
class Notes:
    """What a model says of itself.

    Attributes:
        description: its doc_string.
        properties: its metadata_props, by key.
    """

    description: str = ""
    properties: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Network:
    """A model while it is compiled. A transform takes one and returns one, and may reuse its graph.

    Attributes:
        graph: nodes in topological order, every tensor with static shape and dtype once `static_shapes` has run.
        image: name of the image input, [1, C, H, W].
        channels_last: whether the model itself takes [N, H, W, C].
        notes: what the model says of itself, carried along.
    """

    graph: gs.Graph
    image: str
    channels_last: bool = False
    notes: Notes = Notes()

    @property
    def image_tensor(self) -> gs.Variable:
        """The image input."""
        return next(t for t in self.graph.inputs if t.name == self.image)

    @property
    def other_inputs(self) -> list[gs.Variable]:
        """The model's inputs beside the image."""
        return [t for t in self.graph.inputs if t.name != self.image]


def constant(name: str, array: Array) -> gs.Constant:
    """A graph constant; detached if it is large."""
    array = np.asarray(array, order="C")
    return gs.Constant(name, DetachedValues(array) if array.nbytes > DETACH_BYTES else array)


def become_constant(tensor: gs.Variable, array: Array) -> None:
    """Turn a variable into a constant where it stands, for all its consumers."""
    tensor.to_constant(array)
    tensor._values = constant(tensor.name, array)._values


def values(tensor: gs.Tensor) -> Array | None:
    """The numbers of a constant, or None for what is known only at run time."""
    if not isinstance(tensor, gs.Constant):
        return None
    # `Constant.values` would replace the detached form by a copy that every export writes out.
    held = tensor._values
    if isinstance(held, DetachedValues):
        return held.array
    loaded: Array = tensor.values
    return loaded


def element_type(dtype: DTypeLike) -> int:
    """ONNX's number for an element type."""
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def is_absent(tensor: gs.Tensor) -> bool:
    """Whether an input slot is an omitted optional input (an empty name)."""
    return not isinstance(tensor, gs.Constant) and tensor.name == ""


def present(node: gs.Node) -> list[gs.Tensor]:
    """The node's inputs without omitted optional ones."""
    return [t for t in node.inputs if not is_absent(t)]


def outputs(node: gs.Node) -> list[gs.Tensor]:
    """The node's outputs without omitted ones."""
    return [t for t in node.outputs if not is_absent(t)]


class Names:
    """The names that tensors of a graph have, to find new ones."""

    def __init__(self, graph: gs.Graph) -> None:
        self._taken = set(graph.tensors())

    def fresh(self, wanted: str) -> str:
        """`wanted`, or with a number behind it if a tensor of the graph is called so; taken from now on."""
        numbered = (f"{wanted}.{n}" for n in count(2))
        name = wanted if wanted not in self._taken else next(name for name in numbered if name not in self._taken)
        self._taken.add(name)
        return name


def input_or_none(node: gs.Node, index: int) -> gs.Tensor | None:
    """Input number `index`, or None where it is omitted."""
    if index >= len(node.inputs) or is_absent(node.inputs[index]):
        return None
    return node.inputs[index]


def has_subgraph(node: gs.Node) -> bool:
    """Whether the node runs graphs of its own (If, Loop, Scan)."""
    return any(isinstance(value, gs.Graph) for value in node.attrs.values())


def domain(node: gs.Node) -> str:
    """The node's domain; empty for ONNX's own, whatever the model calls that."""
    return "" if node.domain in (None, *STANDARD) else str(node.domain)


def describe(node: gs.Node) -> str:
    """The node in a message: operator and name (or its first output, where it has no name)."""
    return f"{node.op} node '{node.name or node.outputs[0].name}'"


def detached_weights(graph: gs.Graph) -> Iterator[tuple[str, Array]]:
    """Every detached constant of the graph and its subgraphs, by name, once."""
    seen = set()
    for scope in (graph, *graph.subgraphs(recursive=True)):
        for name, tensor in scope.tensors().items():
            if isinstance(tensor, gs.Constant) and isinstance(tensor._values, DetachedValues) and name not in seen:
                seen.add(name)
                yield name, tensor._values.array


def memory_of(array: Array) -> tuple[int, int]:
    """Where its numbers lie and how many bytes they take: the same for one weight in two shapes."""
    return array.__array_interface__["data"][0], array.nbytes


def to_model(graph: gs.Graph) -> onnx.ModelProto:
    """Export the graph; detached weights become external tensors without an offset yet."""
    model: onnx.ModelProto = gs.export_onnx(graph, ir_version=ir_version_for(graph.opset), producer_name="krypton-onnx")
    return model


def ir_version_for(opset: int) -> int:
    """The oldest IR version that carries this opset, so that older runtimes still load the file."""
    return max(8, onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]))


def shell(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn external initializers into graph inputs, in place: what checks and inference need, without numbers."""
    externals: dict[str, onnx.TensorProto] = {}
    for graph in graphs_of(model.graph):
        externals.update({t.name: t for t in graph.initializer if is_external(t)})
        kept = [t for t in graph.initializer if not is_external(t)]
        del graph.initializer[:]
        graph.initializer.extend(kept)
    for tensor in externals.values():
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all its subgraphs."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs_of(attribute.g)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the tensor's numbers lie in a file of their own."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def infer_shapes(network: Network, *, after: str) -> Network:
    """Check the graph and write the inferred dtype and shape onto every tensor.

    Args:
        network: its image input has a static shape.
        after: the step that has just run, for the message.

    Raises:
        KryptonError: the graph is not valid ONNX, or its shapes contradict each other.
    """
    results = {id(t) for t in network.graph.outputs}
    given = {id(t) for t in network.graph.inputs}
    for tensor in network.graph.tensors().values():
        # Stale after a change upstream; inference fills it in again. A result's rank may be known from nowhere else.
        if isinstance(tensor, gs.Variable) and id(tensor) not in given:
            keeps_rank = id(tensor) in results and tensor.shape is not None
            tensor.shape = [None] * len(tensor.shape) if keeps_rank else None
    # onnx's inference contradicts itself about some ceil_mode extents, which are about to be spelled out.
    consistent = not any(node.attrs.get("ceil_mode", 0) for node in network.graph.nodes)
    model = with_standard_operators(shell(to_model(network.graph)))
    try:
        inferred = _inferred(model, strict=consistent)
        # The checker refuses outputs of unknown rank, as they stand behind operators that are not part of ONNX.
        if all(o.type.tensor_type.HasField("shape") for o in inferred.graph.output):
            onnx.checker.check_model(inferred)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:400]
        raise KryptonError(f"It is not consistent ONNX after {after}: {reason}") from error
    tensors = network.graph.tensors()
    for info in (*inferred.graph.value_info, *inferred.graph.output):
        tensor = tensors.get(info.name)
        if isinstance(tensor, gs.Variable) and info.type.HasField("tensor_type"):
            kind = info.type.tensor_type
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else None
            dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
            tensor.shape = dims if kind.HasField("shape") else None
    return network


def _inferred(model: onnx.ModelProto, *, strict: bool) -> onnx.ModelProto:
    """Shapes, and, where that is safe, through the numbers from which shapes are computed."""
    plain = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=strict)
    if not _propagates_little(plain.graph):
        return plain
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=strict, data_prop=True)


def _propagates_little(graph: onnx.GraphProto) -> bool:
    """Whether no vector is long: onnx would write down each of its numbers."""
    for part in graphs_of(graph):
        shapes = {t.name: t.type.tensor_type.shape.dim for t in (*part.value_info, *part.output)}
        if any(len(dims) == 1 and dims[0].dim_value > _LONGEST_VECTOR for dims in shapes.values()):
            return False
        made = [name for node in part.node if node.op_type in _MAKE_VECTORS for name in node.output]
        if any(not d.HasField("dim_value") for name in made for d in shapes.get(name, [_UNKNOWN])):
            return False
    return True


def static_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """The tensor's shape if every extent is known, else None."""
    shape = tensor.shape
    if shape is None:
        return None
    for extent in shape:  # planning asks a million times, and this is twice as fast as `any`
        if not isinstance(extent, int):
            return None
    return tuple(shape)


def bypass(node: gs.Node) -> None:
    """Let the readers of a node's result read its first input."""
    source, result = node.inputs[0], node.outputs[0]
    for consumer in list(result.outputs):
        for index, tensor in enumerate(consumer.inputs):
            if tensor is result:
                consumer.inputs[index] = source


def cleaned(net: Network) -> Network:
    """Without nodes that nothing reads, in topological order."""
    net.graph.cleanup(remove_unused_graph_inputs=False).toposort()
    return net
