"""Recording ONNX nodes: an emitter that never emits the same node twice, and integer arrays on top of it.

`IntGraph` offers the part of numpy's interface that `krypton_onnx.geometry` computes with, so that the very
functions that the planner and the driver run on numpy arrays write the index arithmetic of the graph.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import DTypeLike

from krypton_onnx.passes import network
from krypton_onnx.passes.footprint import Bytes
from krypton_onnx.passes.network import Array

INDEX = np.int32
"""Index arithmetic is int32: half the bytes of int64, and enough for 2^28 cells."""

_NAMED_VALUES = 8
"""A constant of more values than this is not named after them."""


class Emitter:
    """Collects nodes in topological order; a node that was emitted before is not emitted again.

    Args:
        reserved: names that are the caller's to give out.

    Attributes:
        nodes: emitted so far.
        sizes: memory of the tensors that are worth counting, by name.
    """

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self.nodes: list[gs.Node] = []
        self.sizes: dict[str, Bytes] = {}
        self._scope = "index"
        self._known: dict[tuple[Any, ...], gs.Variable] = {}
        self._constants: dict[tuple[Any, ...], gs.Constant] = {}
        self._names = Counter(list(reserved))

    def op(self, op: str, *inputs: gs.Tensor, name: str | None = None, **attrs: Any) -> gs.Variable:
        """Emit a node with one output and return that.

        Args:
            op: ONNX operator.
            inputs: its inputs.
            name: wanted for the output; made unique. By default the operator's name, in lower case, in the scope.
            attrs: its attributes.
        """
        key = (op, *(id(t) for t in inputs), *((k, repr(v)) for k, v in sorted(attrs.items())))
        if key not in self._known:
            result = gs.Variable(self.unique(name or f"{self._scope}/{op.lower()}"))
            self.nodes.append(gs.Node(op, result.name, attrs=attrs, inputs=list(inputs), outputs=[result]))
            self._known[key] = result
        return self._known[key]

    def split(self, tensor: gs.Tensor, sizes: gs.Tensor, names: Sequence[str], axis: int) -> list[gs.Variable]:
        """Emit a Split into as many parts as there are names, and return them."""
        parts = [gs.Variable(self.unique(name)) for name in names]
        node = self.unique(f"{self._scope}/split")
        self.nodes.append(gs.Node("Split", node, attrs={"axis": axis}, inputs=[tensor, sizes], outputs=parts))
        return parts

    def inner(self) -> "Emitter":
        """For the body of a node: it knows none of this one's nodes, and gives no name that this one has given."""
        emitter = Emitter()
        emitter._names = self._names
        return emitter

    @property
    def scoped(self) -> str:
        """What nodes without a name of their own are named after."""
        return self._scope

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Nodes that are emitted in the block, and have no name of their own, are named after what they serve."""
        outer, self._scope = self._scope, name
        yield
        self._scope = outer

    def constant(self, value: Array, name: str | None = None) -> gs.Constant:
        """A constant, one for equal values; by default named after them, as in ``int32/-1`` and ``int64/1_2``."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            few = value.size <= _NAMED_VALUES
            numbers = "_".join(str(number) for number in value.reshape(-1)) if few else "table"
            self._constants[key] = network.constant(self.unique(name or f"{value.dtype}/{numbers}"), value)
        return self._constants[key]

    def unique(self, name: str) -> str:
        """`name`, or with a number behind it if it is taken."""
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}.{self._names[name]}"


class IntArray:
    """An integer tensor of the graph, with numpy's operators."""

    __array_ufunc__ = None  # numpy leaves operators between its arrays and these to the methods below

    def __init__(self, graph: "IntGraph", tensor: gs.Tensor) -> None:
        self.graph = graph
        self.tensor = tensor

    def __add__(self, other: "Operand") -> "IntArray":
        return self if _is(other, 0) else self.graph.op("Add", self, other)

    def __radd__(self, other: "Operand") -> "IntArray":
        return self + other

    def __sub__(self, other: "Operand") -> "IntArray":
        return self if _is(other, 0) else self.graph.op("Sub", self, other)

    def __rsub__(self, other: "Operand") -> "IntArray":
        return self.graph.op("Sub", other, self)

    def __mul__(self, other: "Operand") -> "IntArray":
        return self if _is(other, 1) else self.graph.op("Mul", self, other)

    def __rmul__(self, other: "Operand") -> "IntArray":
        return self * other

    def __floordiv__(self, other: "Operand") -> "IntArray":
        return self.graph.op("Div", self, other)  # which cuts off: the same where nothing is negative

    def __lt__(self, other: "Operand") -> "IntArray":
        return self.graph.op("Less", self, other)

    def __gt__(self, other: "Operand") -> "IntArray":
        return self.graph.op("Greater", self, other)

    def __ge__(self, other: "Operand") -> "IntArray":
        return self.graph.op("GreaterOrEqual", self, other)

    def __and__(self, other: "IntArray") -> "IntArray":
        return self.graph.op("And", self, other)


