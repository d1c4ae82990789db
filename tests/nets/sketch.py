"""An ONNX graph that is being drawn: decisions, nodes, weights, and the shape of everything so far."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, checker, defs, helper, numpy_helper, shape_inference

from nets.choices import Choices

Array = npt.NDArray[Any]
T = TypeVar("T")

MAX_CELLS = 6 * 40 * 40
LATEST_OPSET = 21
OPSETS = (17, 13, 11, 18, LATEST_OPSET, 9, 7, 8, 10, 12, 14, 19, 20)
LOCAL, CONTRIB = "local", "com.microsoft"


class IllegalError(Exception):
    """The node that was drawn does not fit its inputs."""


@dataclass(frozen=True)
class Net:
    """A random model, and what has to be known to run it.

    Attributes:
        model: the ONNX model; its image input is called "image".
        image: shape [C, H, W].
        channels_last: the model takes [N, H, W, C].
        dtype: of the image.
    """

    model: onnx.ModelProto
    image: tuple[int, int, int]
    channels_last: bool = False
    dtype: str = "float32"


@dataclass(frozen=True)
class Map:
    """A tensor [1, channels, rows, cols]."""

    name: str
    channels: int
    rows: int
    cols: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return 1, self.channels, self.rows, self.cols


@dataclass
class Sketch:
    """An ONNX graph that is being drawn.

    Attributes:
        batch: images that the model takes at once: a fixed number, or open (None or a name).
        fixed32: names of weights that have to stay float32 where the rest becomes float16.
    """

    choices: Choices
    seed: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    known: dict[str, TensorProto] = field(default_factory=dict)
    fixed32: set[str] = field(default_factory=set)
    batch: int | str | None = 1

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.opset = self.pick(*OPSETS) if self.integer(0, 2) == 2 else 17
        self.listed = self.opset < 9 or self.rarely()
        self.domains = {"": self.opset}

    # -------------------------------------------------------------------------------------------- decisions

    def pick(self, *options: T) -> T:
        return options[self.choices.below(len(options))]

    def integer(self, low: int, high: int) -> int:
        return low + self.choices.below(high - low + 1)

    def rarely(self) -> bool:
        return self.choices.below(6) == 5

    def often(self) -> bool:
        return self.choices.below(2) == 0

    def since(self, opset: int) -> None:
        """Refuse what older opsets do not have."""
        if self.opset < opset:
            raise IllegalError

    def require(self, possible: bool) -> None:
        if not possible:
            raise IllegalError

    def attempt(self, maker: Callable[["Sketch", Map], Map], x: Map) -> Map:
        """What `maker` makes of x, or x itself where that is not possible."""
        marks = len(self.nodes), len(self.weights), len(self.inputs), len(self.maps), len(self.functions)
        try:
            made = maker(self, x)
            self.require(made.channels * made.rows * made.cols <= 2 * MAX_CELLS)
            return made
        except IllegalError:
            for drawn, mark in zip(
                (self.nodes, self.weights, self.inputs, self.maps, self.functions), marks, strict=True
            ):
                del drawn[mark:]  # type: ignore[attr-defined]
            return x

    # --------------------------------------------------------------------------------------------- elements

    def op(self, kind: str, *inputs: str, **attrs: Any) -> str:
        return self.ops(kind, 1, *inputs, **attrs)[0]

    def ops(self, kind: str, results: int, *inputs: str, **attrs: Any) -> list[str]:
        names = self.fresh(kind, results)
        node = helper.make_node(kind, list(inputs), names, name=f"n{len(self.nodes)}", **attrs)
        self.nodes.append(node)
        self.types.update(self._inferred(node))
        return names

    def opaque(self, kind: str, like: Map, *inputs: str, **attrs: Any) -> Map:
        """A node that inference cannot look into; its result is like `like`."""
        self.require(self.lead == 1)  # behind it, nobody knows which extent is the batch
        (name,) = self.fresh(kind, 1)
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"n{len(self.nodes)}", **attrs))
        self.types[name] = self.types[like.name]
        return self.like(like, name)

    def fresh(self, kind: str, results: int) -> list[str]:
        return [f"{kind.lower()}{len(self.nodes)}" + (f".{i}" if i else "") for i in range(results)]

    def _inferred(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        try:
            schema = defs.get_schema(node.op_type, self.opset, "")
            types = {name: self.types[name] for name in node.input if name}
            values = {name: self.known[name] for name in node.input if name in self.known}
            results: dict[str, onnx.TypeProto] = shape_inference.infer_node_outputs(
                schema, node, types, values, {}, [helper.make_opsetid("", self.opset)], 10
            )
        except (shape_inference.InferenceError, defs.SchemaError, checker.ValidationError) as error:
            raise IllegalError(str(error)) from error
        for kind in results.values():
            if any(d.HasField("dim_value") and d.dim_value < 1 for d in kind.tensor_type.shape.dim):
                raise IllegalError
        return results

    def weight(self, values: Any, dtype: npt.DTypeLike = np.float32, *, fixed: bool = False) -> str:
        """A constant; `fixed` keeps its type in a float16 model."""
        name = f"w{len(self.weights)}"
        tensor = numpy_helper.from_array(np.asarray(values, dtype, order="C"), name)
        self.weights.append(tensor)
        self.types[name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        self.known[name] = tensor
        if fixed:
            self.fixed32.add(name)
        return name

    def scalar(self, value: float) -> str:
        return self.weight(np.float32(value))

    def epsilon(self) -> str:
        """What a spelled-out normalization adds to a variance."""
        # ONNX Runtime fuses them, and takes 1e-5 whatever stands there where weights may be overridden.
        return self.scalar(1e-5 if self.listed else 0.1)

    def integers(self, *values: int) -> str:
        return self.weight(values, np.int64)

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        return self.weight(self.rng.standard_normal(shape) * scale)

    def input(self, name: str, dtype: int, shape: Sequence[int | str | None]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        sizes = [d if isinstance(d, int) else 1 for d in shape]
        self.types[name] = helper.make_tensor_type_proto(dtype, sizes)
        return name

    def with_axes(self, kind: str, since: int, x: str, axes: Sequence[int], **attrs: Any) -> str:
        """An operator whose axes became an input in opset `since`."""
        if self.opset >= since:
            return self.op(kind, x, self.integers(*axes), **attrs)
        return self.op(kind, x, axes=list(axes), **attrs)

    def reduce(self, kind: str, x: str, axes: Sequence[int], keepdims: int) -> str:
        return self.with_axes(kind, 13 if kind == "ReduceSum" else 18, x, axes, keepdims=keepdims)

    def cast(self, x: str, dtype: int) -> str:
        return self.op("Cast", x, to=dtype)

    # ----------------------------------------------------------------------------------------------- shapes

    def shape(self, name: str) -> tuple[int, ...]:
        kind = self.types[name].tensor_type
        if not kind.HasField("shape") or not all(d.HasField("dim_value") for d in kind.shape.dim):
            raise IllegalError
        return tuple(d.dim_value for d in kind.shape.dim)

    def declare(self, name: str, shape: Sequence[int]) -> None:
        """Correct what inference says of a shape."""
        self.types[name] = helper.make_tensor_type_proto(self.types[name].tensor_type.elem_type, shape)

    def map(self, name: str) -> Map:
        shape = self.shape(name)
        self.require(len(shape) == 4)
        return Map(name, *shape[1:])

    def like(self, x: Map, name: str) -> Map:
        self.declare(name, (self.lead, *x.shape[1:]))
        return Map(name, x.channels, x.rows, x.cols)

    def keep(self, x: Map) -> Map:
        """Remember a map, for later layers to come back to."""
        self.maps.append(x)
        return x

    def any_map(self, x: Map) -> Map:
        return x if self.often() else self.maps[self.choices.below(len(self.maps))]

    @property
    def lead(self) -> int:
        """The first extent of every map: 1 where it is open."""
        return self.batch if isinstance(self.batch, int) else 1

    # ------------------------------------------------------------------------------------------------ model

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        infos = []
        for name in dict.fromkeys(outputs):
            kind = self.types[name].tensor_type
            dims = [f"{name}_{i}" for i in range(len(kind.shape.dim))]
            infos.append(helper.make_tensor_value_info(name, kind.elem_type, dims))
        listed = [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in self.weights]
        inputs = [*self.inputs, *(listed if self.listed else [])]
        if self.listed or not self.rarely():
            graph = helper.make_graph(self.nodes, "random", inputs, infos, self.weights)
        else:
            constants = [helper.make_node("Constant", [], [w.name], name=f"{w.name}/c", value=w) for w in self.weights]
            graph = helper.make_graph([*constants, *self.nodes], "random", inputs, infos)
        opsets = [helper.make_opsetid(domain, version) for domain, version in self.domains.items()]
        version = max(8 if self.functions else 3, helper.find_min_ir_version_for(opsets[:1]))
        return helper.make_model(graph, opset_imports=opsets, ir_version=version, functions=self.functions)
