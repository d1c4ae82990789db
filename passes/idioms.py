"""Transforms: idioms of exporters, several nodes that mean one thing, become the node that says it."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.network import Array, Network, cleaned, static_shape, values
from krypton_onnx.passes.rearrange import transpose_order

# ------------------------------------------------------------------------------- Reshape, Transpose, Reshape


@dataclass(frozen=True, slots=True)
class _Regrouping:
    """Reshape → Transpose → Reshape, from map to map, of which nothing in between is read by others.

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
    results, taken = {id(t) for t in net.graph.outputs}, network.Names(net.graph)
    nodes: list[gs.Node] = []
    for node in net.graph.nodes:
        found = _regrouping(node, results)
        if found is not None:
            nodes += _name_regrouping(node, found, taken)
        nodes.append(node)
    net.graph.nodes = nodes
    return cleaned(net)


def _name_regrouping(node: gs.Node, found: _Regrouping, taken: network.Names) -> list[gs.Node]:
    """Let the last Reshape do at once what the three mean; the nodes that have to come before it."""
    attrs = _depth_to_space(found)
    if _is_channel_shuffle(found):
        groups, channels = found.split[1:3]
        _permute_channels(node, found.source, np.arange(groups * channels).reshape(groups, channels), taken)
    elif attrs is not None:
        node.op, node.attrs, node.inputs = "DepthToSpace", attrs, [found.source]
    elif _is_space_to_depth(found, (0, 3, 5, 1, 2, 4)):
        node.op, node.attrs, node.inputs = "SpaceToDepth", {"blocksize": found.split[3]}, [found.source]
    elif _is_space_to_depth(found, (0, 1, 3, 5, 2, 4)):
        return [_unshuffle(node, found, taken)]
    return []


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
    order = transpose_order(turn)
    before, split, after = shapes
    if before is None or split is None or after is None or order is None:
        return None
    if len(before) != 4 or len(after) != 4 or before[0] != 1:
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


def _unshuffle(node: gs.Node, found: _Regrouping, taken: network.Names) -> gs.Node:
    """Let the node be a PixelUnshuffle: a SpaceToDepth, which is returned, and its channels in another order."""
    block, channels = found.split[3], found.before[1]
    name = taken.fresh(f"{node.outputs[0].name}/by_block")
    blocks = gs.Variable(name, node.outputs[0].dtype, list(found.after))
    _permute_channels(node, blocks, np.arange(block**2 * channels).reshape(block**2, channels), taken)
    return gs.Node("SpaceToDepth", name, {"blocksize": block}, [found.source], [blocks])


def _permute_channels(node: gs.Node, source: gs.Tensor, table: Array, taken: network.Names) -> None:
    """Let the node take channels of `source` in the order of the table's columns."""
    name = taken.fresh(f"{node.outputs[0].name}/channels")
    order = network.constant(name, table.T.reshape(-1).astype(np.int64))
    node.op, node.attrs, node.inputs = "Gather", {"axis": 1}, [source, order]


# ---------------------------------------------------------------------------------------------------- repeats


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
    return cleaned(net)


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


# --------------------------------------------------------------------------------------------------- products


def keep_axes_of_products(net: Network) -> Network:
    """Let a Gemm of merged axes be a product that keeps them.

    Before: ``x → Reshape [197, 96] → Gemm(W, b) → Reshape [197, 1, 96]``.
    After: ``x → Reshape [197, 1, 96] → MatMul(W) → Add(b)``. Tokens and images, once merged, could not be told apart.
    """
    results, taken = {id(t) for t in net.graph.outputs}, network.Names(net.graph)
    nodes: list[gs.Node] = []
    for node in net.graph.nodes:
        last = _unmerging(node, results)
        weight = None if last is None else values(node.inputs[1])
        nodes += [node] if last is None or weight is None else _kept_product(node, last, np.asarray(weight), taken)
    net.graph.nodes = nodes
    return cleaned(net)


def _kept_product(gemm: gs.Node, last: gs.Node, weight: Array, taken: network.Names) -> list[gs.Node]:
    """What replaces a Gemm and the Reshapes around it, of which the last loses its result here."""
    merged, result, addend = gemm.inputs[0].inputs[0], last.outputs[0], network.input_or_none(gemm, 2)
    matrix = weight.T if gemm.attrs.get("transB", 0) else weight
    shape = [*(static_shape(result) or ())[:-1], matrix.shape[0]]
    name = taken.fresh(f"{result.name}/kept")
    rows = gs.Variable(name, result.dtype, shape)
    target = network.constant(taken.fresh(f"{name}/shape"), np.array(shape, np.int64))
    factor = network.constant(taken.fresh(f"{name}/matrix"), matrix)
    last.outputs.clear()
    gemm.outputs.clear()
    reshape = gs.Node("Reshape", rows.name, {}, [merged.inputs[0], target], [rows])
    if addend is None:
        return [reshape, gs.Node("MatMul", result.name, {}, [rows, factor], [result])]
    product = gs.Variable(taken.fresh(f"{name}/product"), result.dtype, list(result.shape))
    return [
        reshape,
        gs.Node("MatMul", product.name, {}, [rows, factor], [product]),
        gs.Node("Add", result.name, {}, [product, addend], [result]),
    ]


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
