"""Transforms that state plainly what is taken of a tensor, and in which order: Split, Slice, Transpose."""

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.network import Network, bypass, cleaned, static_shape, values


def split_into_slices(net: Network) -> Network:
    """Turn a Split into Slices, which have one output each.

    Before: ``Split(x, [8, 24], axis=1) → a, b``. After: ``Slice(x, 0:8) → a``, ``Slice(x, 8:32) → b``.
    """
    taken = network.Names(net.graph)
    nodes: list[gs.Node] = []
    for node in net.graph.nodes:
        parts = _parts(node) if node.op == "Split" else None
        if parts is None:
            nodes.append(node)
            continue
        axis, bounds = parts
        source, results = node.inputs[0], list(node.outputs)
        node.outputs.clear()
        node.inputs.clear()
        for result, begin, end in zip(results, bounds, bounds[1:], strict=False):
            if not network.is_absent(result):
                cut = _cut_constants(result.name, {axis: (begin, end, 1)}, taken)
                nodes.append(gs.Node("Slice", f"{node.name}/{begin}", {}, [source, *cut], [result]))
    net.graph.nodes = nodes
    return cleaned(net)


def _parts(node: gs.Node) -> tuple[int, list[int]] | None:
    """The axis of a Split, not the first one, and where its parts begin; the whole extent at the end."""
    shape = static_shape(node.inputs[0])
    given = network.input_or_none(node, 1)
    if shape is None or node.attrs.get("axis", 0) % len(shape) == 0:
        return None
    axis = node.attrs["axis"] % len(shape)
    if given is None:
        size = -(-shape[axis] // len(node.outputs))
        return axis, [min(n * size, shape[axis]) for n in range(len(node.outputs) + 1)]
    known = values(given)
    return None if known is None else (axis, [0, *(int(n) for n in np.cumsum(known))])


def part_slices(net: Network) -> Network:
    """Let a Slice of a map take channels or rows and columns, and leave out the axes that it takes whole.

    Before: ``Slice(x, [0, 8, 1], [1, 16, 9], axes=[0, 1, 2])``. After: ``Slice(Slice(x, 8:16, axis=1), 1:9, axis=2)``.
    """
    taken = network.Names(net.graph)
    nodes: list[gs.Node] = []
    for node in net.graph.nodes:
        cuts = _cuts(node) if node.op == "Slice" else None
        if cuts is not None:
            channels, space = ({a: c for a, c in cuts.items() if (a == 1) == first} for first in (True, False))
            if channels and space:
                name = taken.fresh(f"{node.outputs[0].name}/channels")
                between = gs.Variable(name, node.outputs[0].dtype)
                inputs = [node.inputs[0], *_cut_constants(name, channels, taken)]
                nodes.append(gs.Node("Slice", name, {}, inputs, [between]))
                node.inputs[0] = between
                cuts = space
            node.inputs = [node.inputs[0], *_cut_constants(node.outputs[0].name, cuts, taken)]
        nodes.append(node)
    net.graph.nodes = nodes
    return cleaned(net)


Cut = tuple[int, int, int]
"""start, end, step."""


def _cuts(node: gs.Node) -> dict[int, Cut] | None:
    """What a Slice of a map takes of each axis that it does not take whole; None if that is unknown or nothing."""
    shape = static_shape(node.inputs[0])
    given = [network.input_or_none(node, i) for i in (1, 2, 3, 4)]
    known = [None if t is None else values(t) for t in given]
    if shape is None or len(shape) != 4 or any((t is None) != (v is None) for t, v in zip(given, known, strict=True)):
        return None
    starts, ends = (np.asarray(n).reshape(-1) for n in known[:2])
    axes = np.arange(len(starts)) if known[2] is None else known[2].reshape(-1) % 4
    steps = np.ones_like(starts) if known[3] is None else known[3].reshape(-1)
    cuts = {int(a): (int(s), int(e), int(t)) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)}
    taken = {a: c for a, c in cuts.items() if not (c[0] == 0 and c[1] >= shape[a] and c[2] == 1)}
    return taken or None


def _cut_constants(name: str, cuts: dict[int, Cut], taken: network.Names) -> list[gs.Constant]:
    """What a Slice takes behind its data: starts, ends, axes, steps."""
    starts, ends, steps = zip(*cuts.values(), strict=True)
    numbers = {"starts": starts, "ends": ends, "axes": list(cuts), "steps": steps}
    return [network.constant(taken.fresh(f"{name}/{what}"), np.array(n, np.int64)) for what, n in numbers.items()]


def merge_transposes(net: Network) -> Network:
    """Merge a Transpose into the one that reads it; what moves nothing vanishes.

    Before: ``x → Transpose(0, 2, 3, 1) → Transpose(0, 3, 1, 2) → y``. After: ``x → y``.
    """
    results = {id(t) for t in net.graph.outputs}
    for node in net.graph.nodes:
        order = transpose_order(node)
        if order is None:
            continue
        for first in node.inputs[0].inputs:
            before = transpose_order(first)
            if before is not None:
                order = [before[axis] for axis in order]
                node.attrs["perm"], node.inputs[0] = order, first.inputs[0]
        # A graph output keeps its name, and so the node that makes it.
        if order == sorted(order) and id(node.outputs[0]) not in results:
            bypass(node)
    return cleaned(net)


def transpose_order(node: gs.Node) -> list[int] | None:
    """The permutation of a Transpose; None for other nodes, and where the rank is not known."""
    rank = len(node.inputs[0].shape or ()) if node.op == "Transpose" else 0
    return list(node.attrs.get("perm", range(rank - 1, -1, -1))) if rank else None
