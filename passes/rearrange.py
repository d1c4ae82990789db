"""Transforms that state rearrangements plainly: several operators that move elements become the one that is meant."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.network import Array, Network, bypass, cleaned, static_shape, values

_END = np.iinfo(np.int64).max


def split_into_slices(net: Network) -> Network:
    """Turn a Split into Slices, which have one output each.

    Before: ``Split(x, [8, 24], axis=1) → a, b``. After: ``Slice(x, 0:8) → a``, ``Slice(x, 8:32) → b``.
    """
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
                numbers = [np.array([n], np.int64) for n in (begin, end, axis)]
                nodes.append(gs.Node("Slice", f"{node.name}/{begin}", {}, [source], [result]))
                nodes[-1].inputs += _constants(result.name, dict(zip(("starts", "ends", "axes"), numbers, strict=True)))
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
    nodes: list[gs.Node] = []
    for node in net.graph.nodes:
        cuts = _cuts(node) if node.op == "Slice" else None
        if cuts is not None:
            channels, space = ({a: c for a, c in cuts.items() if (a == 1) == first} for first in (True, False))
            if channels and space:
                name = network.fresh_name(net.graph, f"{node.outputs[0].name}/channels")
                between = gs.Variable(name, node.outputs[0].dtype)
                nodes.append(gs.Node("Slice", name, {}, [node.inputs[0]], [between]))
                nodes[-1].inputs += _cut_constants(name, channels)
                node.inputs[0] = between
                cuts = space
            node.inputs = [node.inputs[0], *_cut_constants(node.outputs[0].name, cuts)]
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


def _cut_constants(name: str, cuts: dict[int, Cut]) -> list[gs.Constant]:
    starts, ends, steps = (np.array(numbers, np.int64) for numbers in zip(*cuts.values(), strict=True))
    return _constants(name, {"starts": starts, "ends": ends, "axes": np.array(list(cuts), np.int64), "steps": steps})


def merge_transposes(net: Network) -> Network:
    """Merge a Transpose into the one that reads it; what moves nothing vanishes.

    Before: ``x → Transpose(0, 2, 3, 1) → Transpose(0, 3, 1, 2) → y``. After: ``x → y``.
    """
    results = {id(t) for t in net.graph.outputs}
    for node in net.graph.nodes:
        order = _order(node)
        if order is None:
            continue
        for first in node.inputs[0].inputs:
            before = _order(first)
            if before is not None:
                order = [before[axis] for axis in order]
                node.attrs["perm"], node.inputs[0] = order, first.inputs[0]
        # A graph output keeps its name, and so the node that makes it.
        if order == sorted(order) and id(node.outputs[0]) not in results:
            bypass(node)
    return cleaned(net)


def _order(node: gs.Node) -> list[int] | None:
    rank = len(node.inputs[0].shape or ()) if node.op == "Transpose" else 0
    return list(node.attrs.get("perm", range(rank - 1, -1, -1))) if rank else None


# ------------------------------------------------------------------------------- Reshape, Transpose, Reshape


@dataclass(frozen=True, slots=True)
class _Regrouping:
    """Reshape → Transpose → Reshape, of which nothing in between is read by others.

    Attributes:
        source: what is rearranged.
        before, split, after: shapes of the source, of the first Reshape's result and of the last one's.
        order: the Transpose's.
    """

    source: gs.Tensor
    before: tuple[int, ...]
    split: tuple[int, ...]
    after: tuple[int, ...]
    order: tuple[int, ...]


def name_regroupings(net: Network) -> Network:
    """Call a channel shuffle, a pixel shuffle and their inverses by their names.

    Before: ``Reshape [1, 2, 8, H, W] → Transpose(0, 2, 1, 3, 4) → Reshape [1, 16, H, W]``. After: ``Gather(channels)``.
    Before: ``Reshape [1, C, 2, 2, H, W] → Transpose(0, 1, 4, 2, 5, 3) → Reshape [1, C, 2·H, 2·W]``.
    After: ``DepthToSpace(CRD)``.
    """
    results = {id(t) for t in net.graph.outputs}
    for node in list(net.graph.nodes):
        found = _regrouping(node, results)
        if found is None or len(found.before) != 4 or len(found.after) != 4 or found.before[0] != 1:
            continue
        if _is_channel_shuffle(found):
            groups, channels = found.split[1:3]
            _permute_channels(net, node, found.source, np.arange(groups * channels).reshape(groups, channels))
            continue
        attrs = _depth_to_space(found)
        if attrs is not None:
            node.op, node.attrs, node.inputs = "DepthToSpace", attrs, [found.source]
        elif _is_space_to_depth(found, (0, 3, 5, 1, 2, 4)):
            node.op, node.attrs, node.inputs = "SpaceToDepth", {"blocksize": found.split[3]}, [found.source]
        elif _is_space_to_depth(found, (0, 1, 3, 5, 2, 4)):
            _unshuffle(net, node, found)
    return cleaned(net)


def _regrouping(node: gs.Node, results: set[int]) -> _Regrouping | None:
    chain = [node]
    for op in ("Reshape", "Transpose", "Reshape"):
        if chain[-1].op != op:
            return None
        producers = chain[-1].inputs[0].inputs
        if len(chain) < 3:
            alone = len(chain[-1].inputs[0].outputs) == 1 and id(chain[-1].inputs[0]) not in results
            if not producers or not alone:
                return None
            chain.append(producers[0])
    last, turn, first = chain
    shapes = [static_shape(t) for t in (first.inputs[0], first.outputs[0], last.outputs[0])]
    order = _order(turn)
    before, split, after = shapes
    if before is None or split is None or after is None or order is None:
        return None
    return _Regrouping(first.inputs[0], before, split, after, tuple(order))


def _is_channel_shuffle(found: _Regrouping) -> bool:
    rank = len(found.split)
    parted = rank >= 4 and found.split[0] == 1 and found.split[1] * found.split[2] == found.before[1]
    return parted and found.before == found.after and found.order == (0, 2, 1, *range(3, rank))


def _depth_to_space(found: _Regrouping) -> dict[str, int | str] | None:
    """Attributes of the DepthToSpace that it is, if it is one."""
    _, channels, rows, cols = found.after
    for mode, order, at in (("CRD", (0, 1, 4, 2, 5, 3), 2), ("DCR", (0, 3, 4, 1, 5, 2), 1)):
        if found.order != order:
            continue
        block = found.split[at]
        if rows % block or cols % block:
            return None
        inner = [1, channels, rows // block, cols // block]
        split = (*inner[:at], block, block, *inner[at:])
        if found.split == split and found.before == (1, channels * block**2, *inner[2:]):
            return {"blocksize": block, "mode": mode}
    return None


def _is_space_to_depth(found: _Regrouping, order: tuple[int, ...]) -> bool:
    _, channels, rows, cols = found.before
    if found.order != order:
        return False
    block = found.split[3]
    return (
        found.split == (1, channels, rows // block, block, cols // block, block)
        and found.after == (1, channels * block**2, rows // block, cols // block)
        and rows % block == cols % block == 0
    )


def _unshuffle(net: Network, node: gs.Node, found: _Regrouping) -> None:
    """PixelUnshuffle: SpaceToDepth, whose channels come in another order."""
    block, channels = found.split[3], found.before[1]
    name = network.fresh_name(net.graph, f"{node.outputs[0].name}/by_block")
    blocks = gs.Variable(name, node.outputs[0].dtype, list(found.after))
    _insert(net, node, gs.Node("SpaceToDepth", name, {"blocksize": block}, [found.source], [blocks]))
    _permute_channels(net, node, blocks, np.arange(block**2 * channels).reshape(block**2, channels))


def _permute_channels(net: Network, node: gs.Node, source: gs.Tensor, table: Array) -> None:
    """Let the node take channels of `source` in the order of the table's columns."""
    name = network.fresh_name(net.graph, f"{node.outputs[0].name}/channels")
    order = network.constant(name, table.T.reshape(-1).astype(np.int64))
    node.op, node.attrs, node.inputs = "Gather", {"axis": 1}, [source, order]


