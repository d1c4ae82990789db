"""Batch rules of the operators that pick, place and rearrange elements."""

import math

import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.batch_operands import (
    ALONG,
    COMPUTED,
    MIXED,
    PARAMETERS,
    Doubt,
    Operand,
    Rule,
    known_input,
    known_integers,
    only_first,
    parallel,
    result_rank,
)
from krypton_onnx.passes.network import static_shape


def _concat(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    return _joined(operands, node.attrs["axis"] % result_rank(node))


def _qlinear_concat(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    """Concat of (tensor, scale, zero point) triples, behind the result's own scale and zero point."""
    if any(o.moves for i, o in enumerate(operands) if i % 3 != 2):
        return PARAMETERS
    return _joined(operands[2::3], node.attrs["axis"] % result_rank(node))


def _joined(parts: list[Operand], along: int) -> int | Doubt:
    moving = [o for o in parts if o.moves]
    if not parallel(moving):
        return MIXED
    place, rank = moving[0].place, len(moving[0].shape or ())
    if rank + place == along:
        return ALONG
    # What is the same for all queries will be repeated for each.
    if any(not o.moves and not (o.shape is not None and o.shape[place] == moving[0].share == 1) for o in parts):
        return Doubt("it joins a constant with an extent on the batch axis")
    return rank + place


def _pad(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    moved, amounts, axes = only_first(operands), known_integers(node, 1), known_integers(node, 3)
    if moved is None or amounts is None or (axes is None and network.input_or_none(node, 3) is not None):
        return COMPUTED
    shape, axis = moved
    padded = list(range(len(shape))) if axes is None else [a % len(shape) for a in axes]
    pairs = zip(padded, amounts[: len(padded)], amounts[len(padded) :], strict=True)
    return Doubt("it pads the batch axis") if any(a == axis and (p or q) for a, p, q in pairs) else axis


def _slice(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    moved = only_first(operands)
    starts, ends, axes, steps = (known_integers(node, i) for i in (1, 2, 3, 4))
    computed = any(known_integers(node, i) is None and network.input_or_none(node, i) is not None for i in (3, 4))
    if moved is None or starts is None or ends is None or computed:
        return COMPUTED
    shape, axis = moved
    for position, along in enumerate(range(len(starts)) if axes is None else axes):
        step = 1 if steps is None else steps[position]
        if along % len(shape) == axis and not (starts[position] == 0 and ends[position] >= shape[axis] and step == 1):
            return ALONG
    return axis


def _resize(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    moved = only_first(operands)
    if moved is None or node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return COMPUTED
    shape, axis = moved
    axes = [a % len(shape) for a in node.attrs.get("axes", range(len(shape)))]
    if axis not in axes:
        return axis
    scales, sizes = known_input(node, 2), known_input(node, 3)
    if (
        sizes is not None
        and sizes.size == len(axes)
        and node.attrs.get("keep_aspect_ratio_policy") in (None, "stretch")
    ):
        kept = int(sizes[axes.index(axis)]) == shape[axis]
    elif scales is not None and scales.size == len(axes):
        kept = float(scales[axes.index(axis)]) == 1
    else:
        return COMPUTED
    return axis if kept else Doubt("it resizes the batch axis")


def _triangle(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    moved = only_first(operands)
    if moved is None:
        return COMPUTED
    shape, axis = moved
    return axis if axis < len(shape) - 2 else ALONG


def _tile(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    moved, repeats = only_first(operands), known_integers(node, 1)
    if moved is None or repeats is None:
        return COMPUTED
    return moved[1] if repeats[moved[1]] == 1 else ALONG


def _expand(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    moved, target = only_first(operands), known_integers(node, 1)
    if moved is None or target is None:
        return COMPUTED
    shape, axis = moved
    place = axis - len(shape)
    wanted = target[place] if len(target) >= -place else 1
    return result_rank(node) + place if wanted in (1, shape[axis]) else Doubt("it repeats the batch axis")


# ------------------------------------------------------------------------------------------ picking and placing


def _gather(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    data, indices = operands
    if data.shape is None or indices.shape is None or (data.moves and indices.moves):
        return Doubt("its indices are computed")
    along = int(node.attrs.get("axis", 0)) % len(data.shape)
    if data.axis is None:
        return along + (indices.axis or 0)
    if data.axis == along:
        return ALONG
    return data.axis if data.axis < along else data.axis + len(indices.shape) - 1


def _gather_elements(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    axis = _aligned(operands)
    if axis is None:
        return MIXED
    return axis if node.attrs.get("axis", 0) % result_rank(node) != axis else ALONG


def _gather_nd(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    axis = _aligned(operands)
    if axis is None:
        return MIXED
    return axis if axis < int(node.attrs.get("batch_dims", 0)) else ALONG


def _aligned(operands: list[Operand]) -> int | None:
    """The axis along which all operands are batches of the same share, counted from the front."""
    if not all(o.moves for o in operands):
        return None
    return operands[0].axis if len({(o.axis, o.share) for o in operands}) == 1 else None


def _one_hot(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    moved = only_first(operands)
    if moved is None:
        return COMPUTED
    return moved[1] + int(node.attrs.get("axis", -1) % result_rank(node) <= moved[1])


# ---------------------------------------------------------------------------------------------- moving the axes


def _transpose(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    order: list[int | None] = list(node.attrs.get("perm", range(result_rank(node) - 1, -1, -1)))
    return order.index(operands[0].axis)


def _regrouped(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    """Reshape, whose result for one image is known: elements keep their order, and so do the queries' shares.

    Before the batch axis there are as many positions in the result as in the input, so that each of them holds
    the queries' shares one after another, as before.
    """
    moved = only_first(operands)
    if moved is None:
        return COMPUTED
    shape, axis = moved
    after = static_shape(node.outputs[0]) or ()
    fitting = (a for a in range(len(after)) if math.prod(after[:a]) == math.prod(shape[:axis]))
    return next(fitting, Doubt("it merges the batch axis with one before it"))


def _unsqueezed(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    moved, added = only_first(operands), known_integers(node, 1)
    if moved is None or added is None:
        return COMPUTED
    shape, axis = moved
    if shape[axis] != 1:  # it may make the rows of a query an axis of their own
        return _regrouped(node, operands)
    return [a for a in range(result_rank(node)) if a not in {n % result_rank(node) for n in added}][axis]


def _squeezed(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    moved, removed = only_first(operands), known_integers(node, 1)
    if moved is None:
        return COMPUTED
    shape, axis = moved
    gone = {a for a, n in enumerate(shape) if n == 1} if removed is None else {n % len(shape) for n in removed}
    if axis in gone:
        return _regrouped(node, operands)
    return [a for a in range(len(shape)) if a not in gone].index(axis)


LAYOUT_RULES: dict[str, Rule] = {
    "Concat": _concat,
    "com.microsoft.QLinearConcat": _qlinear_concat,
    "Pad": _pad,
    "Slice": _slice,
    "Resize": _resize,
    "Trilu": _triangle,
    "Tile": _tile,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    "Transpose": _transpose,
    "Reshape": _regrouped,
    "Flatten": _regrouped,
    "Unsqueeze": _unsqueezed,
    "Squeeze": _squeezed,
}
"""By operator, qualified by its domain unless that is ONNX's own."""
