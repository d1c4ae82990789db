"""The mean over a map of which a query changes a window, from sums: no map is assembled.

The base run keeps the table of the map's prefix sums, S[y, x] = the sum of all cells above y and left of x, so that the
sum over any window is a matter of its four corners; and below it a row that holds cells · the base's mean, as the model
itself computes it. A query's mean is

    (base's sum outside the window + the runtime's rounding of the base's mean, by the share outside
     + sum of the query's own window) ÷ cells

in float64: so that a query that changes little gives what little it changes, however the runtime rounds the mean, and
an outside that is all zero gives nothing.
"""

from collections.abc import Collection, Container

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.emit import Emitter, IntGraph
from krypton_onnx.passes.network import element_type, static_shape
from krypton_onnx.passes.regions import used_names
from krypton_onnx.passes.rules.rule import NCHW, Axes, numbers
from krypton_onnx.passes.windows import Box

TABLE = np.dtype(np.float64)
"""Of prefix sums, which grow with the map while their differences do not."""


# fmt: off
TAME = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "Dropout", "Elu", "Flatten", "Gemm",
    "GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "LogSoftmax", "MatMul", "MaxPool", "Mul",
    "PRelu", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Sub", "Tanh",
    "Transpose", "Unsqueeze",
})
# fmt: on
"""Operators that neither make numbers beyond all bounds nor magnify a difference in rounding beyond them: no logarithm,
no quotient, no power, no rounding to integers. A mean that only such operators see may differ in its last bit."""

BOUNDED = TAME | {"DequantizeLinear", "QLinearConv", "QuantizeLinear"}
"""Operators that make no numbers beyond all bounds: of what these make, differences of sums are sums."""


def are_tame(net: network.Network, moving: Container[str], means: Collection[str]) -> bool:
    """Whether means may be taken from sums: all that depends on the image is bounded, and tame if it depends on a mean.

    Args:
        net: the normalized model.
        moving: names of the tensors that depend on the image.
        means: names of the means.
    """
    late = set(means)
    for node in net.graph.nodes:
        if node.outputs and node.outputs[0].name in moving:
            if not late.isdisjoint(used_names(node)):
                late.update(tensor.name for tensor in node.outputs)
            allowed = TAME if node.outputs[0].name in late else BOUNDED
            if node.op not in allowed or network.domain(node):
                return False
    return True


def is_map_mean(node: gs.Node, axes: Axes) -> bool:
    """Whether a node gives the mean of each channel over the whole map, in float32.

    Args:
        node: any.
        axes: of its first input, a map.
    """
    if network.domain(node) or node.outputs[0].dtype != np.float32 or static_shape(node.outputs[0]) is None:
        return False
    if node.op == "GlobalAveragePool":
        return axes.channel == 1
    reduced = numbers(node, 1, "axes") if node.op == "ReduceMean" else None
    return reduced is not None and sorted(int(axis) % 4 for axis in reduced) == sorted(axes.spatial)


def add_table(graph: gs.Graph, taken: network.Names, cells: gs.Variable, mean: gs.Variable, table: gs.Variable) -> None:
    """Append the nodes of a table of prefix sums to the base graph.

    Args:
        graph: the base graph.
        taken: its names.
        cells: [1, rows, columns, C].
        mean: of the cells, by the model's own node; C numbers.
        table: [1, rows + 2, columns + 1, C], float64.
    """
    _, rows, cols, channels = table.shape

    def append(op: str, *inputs: gs.Tensor, **attrs: object) -> gs.Variable:
        result = gs.Variable(taken.fresh(f"{table.name}/{op.lower()}"), TABLE)
        graph.nodes.append(gs.Node(op, result.name, attrs, list(inputs), [result]))
        return result

    def constant(what: str, *values: int, rank: int = 1) -> gs.Constant:
        array = np.array(values, np.int64)
        return network.constant(taken.fresh(f"{table.name}/{what}"), array if rank else array.reshape(()))

    wide = append("Cast", cells, to=element_type(TABLE))
    down = append("CumSum", wide, constant("rows", 1, rank=0))
    both = append("CumSum", down, constant("cols", 2, rank=0))
    pads = constant("pads", 0, 1, 1, 0, 0, 0, 0, 0)
    framed = append("Pad", both, pads)
    count = network.constant(taken.fresh(f"{table.name}/cells"), np.array((rows - 2) * (cols - 1), TABLE))
    total = append("Mul", append("Cast", mean, to=element_type(TABLE)), count)
    row = append(
        "Expand", append("Reshape", total, constant("channels", 1, 1, 1, channels)), constant("row", 1, 1, cols, 1)
    )
    graph.nodes.append(gs.Node("Concat", table.name, {"axis": 1}, [framed, row], [table]))


