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

    def __init__(self, graph: "IntGraph", tensor: gs.Tensor) -> None:
        self.graph = graph
        self.tensor = tensor

    def __add__(self, other: "IntArray | int") -> "IntArray":
        return self if _is(other, 0) else self.graph.op("Add", self, other)

    def __radd__(self, other: int) -> "IntArray":
        return self + other

    def __sub__(self, other: "IntArray | int") -> "IntArray":
        return self if _is(other, 0) else self.graph.op("Sub", self, other)

    def __rsub__(self, other: int) -> "IntArray":
        return self.graph.op("Sub", other, self)

    def __mul__(self, other: "IntArray | int") -> "IntArray":
        return self if _is(other, 1) else self.graph.op("Mul", self, other)

    def __floordiv__(self, other: int) -> "IntArray":
        # ONNX divides integers towards zero; Mod takes the divisor's sign, as Python's does.
        return self if other == 1 else self.graph.op("Div", self - self.graph.op("Mod", self, other), other)


class IntGraph:
    """The functions of numpy that geometry uses, emitting nodes. Pass it as `xp`.

    Args:
        emitter: receives the nodes.
        dtype: of all integers.
    """

    def __init__(self, emitter: Emitter, dtype: DTypeLike = INDEX) -> None:
        self.emitter = emitter
        self._dtype = dtype

    def op(self, op: str, *inputs: IntArray | int) -> IntArray:
        """Emit an operator on integer tensors and Python integers."""
        return IntArray(self, self.emitter.op(op, *(self._tensor(i) for i in inputs)))

    def wrap(self, tensor: gs.Tensor) -> IntArray:
        """A tensor of the graph, of this type, as an array."""
        return IntArray(self, tensor)

    def minimum(self, a: IntArray | int, b: IntArray | int) -> IntArray:
        """Elementwise minimum."""
        return self.op("Min", a, b)

    def maximum(self, a: IntArray | int, b: IntArray | int) -> IntArray:
        """Elementwise maximum."""
        return self.op("Max", a, b)

    def clip(self, a: IntArray, low: int, high: IntArray | int) -> IntArray:
        """`a`, moved into [low, high]; the bounds are scalars."""
        return self.op("Clip", a, low, high)

    def equal(self, a: IntArray, b: IntArray) -> IntArray:
        """Elementwise equality, a boolean tensor."""
        return self.op("Equal", a, b)

    def where(self, condition: IntArray, a: IntArray | int, b: IntArray | int) -> IntArray:
        """`a` where the condition holds, else `b`."""
        return self.op("Where", condition, a, b)

    def take(self, table: Sequence[int], index: IntArray | int) -> IntArray | int:
        """The entries of a constant table at these positions, which lie inside it."""
        if not isinstance(index, IntArray):
            return table[index]
        entries = self.emitter.constant(np.array(table, self._dtype))
        return IntArray(self, self.emitter.op("Gather", entries, index.tensor, axis=0))

    def arange(self, stop: IntArray | int) -> IntArray:
        """0 … stop − 1."""
        return self.op("Range", 0, stop, 1)

    def expand_dims(self, a: IntArray, axis: int | tuple[int, ...]) -> IntArray:
        """New axes of extent 1, at these places of the result."""
        axes = self.emitter.constant(np.array(axis, np.int64).reshape(-1))
        return IntArray(self, self.emitter.op("Unsqueeze", a.tensor, axes))

    def _tensor(self, value: IntArray | int) -> gs.Tensor:
        return value.tensor if isinstance(value, IntArray) else self.emitter.constant(np.array(value, self._dtype))


def _is(value: IntArray | int, number: int) -> bool:
    return not isinstance(value, IntArray) and value == number
