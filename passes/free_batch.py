"""Transform: let nodes that an export fixes to one image carry any number of queries."""

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.batch_operands import known_integers
from krypton_onnx.passes.network import Array, Names, Network, static_shape, values

_END = np.iinfo(np.int64).max


def free_batch(net: Network, axes: dict[str, int], windowed: frozenset[str]) -> Network:
    """Free the batch axis of every dense node that keeps it; for one image nothing changes.

    Before: ``Reshape(x [1, 64, 96], [1, 8, 8, 96])``, ``Resize(x, sizes=[1, 64, 28, 28])``, ``Concat(token, x)``.
    After: ``Reshape(x, [-1, 8, 8, 96])``, ``Resize(x, sizes=Concat(Shape(x)[0], [64, 28, 28]))``,
    ``Concat(Expand(token, Concat(Shape(x)[0], [1, 96])), x)``.

    Args:
        net: the normalized model.
        axes: the batch axes, from `batch_axes`.
        windowed: names of the tensors that are computed in windows, whose nodes are left as they are.
    """
    freeing = _Freeing(net.graph, axes)
    for node in net.graph.nodes:
        if node.outputs[0].name in axes and node.outputs[0].name not in windowed:
            freeing.free(node)
        freeing.nodes.append(node)
    net.graph.nodes = freeing.nodes
    return net


class _Freeing:
    """Rewrites nodes one by one; what they need in front of them is appended to `nodes`."""

    def __init__(self, graph: gs.Graph, axes: dict[str, int]) -> None:
        self.axes = axes
        self.nodes: list[gs.Node] = []
        self._names = Names(graph)

    def free(self, node: gs.Node) -> None:
        match node.op:
            case "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze":
                self._regrouping(node)
            case "Resize":
                self._sizes(node)
            case "Expand":
                self._target(node)
            case "Slice":
                self._ends(node)
            case "Concat":
                self._still_parts(node)

    def _regrouping(self, node: gs.Node) -> None:
        axis = self.axes[node.outputs[0].name]
        if not _is_free(node, self.axes[node.inputs[0].name], axis):
            shape = np.array(static_shape(node.outputs[0]), np.int64)
            shape[axis] = -1
            node.op = "Reshape"
            node.attrs.clear()
            node.inputs = [node.inputs[0], self._constant(node, shape)]

    def _sizes(self, node: gs.Node) -> None:
        source, sizes = node.inputs[0], network.input_or_none(node, 3)
        known = None if sizes is None else values(sizes)
        rank, axis = len(static_shape(source) or ()), self.axes[source.name]
        resized = [a % rank for a in node.attrs.get("axes", range(rank))]
        if known is not None and axis in resized:
            node.inputs[3] = self._measured(node, source, known, resized.index(axis))

    def _target(self, node: gs.Node) -> None:
        target = np.array(values(node.inputs[1]), np.int64)
        place = self.axes[node.inputs[0].name] - len(static_shape(node.inputs[0]) or ())
        if target.size >= -place and target[place] != 1:
            target[place] = 1  # broadcasting keeps what is there
            node.inputs[1] = self._constant(node, target)

    def _ends(self, node: gs.Node) -> None:
        rank, axis = len(static_shape(node.inputs[0]) or ()), self.axes[node.inputs[0].name]
        numbers = [None if t is None else values(t) for t in (network.input_or_none(node, i) for i in (1, 2, 3, 4))]
        starts, ends, axes, steps = (None if n is None else np.array(n, np.int64) for n in numbers)
        if ends is None or starts is None:
            return
        sliced = np.arange(ends.size) if axes is None else axes % rank
        if axis in sliced:
            ends[sliced == axis] = _END
            steps = np.ones_like(ends) if steps is None else steps
            # All of a Slice's numbers are of one type, which has to hold the new end.
            node.inputs = [node.inputs[0], *(self._constant(node, n) for n in (starts, ends, sliced, steps))]

    def _still_parts(self, node: gs.Node) -> None:
        moving = next(t for t in node.inputs if t.name in self.axes)
        for index, tensor in enumerate(node.inputs):
            if tensor.name not in self.axes:
                target = self._measured(node, moving, static_shape(tensor), self.axes[moving.name])
                node.inputs[index] = self._added(node, "Expand", [tensor, target], tensor.dtype)

    def _measured(self, node: gs.Node, source: gs.Tensor, numbers: object, at: int) -> gs.Variable:
        """`numbers`, but as number `at` the extent of `source` along its batch axis, at run time."""
        known = np.asarray(numbers, np.int64)
        axis = self.axes[source.name]
        # Where it knows no rank, ONNX Runtime believes of a Shape cut by its attributes that nothing is left.
        shape = self._added(node, "Shape", [source], np.int64)
        extent = self._added(node, "Gather", [shape, self._constant(node, np.array([axis]))], np.int64, axis=0)
        around = (known[:at], known[at + 1 :])
        before, after = ([self._constant(node, part)] if part.size else [] for part in around)
        return self._added(node, "Concat", [*before, extent, *after], np.int64, axis=0)

    def _added(self, node: gs.Node, op: str, inputs: list[gs.Tensor], dtype: object, **attrs: int) -> gs.Variable:
        result = gs.Variable(self._name(node, op.lower()), np.dtype(dtype))  # type: ignore[call-overload]
        self.nodes.append(gs.Node(op, result.name, attrs, inputs, [result]))
        return result

    def _constant(self, node: gs.Node, array: Array) -> gs.Constant:
        return network.constant(self._name(node, "batch"), array)

    def _name(self, node: gs.Node, what: str) -> str:
        return self._names.fresh(f"{node.outputs[0].name}/{what}")


def _is_free(node: gs.Node, before: int, after: int) -> bool:
    """Whether the operator as it stands has the batch where the analysis found it, whatever its extent."""
    old, new = static_shape(node.inputs[0]) or (), static_shape(node.outputs[0]) or ()
    if node.op == "Flatten":
        return before == after == 0 and node.attrs.get("axis", 1) % len(old) == 1
    added = None if node.op == "Reshape" else known_integers(node, 1)
    if added is None:
        return False
    touched = {a % max(len(old), len(new)) for a in added}
    kept = [a for a in range(max(len(old), len(new))) if a not in touched]
    shorter, longer = (before, after) if node.op == "Unsqueeze" else (after, before)
    return kept[shorter] == longer