def emit_map_mean(
    emitter: Emitter, table: gs.Variable, extents: tuple[int, int], box: Box, own: gs.Variable, name: str
) -> gs.Variable:
    """The mean of each channel for every query.

    Args:
        emitter: receives the nodes.
        table: the prefix sums and the row below them.
        extents: (H, W) of the map.
        box: the window.
        own: the sum over each query's own window [Q, C], float64.
        name: of the result.

    Returns:
        float32 [Q, C].
    """
    with emitter.scope(f"{name}/sums"):
        cells = emitter.constant(np.array(extents[0] * extents[1], TABLE))
        corners = _corners(emitter, table, extents, box)
        outside = _weighted(emitter, corners, [0, 1, -1, 1, 1, -1])
        one, nothing = (emitter.constant(np.array(n, TABLE)) for n in (1, 0))
        share = emitter.op("Sub", one, emitter.op("Div", _cells(emitter, box), cells))
        rounding = emitter.op("Mul", _weighted(emitter, corners, [1, -1, 0, 0, 0, 0]), share)
        kept = emitter.op("Where", emitter.op("Equal", outside, nothing), nothing, rounding)
        mean = emitter.op("Div", emitter.op("Add", emitter.op("Add", outside, kept), own), cells)
    return emitter.op("Cast", mean, name=name, to=element_type(np.dtype(np.float32)))


def _weighted(emitter: Emitter, corners: gs.Variable, weights: list[int]) -> gs.Variable:
    """A sum of what `_corners` gives: [Q, C]."""
    product = emitter.op("MatMul", emitter.constant(np.array([weights], TABLE)), corners)
    return emitter.op("Squeeze", product, emitter.constant(np.array([1], np.int64)))


def _cells(emitter: Emitter, box: Box) -> gs.Variable:
    """How many a window has, a scalar in float64."""
    cells = IntGraph(emitter).op("Mul", *box.sizes).tensor
    return emitter.op("Cast", cells, name=f"window{box.window}/cells", to=element_type(TABLE))


def emit_window_sum(emitter: Emitter, maps: gs.Variable, axes: Axes, box: Box, name: str) -> gs.Variable:
    """The sum of each channel over each query's window.

    Args:
        emitter: receives the nodes.
        maps: the windows, in the order of `axes`.
        axes: where GlobalAveragePool expects them, ONNX Runtime takes the mean of what its convolutions have blocked.
        box: the window.
        name: of the result.

    Returns:
        float64 [Q, C].
    """
    spatial = emitter.constant(np.array(axes.spatial, np.int64))
    if axes != NCHW:
        return emitter.op("Cast", emitter.op("ReduceSum", maps, spatial, keepdims=0), name=name, to=element_type(TABLE))
    mean = emitter.op("Squeeze", emitter.op("GlobalAveragePool", maps, name=f"{name}/mean"), spatial)
    return emitter.op("Mul", emitter.op("Cast", mean, to=element_type(TABLE)), _cells(emitter, box), name=name)


def _corners(emitter: Emitter, table: gs.Variable, extents: tuple[int, int], box: Box) -> gs.Variable:
    """[Q, 6, C]: cells · the base's mean, the base's sum, and the table at the window's corners.

    Those in the order end-end, begin-end, end-begin, begin-begin.
    """
    width = extents[1] + 1
    (top, left), (rows, cols) = box.starts, box.sizes
    assert not isinstance(top, int)
    assert not isinstance(left, int)
    bottom, right = top + rows, left + cols
    none = top - top
    totals = [none + (extents[0] + 1) * width, none + (extents[0] * width + extents[1])]
    places = [*totals, bottom * width + right, top * width + right, bottom * width + left, top * width + left]
    index = emitter.op("Concat", *(place.tensor for place in places), axis=1)
    flat = emitter.op("Squeeze", index, emitter.constant(np.array([2], np.int64)))
    return emitter.op("Gather", table, flat, axis=0)