# ------------------------------------------------------------------------------------------- DepthToSpace


def _constants(name: str, numbers: dict[str, Array]) -> list[gs.Constant]:
    return [network.constant(f"{name}/{what}", array) for what, array in numbers.items()]


def _insert(net: Network, node: gs.Node, added: gs.Node) -> None:
    # list.index would compare by value
    net.graph.nodes.insert(next(i for i, other in enumerate(net.graph.nodes) if other is node), added)


# --------------------------------------------------------------------------------------------------- products


def keep_axes_of_products(net: Network) -> Network:
    """Let a Gemm of merged axes be a product that keeps them.

    Before: ``x → Reshape [197, 96] → Gemm(W, b) → Reshape [197, 1, 96]``.
    After: ``x → Reshape [197, 1, 96] → MatMul(W) → Add(b)``. Tokens and images, once merged, could not be told apart.
    """
    results = {id(t) for t in net.graph.outputs}
    for node in list(net.graph.nodes):
        last = _unmerging(node, results)
        weight = None if last is None else values(node.inputs[1])
        if last is None or weight is None:
            continue
        result, addend = last.outputs[0], network.input_or_none(node, 2)
        matrix = np.asarray(weight).T if node.attrs.get("transB", 0) else np.asarray(weight)
        shape = np.array([*(static_shape(result) or ())[:-1], matrix.shape[0]], np.int64)
        name = network.fresh_name(net.graph, f"{result.name}/kept")
        target, factor = _constants(name, {"shape": shape, "matrix": matrix})
        rows = gs.Variable(name, result.dtype, list(shape))
        last.outputs.clear()
        merged = node.inputs[0].inputs[0]
        _insert(net, node, gs.Node("Reshape", rows.name, {}, [merged.inputs[0], target], [rows]))
        product = result if addend is None else gs.Variable(f"{name}/product", result.dtype, list(result.shape))
        _insert(net, node, gs.Node("MatMul", product.name, {}, [rows, factor], [product]))
        if addend is not None:
            _insert(net, node, gs.Node("Add", result.name, {}, [product, addend], [result]))
    return cleaned(net)


def _unmerging(node: gs.Node, results: set[int]) -> gs.Node | None:
    """The Reshape behind a plain Gemm of merged axes, if it leaves the last axis and nothing else reads the Gemm."""
    plain = all(node.attrs.get(name, usual) == usual for name, usual in (("alpha", 1), ("beta", 1), ("transA", 0)))
    if node.op != "Gemm" or not plain or [p.op for p in node.inputs[0].inputs] != ["Reshape"]:
        return None
    product = node.outputs[0]
    if [c.op for c in product.outputs] != ["Reshape"] or product.outputs[0].inputs[0] is not product:
        return None
    addend = network.input_or_none(node, 2)
    before, after = static_shape(product), static_shape(product.outputs[0].outputs[0])
    if id(product) in results or before is None or after is None or len(after) < 3 or after[-1] != before[-1]:
        return None
    # one addend a row would have to be unmerged as well
    fits = addend is None or (static_shape(addend) or (2, 2))[:-1] in ((), (1,))
    return product.outputs[0] if fits else None