Operand = IntArray | Array | int
"""What an operator takes beside a tensor of the graph."""


class IntGraph:
    """The functions of numpy that geometry uses, emitting nodes. Pass it as `xp`.

    Args:
        emitter: receives the nodes.
        dtype: of all integers.
    """

    def __init__(self, emitter: Emitter, dtype: DTypeLike = INDEX) -> None:
        self.emitter = emitter
        self._dtype = dtype

    def op(self, op: str, *inputs: Operand, **attrs: Any) -> IntArray:
        """Emit an operator on integer tensors, and on numpy's arrays and Python integers as constants."""
        return IntArray(self, self.emitter.op(op, *(self._tensor(i) for i in inputs), **attrs))

    def wrap(self, tensor: gs.Tensor) -> IntArray:
        """A tensor of the graph, of this type, as an array."""
        return IntArray(self, tensor)

    def cast(self, tensor: gs.Tensor, name: str | None = None) -> IntArray:
        """An integer tensor of the graph, of any type, as an array."""
        return self.wrap(self.emitter.op("Cast", tensor, name=name, to=self._dtype))

    def constant(self, values: Array, name: str) -> IntArray:
        """A constant array under a name of its own."""
        return self.wrap(self.emitter.constant(np.array(values, self._dtype), name))

    def minimum(self, a: Operand, b: Operand) -> IntArray:
        """Elementwise minimum."""
        return self.op("Min", a, b)

    def maximum(self, a: Operand, b: Operand) -> IntArray:
        """Elementwise maximum."""
        return self.op("Max", a, b)

    def where(self, condition: IntArray, a: Operand, b: Operand) -> IntArray:
        """`a` where the condition holds, else `b`."""
        return self.op("Where", condition, a, b)

    def max(self, a: IntArray) -> IntArray:
        """The largest of all, a scalar."""
        return self.op("ReduceMax", a, keepdims=0)

    def nonzero(self, condition: IntArray) -> tuple[IntArray, IntArray]:
        """Where a matrix of truths holds, row by row: row numbers and column numbers."""
        places = self.cast(self.emitter.op("NonZero", condition.tensor))
        return self.take(places, 0), self.take(places, 1)

    def take(self, values: Operand, index: Operand, axis: int = 0) -> IntArray:
        """The entries at these positions along an axis, which lie inside it."""
        return self.op("Gather", values, index, axis=axis)

    def arange(self, stop: IntArray | int) -> IntArray:
        """0 … stop − 1."""
        return self.op("Range", 0, stop, 1)

    def expand_dims(self, a: IntArray, axis: int | tuple[int, ...]) -> IntArray:
        """New axes of extent 1, at these places of the result."""
        axes = self.emitter.constant(np.array(axis, np.int64).reshape(-1))
        return self.wrap(self.emitter.op("Unsqueeze", a.tensor, axes))

    def transpose(self, a: IntArray) -> IntArray:
        """A matrix with its axes exchanged."""
        return self.op("Transpose", a, perm=[1, 0])

    def split(self, a: IntArray, sizes: IntArray, names: Sequence[str], axis: int) -> list[IntArray]:
        """Parts of these sizes along an axis, as many as names."""
        numbers = self.emitter.op("Cast", sizes.tensor, to=np.int64)
        return [self.wrap(part) for part in self.emitter.split(a.tensor, numbers, names, axis)]

    def _tensor(self, value: Operand) -> gs.Tensor:
        return value.tensor if isinstance(value, IntArray) else self.emitter.constant(np.array(value, self._dtype))


def _is(value: Operand, number: int) -> bool:
    return isinstance(value, int) and value == number
