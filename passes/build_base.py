"""Building the base graph: image → views, and nothing that no view needs."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.footprint import Bytes, peak, static_bytes
from krypton_onnx.passes.map_means import add_table
from krypton_onnx.passes.network import Network
from krypton_onnx.passes.planner import Layout
from krypton_onnx.passes.rules.rule import NHWC, Axes
from krypton_onnx.plan import View


def build_base(net: Network, layout: Layout, *, results: bool = False) -> gs.Graph:
    """Cut the model after the last view, and write every view with its channels last.

    Before: ``image → … → relu1 [1, C, H, W] → … → logits``.
    After: ``relu1 → Transpose(0, 2, 3, 1) → relu1/view [1, H, W, C]``, for every view.

    Args:
        net: the normalized model; left as it is.
        layout: the planner's decisions.
        results: whether the model's own outputs are wanted, too, behind the views.
    """
    graph = net.graph.copy()
    tensors, taken = graph.tensors(), network.Names(graph)
    views = [_view(graph, taken, tensors, v, layout) for v in layout.views]
    graph.outputs = [*views, *(graph.outputs if results else ())]
    graph.name = "base"
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    return graph


def base_peak(graph: gs.Graph) -> int:
    """Bytes that the activations of a base graph take at most at once, views included."""
    sizes = {t.name: Bytes(fixed=static_bytes(t)) for node in graph.nodes for t in node.outputs}
    return peak(graph.nodes, sizes, [t.name for t in graph.outputs]).fixed


def _view(
    graph: gs.Graph, taken: network.Names, tensors: dict[str, gs.Tensor], view: View, layout: Layout
) -> gs.Variable:
    """[1, rows, columns, C], of which a host takes the rows as they lie: a Reshape to them would copy."""
    kept = gs.Variable(view.name, np.dtype(view.dtype), [1, view.rows, view.cols, view.channels])
    tensor, axes = tensors[view.tensor], layout.axes[view.tensor]
    if view.sums:
        mean = next(result for result, source in layout.means.items() if source == view.tensor)
        add_table(graph, taken, _channels_last(graph, taken, tensor, view, axes), tensors[mean], kept)
        return kept
    ops: list[tuple[str, dict[str, Any]]] = []
    if np.dtype(tensor.dtype) != kept.dtype:
        ops.append(("Cast", {"to": network.element_type(kept.dtype)}))
    if axes != NHWC:
        ops.append(("Transpose", {"perm": axes.to_rows}))
    *first, last = ops or [("Identity", {})]
    for op, attrs in first:
        between = gs.Variable(taken.fresh(f"{view.name}/{op.lower()}"), kept.dtype, tensor.shape)
        graph.nodes.append(gs.Node(op, between.name, attrs, [tensor], [between]))
        tensor = between
    graph.nodes.append(gs.Node(last[0], kept.name, last[1], [tensor], [kept]))
    return kept


def _channels_last(graph: gs.Graph, taken: network.Names, tensor: gs.Tensor, view: View, axes: Axes) -> gs.Variable:
    if axes == NHWC:
        return tensor
    shape = [tensor.shape[axis] for axis in axes.to_rows]
    last = gs.Variable(taken.fresh(f"{view.name}/channels_last"), tensor.dtype, shape)
    graph.nodes.append(gs.Node("Transpose", last.name, {"perm": axes.to_rows}, [tensor], [last]))
    return last
