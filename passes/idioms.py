"""Transform: idioms of exporters, several nodes that mean one thing, become the one node that says it."""

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.network import Network, static_shape, values


def gather_repeats(net: Network) -> Network:
    """Let one Gather repeat the entries of an axis, which TensorFlow's upsampling does by tiling a new axis.

    Before: ``x [1, H, W, C] → Unsqueeze(2) → Tile(1, 1, r, 1, 1) → Reshape [1, H·r, W, C]``, with or without a
    Transpose before the Reshape. After: ``x → Gather(0, 0, …, 1, 1, …; axis=1)``, and that Transpose.
    """
    taken = network.Names(net.graph)
    nodes: list[gs.Node] = []
    for node in net.graph.nodes:
        replacement = _repeat(node, taken) if node.op == "Reshape" else None
        if replacement:
            node.outputs.clear()
        nodes += replacement or [node]
    net.graph.nodes = nodes
    net.graph.cleanup(remove_unused_graph_inputs=False).toposort()
    return net


def _repeat(reshape: gs.Node, taken: network.Names) -> list[gs.Node] | None:
    """The nodes that replace the idiom that ends here; None if none does."""
    last = _producer(reshape)
    turned = last if last is not None and last.op == "Transpose" else None
    tile = _producer(turned) if turned is not None else last
    unsqueeze = _producer(tile) if tile is not None and tile.op == "Tile" else None
    if tile is None or unsqueeze is None or unsqueeze.op != "Unsqueeze":
        return None
    source, result = unsqueeze.inputs[0], reshape.outputs[0]
    size, repeats, axes = static_shape(source), values(tile.inputs[1]), values(unsqueeze.inputs[1])
    if size is None or repeats is None or axes is None or np.size(axes) != 1:
        return None
    new = int(np.reshape(axes, ())) % (len(size) + 1)
    others = np.delete(repeats, new)
    perm = list(range(len(size) + 1)) if turned is None else turned.attrs["perm"]
    # The new axis repeats the one before it, if both stand side by side when they are merged.
    if new < 2 or (others != 1).any() or perm.index(new) != perm.index(new - 1) + 1:
        return None
    repeated = [*size]
    repeated[new - 1] *= int(repeats[new])
    order = [axis - (axis > new) for axis in perm if axis != new]
    if static_shape(result) != tuple(repeated[axis] for axis in order):
        return None
    rows = np.repeat(np.arange(size[new - 1]), int(repeats[new]))
    indices = network.constant(taken.fresh(f"{result.name}/rows"), rows)
    gather = gs.Node("Gather", result.name, {"axis": new - 1}, [source, indices])
    if turned is None:
        gather.outputs = [result]
        return [gather]
    straight = gs.Variable(taken.fresh(f"{result.name}/repeated"), result.dtype, repeated)
    gather.outputs = [straight]
    return [gather, gs.Node("Transpose", f"{result.name}/turned", {"perm": order}, [straight], [result])]


def _producer(node: gs.Node) -> gs.Node | None:
    """The node that makes the first input."""
    producers = node.inputs[0].inputs
    return producers[0] if producers else None
